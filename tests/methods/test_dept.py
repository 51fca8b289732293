"""DePT equals its formula, [P; E(x) + A B], written out row by row; answers get nothing, taught or written."""

from pathlib import Path

import families
import pytest
import tiny_runs
import torch
from families import H, P, T, V, answer, backbone, batch, real, start
from tokenizers_tiny import words
from torch import Tensor
from torch.testing import assert_close

import softprompt
from softprompt.artifact import Artifact
from softprompt.backbones import wrap
from softprompt.core import TEXT, Batch, Example, Spec, Start
from softprompt.errors import DataError, RecipeError, Unsupported
from softprompt.generate import begin
from softprompt.heads import LanguageModel
from softprompt.methods.dept import DePT
from softprompt.plan import make_plan
from softprompt.prompt import Prompt, Task
from softprompt.template import Template
from softprompt.untrained import build

BASE = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)


def made(name: str = "llama", tokens: int = 16, **options: float) -> DePT:
    """Away from where it began."""
    torch.manual_seed(0)
    frozen = backbone(name)
    method = DePT(frozen.spec, start(frozen), rank=3, tokens=tokens, **options)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return method


def table(method: DePT) -> Tensor:
    return (method.places @ method.changes).detach()


def offset(method: DePT, data: Batch) -> Tensor:
    given = method(data, torch.zeros(0)).offset
    assert given is not None
    return given.detach()


def changed(method: DePT, data: Batch, embedded: Tensor) -> Tensor:
    """The embeddings [B, T, H] that the paper's model reads, token by token."""
    result, rows = embedded.clone(), table(method)
    for b in range(len(data)):
        seen = 0
        for t in range(data.input_ids.shape[1]):
            if data.slots[b, t] != TEXT:
                result[b, t] = method.short[data.slots[b, t]]
            elif data.mask[b, t]:
                result[b, t] += rows[seen]
                seen += 1
    return result


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "bart"])
@torch.no_grad()
def test_the_model_reads_what_the_formula_says(name: str) -> None:
    frozen, data, method = backbone(name), batch(name, slots=P), made(name)
    given = answer(frozen, data, method(data, frozen.tokens(data.input_ids)))
    embedded = changed(method, data, frozen.tokens(data.input_ids))
    decoder = {} if data.decoder is None else {"decoder_input_ids": data.decoder.input_ids}
    wanted = frozen.model(inputs_embeds=embedded, attention_mask=data.mask.long(), **decoder).logits
    assert_close(given[real(data)], wanted[real(data)], atol=1e-5, rtol=1e-5)
    without = answer(frozen, data, DePT(frozen.spec, Start(method.short.detach()))(data, torch.zeros(0)))
    assert (given - without)[real(data)].abs().max() > 0.01  # the change of the embeddings is heard


def test_positions_count_text_alone_so_the_side_of_the_padding_does_not_matter() -> None:
    method = made()
    right, left = (batch("llama", slots=P, left=left) for left in (False, True))
    ours, theirs = (offset(method, data)[data.question] for data in (right, left))
    assert_close(ours, theirs)
    assert_close(ours[:T], table(method)[:T])
    assert offset(method, left)[~left.question].eq(0).all()


def test_an_answer_gets_nothing() -> None:
    method, data = made(), batch("llama", slots=P)
    taught = torch.zeros_like(data.mask)
    taught[0, -3:] = True
    whole = Batch(data.input_ids, data.mask, data.slots, answer=taught)
    assert offset(method, whole)[0, -3:].eq(0).all()
    assert_close(offset(method, whole)[0, :-3], offset(method, data)[0, :-3])


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@torch.no_grad()
def test_a_taught_answer_is_read_as_a_written_one(name: str) -> None:
    """Step by step through the cache, and at once as in training: the same logits."""
    frozen = wrap(families.model(name), words(), name)
    template = Template("{soft}{text}", frozen, length=P)
    prompt = Prompt(frozen, made(name), LanguageModel(), template, Task("generation")).eval()
    for text in ("w7 w9 w20", "w50 w51 w52 w60 w61 w62"):
        example = Example({"text": text}, "w11 w30 w14 w40")
        ids = prompt.written_out(example)
        stream, _ = begin(prompt, [prompt.row(example, labelled=False)], len(ids))
        steps = [stream.logits[0]]
        for token in ids:
            stream.feed(torch.tensor([token]))
            steps.append(stream.logits[0])
        taught = prompt(prompt.batch([prompt.row(example)])).logits
        assert taught is not None
        assert_close(torch.stack(steps), taught[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "rank", "tokens"), [(40, 45, 256), (60, 30, 256), (80, 15, 256), (60, 24, 512)])
def test_it_has_as_many_parameters_as_a_prompt_of_a_hundred_vectors(length: int, rank: int, tokens: int) -> None:
    """The paper's m*d + r(s + d), for T5-base; the factors are stored, which are smaller than the table."""
    method = DePT(BASE, Start(torch.zeros(length, 768)), rank=rank, tokens=tokens)
    count = sum(p.numel() for p in method.fold().parameters())
    assert count == length * 768 + rank * (tokens + 768) == 76_800
    assert count < length * 768 + tokens * 768


