"""States below the layer where a prompt enters: computed once, and the same loss and gradient as without."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import speakers
import tiny_runs
import torch
import transformers as tf
from families import CAUSAL, ENCODERS
from torch import Tensor

from softprompt import frozen
from softprompt.backbones import wrap
from softprompt.core import Below, Injection, Row
from softprompt.engine import Measured, measured
from softprompt.errors import RecipeError, SoftpromptError, Unsupported
from softprompt.frozen import remember
from softprompt.methods import find
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.training import resume, train

LAST = {"layers": "2"}  # of three
HEADS = ["verbalizer", "lm", "classifier", "regressor", "tagger"]


def gap(ours: Tensor, right: Tensor) -> float:
    return ((ours - right).norm() / right.norm()).item()


def agree(found: Measured, right: Measured, limit: float = 2e-6) -> None:
    assert right[1].norm() > 0
    assert gap(found[0], right[0]) <= limit
    assert gap(found[1], right[1]) <= limit


def above(family: str, head: str = "verbalizer", options: dict[str, Any] = LAST, **more: Any) -> Prompt:
    """A prompt that enters at upper layers only."""
    return speakers.prompt(family, "prefix", head, options=options, **more)


def shorter() -> Prompt:
    """The same with a prefix of three places, after which the text has other positions."""
    prompt = above("llama")
    prompt.method = find("prefix")(prompt.backbone.spec, families.start(prompt.backbone, 3), **LAST)
    return prompt


def rows_of(prompt: Prompt, head: str = "verbalizer", family: str = "llama") -> list[Row]:
    return [prompt.row(example) for example in speakers.examples(head, family)]


def kept(prompt: Prompt, rows: list[Row], place: Path, said: list[str] | None = None, **train: Any) -> list[Row]:
    """The rows as training gets them, and what was said about it."""
    recipe = make_recipe({"task": {"template": "t"}, "train": {"cache": "memory", "batch_size": 2} | train})
    plan = Plan(recipe, [], [], [], (), {"train": "data"})
    return remember(prompt, plan, rows, place, lambda event: (said if said is not None else []).append(event["text"]))


def states(rows: list[Row]) -> list[Tensor]:
    assert all(row.below is not None for row in rows)
    return [row.below.states for row in rows if row.below is not None]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("family", "packs"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("bert", False)]
)
def test_loss_and_gradient_are_those_without(family: str, packs: bool, head: str, tmp_path: Path) -> None:
    if (family, head) == ("bert", "lm"):
        pytest.skip("encoders write nothing")
    prompt = above(family, head)
    prompt.packs = packs
    rows = rows_of(prompt, head, family)
    assert (prompt.batch(rows).packing is not None) == packs
    agree(measured(prompt, kept(prompt, rows, tmp_path), packs), measured(prompt, rows, packs))


@pytest.mark.parametrize("family", CAUSAL + ENCODERS)
@pytest.mark.parametrize("layer", [1, 2])
def test_every_family_starts_from_any_layer(family: str, layer: int) -> None:
    frozen_model, data = families.backbone(family), families.batch(family)
    pairs = families.prefix(frozen_model)
    given = Injection(prefix=(*[None] * layer, *pairs[layer:]))
    below = Below(frozen_model.below(data, layer, families.P), layer, families.P)
    answers = [families.answer(frozen_model, batch, given) for batch in (replace(data, below=below), data)]
    grads = [torch.autograd.grad(answer[families.real(data)].square().sum(), pairs[layer]) for answer in answers]
    assert all(gap(ours, right) <= 2e-6 for ours, right in zip(*grads, strict=True))
    assert gap(*(answer[families.real(data)] for answer in answers)) <= 2e-6


def test_the_layers_below_are_not_run(tmp_path: Path) -> None:
    backbone = speakers.fresh("llama")
    prompt = above("llama", backbone=backbone)
    rows = kept(prompt, rows_of(prompt), tmp_path)
    ran: list[int] = []
    for number, layer in enumerate(backbone.model.model.layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    for packs in (False, True):
        measured(prompt, rows, packs)
    assert ran == [2, 2]


def test_sliding_windows_above_are_kept(tmp_path: Path) -> None:
    sizes = families.GROUPED | {"vocab_size": len(speakers.sentencepiece()), "pad_token_id": 0}
    windows = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
    made = tf.Qwen2ForCausalLM(tf.Qwen2Config(**sizes, **windows)).eval()
    backbone = wrap(made, speakers.sentencepiece(), "windows")
    assert backbone.windowed(2) == 1
    prompt = above("llama", backbone=backbone)
    rows = rows_of(prompt)
    cached = kept(prompt, rows, tmp_path)
    for packs in (False, True):
        agree(measured(prompt, cached, packs), measured(prompt, rows, packs=False))


def test_layers_that_are_run_again_in_the_backward_pass_give_the_same(tmp_path: Path) -> None:
    backbone = speakers.fresh("llama")
    prompt = above("llama", backbone=backbone)
    rows = rows_of(prompt)
    cached = kept(prompt, rows, tmp_path)
    backbone.recompute(True)
    agree(measured(prompt, cached, packs=True), measured(prompt, rows, packs=True))


def test_what_enters_at_the_first_layer_keeps_nothing(tmp_path: Path) -> None:
    for prompt in (speakers.prompt("llama"), above("llama", options={}), above("llama", options={"layers": "0-1"})):
        said: list[str] = []
        assert all(row.below is None for row in kept(prompt, rows_of(prompt), tmp_path, said))
        assert said == ["no states are kept: the prompt enters at the first layer"]
        assert kept(prompt, rows_of(prompt), tmp_path, said, cache="auto", epochs=9)[0].below is None
        assert len(said) == 1  # nothing was asked for, and nothing is amiss


def test_models_that_cannot_be_divided_say_so(tmp_path: Path) -> None:
    prompt = above("vit", "classifier")
    said: list[str] = []
    rows = rows_of(prompt, "classifier", "vit")
    assert kept(prompt, rows, tmp_path, said) == rows
    assert said == ["no states are kept: only language models of one stack run their upper layers alone"]


def test_auto_keeps_states_where_they_come_back(tmp_path: Path) -> None:
    prompt = above("llama")
    rows, said = rows_of(prompt), list[str]()
    plan = Plan(make_recipe({"train": {"epochs": 1, "batch_size": 2}}), [], [], [], (), {})
    plan = replace(plan, train=speakers.examples("verbalizer"))
    assert remember(prompt, plan, rows, tmp_path, lambda event: said.append(event["text"])) == rows
    assert not said
    twice = make_recipe({"train": {"epochs": 2, "batch_size": 2}})
    states(remember(prompt, replace(plan, recipe=twice), rows, tmp_path, lambda event: said.append(event["text"])))
    assert len(said) == 1


def test_the_size_is_announced_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = above("llama")
    rows, said = rows_of(prompt), list[str]()
    tokens = sum(len(row.ids) for row in rows)
    size = tokens * families.H * 4
    expected = f"states below layer 2 ({tokens} tokens, {size:,} bytes)"
    monkeypatch.setattr(frozen, "in_memory", lambda *given: pytest.fail("computed") if not said else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kept(prompt, rows, tmp_path, said)
    assert said == [f"{expected} are computed once and kept in memory"]
    monkeypatch.undo()
    said.clear()
    assert kept(prompt, rows, tmp_path, said, cache_bytes=size - 1) == rows
    assert said == [f"{expected} are not kept: more than train.cache_bytes={size - 1}"]
    assert kept(prompt, rows, tmp_path, said, cache="none") == rows
    states(kept(prompt, rows, tmp_path, cache_bytes=size))


def test_a_file_is_used_again_by_later_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = above("llama")
    rows, said, folder = rows_of(prompt), list[str](), {"cache": "file", "cache_folder": str(tmp_path / "shared")}
    first = states(kept(prompt, rows, tmp_path / "a", said, **folder))
    (path,) = (tmp_path / "shared").iterdir()
    assert path.stat().st_size == sum(part.numel() * 4 for part in first) + frozen.SEAL
    assert [text.replace(str(path), "FILE").split(" (")[0] for text in said] == ["FILE is new", "states below layer 2"]
    monkeypatch.setattr(frozen, "computed", lambda *given: pytest.fail("computed again"))
    again = states(kept(above("llama"), rows, tmp_path / "b", said, **folder))
    assert all(ours.equal(right) for ours, right in zip(again, first, strict=True))
    assert said[-1].endswith(f"are read from {path}")
    monkeypatch.undo()
    assert all(a.equal(b) for a, b in zip(states(kept(prompt, rows, tmp_path)), first, strict=True))


def test_what_is_read_is_not_what_another_prompt_or_other_data_need(tmp_path: Path) -> None:
    """Every one of them gets a file of its own."""
    prompt, folder = above("llama"), {"cache": "file", "cache_folder": str(tmp_path / "shared")}
    rows = rows_of(prompt)
    other = above("llama", backbone=speakers.fresh("llama", seed=8))
    deeper = above("llama", options={"layers": "1-2"})
    changed = [replace(rows[0], ids=[*rows[0].ids[:-1], 9]), *rows[1:]]
    cases = [(prompt, rows), (other, rows), (deeper, rows), (shorter(), rows), (prompt, changed)]
    for count, (made, given) in enumerate(cases, 1):
        cached = kept(made, given, tmp_path, **folder)
        assert len(list((tmp_path / "shared").iterdir())) == count
        agree(measured(made, cached, packs=False), measured(made, given, packs=False))
    plan = Plan(make_recipe({}), [], [], [], (), {"train": "data"})
    shape = frozen.planned(prompt, rows)
    assert isinstance(shape, frozen.Shape)
    template = replace(plan, recipe=make_recipe({"task": {"template": "{text} other"}}))
    keys = {frozen.key(prompt, p, rows, shape) for p in (plan, template, replace(plan, sha256={"train": "more"}))}
    assert len(keys) == 3


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "states":
        data[100] ^= 1
    if how == "another key":
        data[-frozen.SEAL] ^= 1
    if how == "seal":
        data[-1] ^= 1
    path.write_bytes(bytes(data[:-10] if how == "cut off" else data + b"more" if how == "longer" else data))


@pytest.mark.parametrize("how", ["states", "another key", "seal", "cut off", "longer", "empty"])
def test_a_file_that_is_not_right_is_made_again(how: str, tmp_path: Path) -> None:
    prompt, said = above("llama"), list[str]()
    rows = rows_of(prompt)
    first = states(kept(prompt, rows, tmp_path, cache="file"))
    (path,) = (tmp_path / "cache").iterdir()
    right, wanted = path.read_bytes(), [part.clone() for part in first]
    if how == "empty":
        path.write_bytes(b"")
    else:
        spoil(path, how)
    assert path.read_bytes() != right
    again = states(kept(prompt, rows, tmp_path, said, cache="file"))
    assert f"{path} is not used and is made again: " in said[0]
    assert path.read_bytes() == right
    assert all(ours.equal(theirs) for ours, theirs in zip(again, wanted, strict=True))


def test_a_folder_without_a_file_in_it_is_not_ignored() -> None:
    with pytest.raises(RecipeError, match="SP-E204"):
        make_recipe({"train": {"cache_folder": "shared"}})
    assert make_recipe({"train": {"cache": "file", "cache_folder": "shared"}}).train.cache_folder == "shared"


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    prompt = above("llama")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SoftpromptError, match="SP-E501"):
        kept(prompt, rows_of(prompt), tmp_path, cache="file", cache_folder=str(tmp_path / "file"))


def test_a_write_that_fails_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = above("llama")

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen.os, "fsync", full)
    with pytest.raises(SoftpromptError, match="no space left"):
        kept(prompt, rows_of(prompt), tmp_path, cache="file")
    assert list((tmp_path / "cache").iterdir()) == []


def test_states_that_are_wrong_are_noticed_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, said = above("llama"), list[str]()
    rows, compute = rows_of(prompt), frozen.computed
    monkeypatch.setattr(frozen, "computed", lambda *given: (part + 0.1 for part in compute(*given)))
    assert kept(prompt, rows, tmp_path, said) == rows
    assert "are not used: the loss of this model would be off by" in said[-1]


def test_a_prompt_that_enters_below_its_states_is_refused(tmp_path: Path) -> None:
    prompt = above("llama")
    cached = kept(prompt, rows_of(prompt), tmp_path)
    for other in (above("llama", options={"layers": "1-2"}), speakers.prompt("llama", "prefix")):
        for packs in (False, True):
            with pytest.raises(Unsupported, match="SP-E424"):
                measured(other, cached, packs)
    with pytest.raises(Unsupported, match="a prefix of 3 places, not of 4"):
        measured(shorter(), cached, packs=False)


def test_the_trial_leaves_no_trace(tmp_path: Path) -> None:
    prompt = above("llama", options=LAST | {"dropout": 0.3}).train()
    rows, before = rows_of(prompt), {name: value.clone() for name, value in prompt.state_dict().items()}
    prompt.packs, state = True, torch.get_rng_state()
    kept(prompt, rows, tmp_path)
    assert prompt.packs
    assert prompt.training
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in prompt.state_dict().items())


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_a_run_ends_where_one_without_ends(model: str, tmp_path: Path) -> None:
    backbone = tiny_runs.open_model(tmp_path, model)
    settings = ["method.name=prefix", "method.options={layers: 2}", "task.head=classifier"]
    ends, notes = {}, list[str]()
    for cache in ("auto", "none", "file"):
        made = tiny_runs.recipe(tmp_path, *settings, f"train.cache={cache}", model=model)
        result = train(made, tmp_path / cache, backbone=backbone, listen=lambda event: note(event, notes))
        ends[cache] = result.prompt.state_dict()["method.stacks.encoder.prefix"]
    torch.testing.assert_close(ends["auto"], ends["none"], atol=1e-5, rtol=1e-3)
    assert ends["file"].equal(ends["auto"])
    assert len([text for text in notes if "computed once" in text]) == 2


def note(event: dict[str, Any], notes: list[str]) -> None:
    if event["event"] == "note":
        notes.append(event["text"])


def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path: Path) -> None:
    backbone = tiny_runs.open_model(tmp_path)
    options = ["method.name=prefix", "method.options={layers: 2, dropout: 0.2}", "train.epochs=4"]
    made = tiny_runs.recipe(tmp_path, *options, "train.accumulate=2", "train.cache=file")
    whole = train(made, tmp_path / "whole", backbone=backbone).artifact.read_bytes()

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "part", backbone=backbone, listen=stop)
    assert resume(tmp_path / "part", backbone=backbone).artifact.read_bytes() == whole
    part, log = ((tmp_path / name / "log.jsonl").read_text() for name in ("part", "whole"))
    assert part == log