def test_it_begins_by_changing_no_embedding() -> None:
    method = DePT(backbone("llama").spec, start(backbone("llama")))
    assert offset(method, batch("llama", slots=P)).eq(0).all()


def test_prompt_and_pair_have_rates_of_their_own() -> None:
    spec = backbone("llama").spec
    units = [group.unit for group in made(pair_rate=0.25).groups()]
    assert units == pytest.approx([spec.rms, 0.25 * 9**-0.5, 0.25 * spec.rms])


def test_a_text_longer_than_the_table_is_refused_and_one_as_long_is_not() -> None:
    data = batch("llama", slots=P)  # T tokens beside the slots
    assert offset(made(tokens=T), data).shape == (3, P + T, H)
    with pytest.raises(DataError, match=rf"SP-E134 found a text of {T} tokens; expected at most {T - 1}"):
        made(tokens=T - 1)(data, torch.zeros(0))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_run_cuts_texts_that_are_longer_than_the_table(name: str, tmp_path: Path) -> None:
    """Those of the user and those of the canaries; to refuse them instead is the template's own setting."""
    model, tokens, notes = tiny_runs.open_model(tmp_path, name), 8, list[str]()
    settings = ["method.name=dept", f"method.options={{rank: 2, tokens: {tokens}}}", "train.epochs=1"]
    result = softprompt.train(
        tiny_runs.recipe(tmp_path, *settings, model=name),
        model=model,
        run_folder=tmp_path / "run",
        listen=lambda e: notes.append(e["text"]) if e["event"] == "note" else None,
    )
    long = Example({"text": " ".join(f"w{i}" for i in range(10, 40))})
    row = result.prompt.row(long, labelled=False)
    assert row.cut > 0
    assert sum(slot == TEXT for slot in row.slots) == tokens
    assert any("too long and were cut" in text for text in notes)
    served = Artifact.load(result.artifact).bind(tiny_runs.open_model(tmp_path, name))
    assert served.predict([long])[0].scores == pytest.approx(result.prompt.predict([long])[0].scores, abs=1e-5)
    refusing = tiny_runs.recipe(tmp_path, *settings, "task.truncate=error", model=name)
    with pytest.raises(DataError, match=rf"SP-E104.*at most {tokens + P}"):
        build(make_plan(refusing, model), model).row(long, labelled=False)


def test_a_limit_of_the_task_that_is_lower_stays(tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path)
    limits = [
        build(make_plan(tiny_runs.recipe(tmp_path, "method.name=dept", *settings), model), model).template.limit
        for settings in (["method.options={tokens: 40}"], ["method.options={tokens: 40}", "task.max_tokens=20"])
    ]
    assert limits == [40 + P, 20]


def test_a_stored_one_starts_no_other_run_since_its_table_would_be_lost(tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path)
    options = "method.options={rank: 4, tokens: 32}"
    made = tiny_runs.recipe(tmp_path, "method.name=dept", options, "train.steps=1")
    stored = softprompt.train(made, model=model, run_folder=tmp_path / "run").artifact
    for other in (["method.name=prompt_tuning"], ["method.name=dept", options], ["method.name=prefix"]):
        plan = make_plan(tiny_runs.recipe(tmp_path, *other, f"init.source={stored}"), model)
        with pytest.raises(RecipeError, match=r"SP-E231 found changes, places, short in"):
            build(plan, model)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": H + 1}, "rank"),
        ({"rank": 9, "tokens": 8}, "rank=9"),
        ({"pair_rate": 0.0}, "pair"),
    ],
)
def test_options_that_no_table_can_have_are_refused(options: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DePT(backbone("llama").spec, start(backbone("llama")), **options)  # type: ignore[arg-type]


def test_images_are_refused() -> None:
    with pytest.raises(Unsupported, match="SP-E410"):
        DePT(backbone("vit").spec, start(backbone("vit")))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_it_trains_and_what_is_saved_answers_the_same(name: str, tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path, name)
    losses: list[float] = []
    settings = ["method.name=dept", "method.options={rank: 4, tokens: 32}", "train.epochs=8"]
    result = softprompt.train(
        tiny_runs.recipe(tmp_path, *settings, model=name),
        model=model,
        run_folder=tmp_path / "run",
        listen=lambda e: losses.append(e["loss"]) if e["event"] == "step" else None,
    )
    assert sum(losses[-5:]) < sum(losses[:5])
    loaded = Artifact.load(result.artifact)
    assert (loaded.card.method.name, loaded.card.method.options["tokens"]) == ("dept", 32)
    rows = loaded.tensors["method.places"] @ loaded.tensors["method.changes"]
    assert rows[0].abs().max() > 0
    assert not rows[0].equal(rows[1])
    assert_close(rows[24:], rows[-1:].expand(8, -1))  # never seen in training: what all positions have in common
    examples = [Example({"text": text}) for text in ("w12 w30 w31", "w70 w51 w60 w61", "w40")]
    served = loaded.bind(tiny_runs.open_model(tmp_path, name)).predict(examples)
    for ours, theirs in zip(served, result.prompt.predict(examples), strict=True):
        assert ours.answer == theirs.answer
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)
    assert int(loaded.tensors["method.short"].shape[0]) == P < V
