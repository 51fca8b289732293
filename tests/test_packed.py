"""A batch as one row: the loss and the gradient of padded rows, exactly, or the plain way and a word about it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import pytest
import speakers
import tiny_runs
import torch
import transformers as tf
from families import CAUSAL, GROUPED, H, P, backbone, start
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from softprompt import packed
from softprompt.backbones import Backbone, wrap
from softprompt.collate import collate, pack
from softprompt.core import IGNORE, TEXT, Batch, Injection, Row
from softprompt.engine import choose
from softprompt.errors import Unsupported
from softprompt.heads import LanguageModel, columns
from softprompt.methods import Method, find, names
from softprompt.packed import Packed
from softprompt.prompt import Prompt
from softprompt.training import train

RAGGED = (11, 7, 3, 9)
Graded = tuple[Tensor, Tensor]


def rows(lengths: tuple[int, ...], slots: int, front: int = 0, labels: int = 2) -> Batch:
    """Rows of `front` common tokens, `slots` places for a prompt and then text; labels on the last tokens."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for length in lengths:
        text = torch.randint(5, families.V, (length,), generator=generator).tolist()
        ids = [7] * (front + slots) + text
        marked = [IGNORE] * (len(ids) - labels) + text[-labels:]
        made.append(Row(ids, [TEXT] * front + [*range(slots)] + [TEXT] * length, marked[-len(ids) :]))
    return collate(made)


def gap(ours: Tensor, right: Tensor) -> float:
    return ((ours - right).norm() / right.norm().clamp(min=1e-30)).item()


def both(frozen: Backbone, data: Batch, method: Method) -> tuple[Graded, Graded]:
    """Loss and gradient of the method's numbers: packed, and plain."""
    head, weights = LanguageModel(), list(method.parameters())
    one_row = replace(data, packing=pack(data))

    def graded(loss: Tensor) -> Graded:
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        flat = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
        return loss.detach(), torch.cat([g.flatten() for g in flat])

    torch.manual_seed(0)
    given = method(one_row, frozen.tokens(data.input_ids))
    if why := frozen.unpackable(one_row, given):
        pytest.skip(why)
    assert one_row.packing is not None
    ours = head.loss(frozen.packed(one_row, given, logits=True), replace(data, labels=one_row.packing.labels))
    found = graded(ours)
    torch.manual_seed(0)
    given = method(data, frozen.tokens(data.input_ids))
    return found, graded(head.loss(frozen(data, given, columns=columns(data)), data))


def untrained(name: str, frozen: Backbone) -> Method:
    """A method a little away from where it begins, so that no gradient is zero by construction."""
    torch.manual_seed(0)
    try:
        method = find(name)(frozen.spec, start(frozen)).train()
    except (Unsupported, ValueError, TypeError) as refusal:
        pytest.skip(str(refusal))
    with torch.no_grad():
        for group in method.groups():
            for weight in group.parameters:
                weight.add_(torch.randn_like(weight) * 0.3 * group.unit)
    return method


def agree(frozen: Backbone, data: Batch, method: Method, limit: float = 3e-6) -> None:
    (loss, grad), (right, right_grad) = both(frozen, data, method)
    assert gap(loss, right) <= limit
    assert gap(grad, right_grad) <= limit
    assert right_grad.norm() > 0


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("name", names())
def test_loss_and_gradient_are_those_of_padded_rows(name: str, family: str) -> None:
    frozen = backbone(family)
    if find(name).slots is False and "prefix" in frozen.unsupported:
        pytest.skip("no prefix here")
    method = untrained(name, frozen)
    network = any(isinstance(part, nn.Linear | nn.LSTM) for part in method.modules())
    limit = 1e-5 if network else 3e-6  # a network between prompt and loss magnifies rounding
    if sum(weight.numel() for weight in method.parameters()) < H:  # so does a sum over a whole vector: less of it then
        frozen, method = families.fresh(family, torch.float64), method.double()
    agree(frozen, rows(RAGGED, method.length if method.slots else 0, front=1), method, limit)


def test_the_methods_that_everybody_uses_are_packed_and_routed_ones_are_not() -> None:
    """So that the test above cannot pass by skipping."""
    frozen, found = backbone("llama"), {}
    for name in ("prompt_tuning", "prefix", "p_tuning"):
        method = untrained(name, frozen)
        data = rows(RAGGED, method.length if method.slots else 0)
        data = replace(data, packing=pack(data))
        found[name] = frozen.unpackable(data, method(data, frozen.tokens(data.input_ids)))
    assert set(found.values()) == {""}
    by_row = Injection(embeds=torch.randn(len(RAGGED), P, H))
    assert "depends on the row" in frozen.unpackable(data, by_row)


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix", "rounded"])
def test_in_float64_both_ways_are_equal(name: str) -> None:
    frozen = families.fresh("gpt2", torch.float64)
    method = untrained(name, backbone("gpt2")).double()
    (loss, grad), (right, right_grad) = both(frozen, rows(RAGGED, P if method.slots else 0), method)
    assert gap(grad, right_grad) <= 1e-12
    assert gap(loss, right) <= 1e-6  # heads compute losses in float32


LEFT_OVER = {
    "two rows": (5, 5),
    "one token each": (2, 2, 2),
    "one long row": (50, 3, 4),
    "many short ones": tuple(range(2, 26)),
}


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("front", [0, 3])
@pytest.mark.parametrize("lengths", LEFT_OVER.values(), ids=LEFT_OVER)
def test_rows_of_any_shape(lengths: tuple[int, ...], front: int, name: str) -> None:
    method = untrained(name, backbone("llama"))
    agree(backbone("llama"), rows(lengths, P if method.slots else 0, front, labels=1), method)


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
def test_equal_rows_and_rows_without_a_text(name: str) -> None:
    """The whole of a row may stand in front of another; its labels and its last token stay its own."""
    method = untrained(name, backbone("llama"))
    slots = P if method.slots else 0
    row = Row([7] * slots + [9, 8, 11], [*range(slots), TEXT, TEXT, TEXT], [IGNORE] * slots + [IGNORE, 12, 13])
    empty = Row([*row.ids[:-2]], [*row.slots[:-2]], [IGNORE] * slots + [14])
    for data in (collate([row, row, row]), collate([row, empty, row])):
        agree(backbone("llama"), data, method)


def tiny(kind: str, **more: Any) -> Backbone:
    """A model of a family with other settings."""
    torch.manual_seed(7)
    sizes = GROUPED | {"pad_token_id": 0} | more
    model = getattr(tf, f"{kind}ForCausalLM")(getattr(tf, f"{kind.removesuffix('_')}Config")(**sizes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
    return wrap(model, None, kind)


WINDOWED = {
    "all layers": lambda: tiny("Mistral", sliding_window=6),
    "some layers": lambda: tiny("Qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1),
}


@pytest.mark.parametrize("chunk", [8, 1024])
@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("window", WINDOWED)
def test_sliding_windows_are_kept(window: str, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "CHUNK", chunk)
    frozen = WINDOWED[window]()
    if name in frozen.unsupported:
        pytest.skip(frozen.unsupported[name])
    method = untrained(name, frozen)
    for front in (0, 2):
        agree(frozen, rows((17, 4, 12, 9), P if method.slots else 0, front), method)


def test_products_with_masks_are_the_same_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other devices than the CPU run."""
    attend = Packed.masked
    calls = []
    monkeypatch.setattr(packed.Shared, "apply", lambda q, k, v, pk, pv, packing, scale: calls.append(1) or None)
    monkeypatch.setattr(packed, "CHUNK", 12)

    def masked(
        self: Packed, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **more: Any
    ) -> Any:
        self.asked[id(module)] = more.get("sliding_window")
        return attend(self, query, key, value, self.pairs[id(module)], more["scaling"], None, more.get("at"))

    monkeypatch.setattr(Packed, "attend", masked)
    for name in ("prompt_tuning", "prefix"):
        for front in (0, 2):
            method = untrained(name, backbone("llama"))
            agree(backbone("llama"), rows(RAGGED, P if method.slots else 0, front), method)
    assert not calls


TEMPLATES = ["{soft}{text} It is {mask}", "{bos}{soft}{text} It is {mask}", "{text}{soft} It is {mask}"]
WORDS = {"good": "warm and funny", "bad": "dull"}
HEADS: list[tuple[str, dict[str, Any]]] = [
    *[("verbalizer", {"template": template}) for template in TEMPLATES],
    ("verbalizer", {"template": TEMPLATES[0], "words": WORDS}),
    *[("lm", {"template": template}) for template in TEMPLATES],
    *[("classifier", {"pool": pool}) for pool in ("mean", "cls", "last")],
    ("classifier", {"template": "A film : {soft}{text}"}),
    ("regressor", {}),
    ("tagger", {}),
]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("head", "task"), HEADS, ids=str)
def test_every_head_and_template_reads_the_same_from_one_row(head: str, task: dict[str, Any], family: str) -> None:
    prompt = speakers.prompt(family, head=head, task=task)
    made = [prompt.row(example) for example in speakers.examples(head, family)]
    weights = list(prompt.parameters())
    answers = []
    for prompt.packs in (False, True):
        batch = prompt.batch(made)
        assert (batch.packing is not None) == prompt.packs
        loss = prompt.loss(batch)
        answers.append([loss.detach(), *torch.autograd.grad(loss, weights)])
    for plain, ours in zip(*answers, strict=True):
        assert gap(ours, plain) <= 2e-5  # a row of four words has gradients of many cancelling parts


def test_a_penalty_counts_as_in_padded_rows() -> None:
    prompt = speakers.prompt("llama")
    made = [prompt.row(example) for example in speakers.examples("verbalizer")]
    inject, losses = prompt.inject, []
    prompt.inject = lambda batch: replace(inject(batch), penalty=torch.tensor(2.0))  # type: ignore[method-assign]
    for prompt.packs in (False, True):
        losses.append(prompt.loss(prompt.batch(made)).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_token_stands_once_in_the_row_and_finds_its_way_home(data: Any) -> None:
    many = data.draw(st.integers(2, 5))
    made = []
    for _ in range(many):
        n = data.draw(st.integers(1, 6))
        ids = data.draw(st.lists(st.integers(5, 7), min_size=n, max_size=n))
        labels = data.draw(st.lists(st.sampled_from([IGNORE, 3]), min_size=n, max_size=n))
        made.append(Row(ids, [TEXT] * n, labels))
    batch = collate(made)
    row = pack(batch)
    assert row is not None
    assert all(0 <= row.front < len(one.ids) for one in made)
    assert all(one.labels[: row.front] == [IGNORE] * row.front for one in made)
    assert row.input_ids.shape[1] == row.front + sum(len(one.ids) - row.front for one in made)
    for (begin, end), one, home in zip(row.spans, made, row.home, strict=True):
        assert row.input_ids[0, : row.front].tolist() + row.input_ids[0, begin:end].tolist() == one.ids
        assert row.columns[0, begin:end].tolist() == [*range(row.front, len(one.ids))]
        assert home.tolist() == [min(begin + i, end - 1) for i in range(len(home))]
    labels = [label for one in made for label in one.labels if label != IGNORE]
    assert row.labels[:, 0].tolist() == labels
    assert len(row.places) == len(labels)


def test_a_single_row_and_rows_padded_on_the_left_are_not_packed() -> None:
    assert pack(rows((5,), P)) is None
    made = [Row([5, 6, 7], [TEXT] * 3), Row([5], [TEXT])]
    assert pack(collate(made, side="left")) is None
    assert pack(collate(made)) is not None


def kept(work: Any) -> int:
    """Bytes that the backward pass of `work` holds, each storage once."""
    held: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def test_what_a_prefix_costs_in_memory_does_not_grow_with_the_batch() -> None:
    frozen, long = families.fresh("llama"), 40
    spec = frozen.spec
    given = Injection(prefix=families.prefix(frozen, long))
    one_pair = 2 * 4 * spec.layers * spec.kv_heads * long * spec.head_dim
    sizes = []
    for count in (2, 12):
        data = rows((4,) * count, 0)
        data = replace(data, packing=pack(data))
        without = kept(lambda data=data: frozen.packed(data, Injection(), logits=True))
        sizes.append(kept(lambda data=data: frozen.packed(data, given, logits=True)) - without)
    # Without a prefix nothing asks for a gradient, so all that is kept counts; the prefix itself is in both.
    plain = kept(lambda: frozen(rows((4,) * 12, 0), given, columns=torch.tensor([2])))
    assert sizes[1] < plain - 6 * one_pair


class Leaky(nn.Module):
    """A layer that looks at its neighbour to the left, as state-space models do: causal, but not by attention."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: Tensor) -> Any:
        before = torch.nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]
        return self.inner(states + before)


def leaky() -> Prompt:
    """A prompt over a model that the registry says nothing bad of."""
    frozen = speakers.fresh("llama")
    for layer in frozen.model.model.layers:
        layer.mlp = Leaky(layer.mlp)
    return speakers.prompt("llama", backbone=wrap(frozen.model, frozen.tokenizer, "leaky"))


def decide(prompt: Prompt, engine: Any = "auto") -> list[str]:
    """What is said while the engine is chosen for a batch of four rows."""
    said: list[str] = []
    made = [prompt.row(example) for example in speakers.examples("verbalizer")]
    choose(prompt, made, engine, lambda event: said.append(event["text"]))
    return said


def test_a_model_whose_rows_leak_is_found_out_and_trained_the_plain_way() -> None:
    prompt = leaky()
    said = decide(prompt)
    assert not prompt.packs
    assert len(said) == 1
    assert "would be off by" in said[0]
    assert "\n" not in said[0]
    with pytest.raises(Unsupported, match="SP-E422"):
        decide(prompt, "packed")


@pytest.mark.parametrize("family", ["bloom", "falcon", "gptj", "gemma2"])
def test_families_with_attention_of_their_own_are_not_packed(family: str) -> None:
    frozen, data = backbone(family), rows(RAGGED, P)
    assert frozen.unpackable(replace(data, packing=pack(data)), Injection(embeds=torch.randn(1, P, H)))


def test_layers_that_are_neither_full_nor_windowed_are_not_packed() -> None:
    frozen = tiny("Lfm2", layer_types=["conv", "full_attention", "conv"])
    data = rows(RAGGED, P)
    assert "not all of its layers" in frozen.unpackable(
        replace(data, packing=pack(data)), Injection(embeds=torch.randn(1, P, frozen.spec.hidden))
    )


def test_the_trial_leaves_no_trace() -> None:
    prompt = speakers.prompt("llama").train()
    before = {name: value.clone() for name, value in prompt.state_dict().items()}
    state = torch.get_rng_state()
    assert decide(prompt) == []
    assert prompt.packs
    assert prompt.training
    assert torch.get_rng_state().equal(state)
    assert all(weight.grad is None for weight in prompt.parameters())
    assert all(value.equal(before[name]) for name, value in prompt.state_dict().items())


def test_the_recipe_decides() -> None:
    prompt = speakers.prompt("llama")
    assert decide(prompt, "plain") == []
    assert not prompt.packs
    decide(prompt, "packed")
    assert prompt.packs
    encoder = speakers.prompt("bert")
    assert decide(encoder) == []
    assert encoder.packs
    two_stacks = speakers.prompt("bart")
    assert "counts positions by itself" in decide(two_stacks)[0]
    assert not two_stacks.packs
    with pytest.raises(Unsupported, match="SP-E422"):
        decide(two_stacks, "packed")


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
def test_layers_that_are_run_again_give_the_same_gradient(name: str) -> None:
    frozen = families.fresh("llama")
    method = untrained(name, frozen)
    data = rows(RAGGED, P if method.slots else 0)
    once, _ = both(frozen, data, method)
    frozen.recompute(True)
    again, _ = both(frozen, data, method)
    assert gap(again[1], once[1]) <= 1e-6


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix"])
def test_mixed_precision_reaches_attention(name: str) -> None:
    frozen = backbone("llama")
    method = untrained(name, frozen)
    data = rows(RAGGED, P if method.slots else 0)
    exact, _ = both(frozen, data, method)
    with torch.autocast("cpu", torch.bfloat16):
        ours, plain = both(frozen, data, method)
    assert 1e-4 < gap(ours[1], exact[1]) < 0.2
    assert gap(ours[1], plain[1]) < 0.2


def asking() -> tuple[Packed, nn.Module, Tensor]:
    module = nn.Module()
    row = pack(rows(RAGGED, P))
    assert row is not None
    return Packed(row, [module], None, 0), module, torch.randn(1, 2, row.columns.shape[1], 8)


@pytest.mark.parametrize("more", [{"softcap": 30.0}, {"position_bias": torch.zeros(1)}, {"dropout": 0.1}])
def test_what_is_not_known_to_be_harmless_is_refused(more: dict[str, Any]) -> None:
    state, module, x = asking()
    with pytest.raises(Unsupported, match="SP-E422"):
        state.attend(module, x, x, x, state.mask, **more)
    assert state.attend(module, x, x, x, state.mask, position_ids=torch.zeros(1), softcap=None).shape[1] == x.shape[2]


def test_a_mask_with_something_in_it_and_a_stranger_are_refused() -> None:
    state, module, x = asking()
    whole = torch.zeros(1, 1, x.shape[2], x.shape[2])
    for asker, mask in ((module, whole), (nn.Module(), state.mask), (module, None)):
        with pytest.raises(Unsupported, match="SP-E422"):
            state.attend(asker, x, x, x, mask)


def test_a_layer_that_does_not_ask_is_noticed() -> None:
    state, module, x = asking()
    with pytest.raises(Unsupported, match="SP-E422"):
        state.check()
    state.attend(module, x, x, x, state.mask)
    state.check()
    state.attend(module, x, x, x, state.mask, sliding_window=6)
    with pytest.raises(Unsupported, match="1 of 0 windows"):
        state.check()


def test_a_run_packs_by_itself_and_ends_where_a_padded_one_ends(tmp_path: Path) -> None:
    model = tiny_runs.open_model(tmp_path)
    ends, computed = [], []
    for engine in ("auto", "plain"):
        made = tiny_runs.recipe(tmp_path, "train.epochs=1", f"train.engine={engine}")
        result = train(made, tmp_path / engine, backbone=model)
        assert result.prompt.packs == (engine == "auto")
        ends.append(result.prompt.state_dict()["method.prompt"])
        log = [json.loads(line) for line in (tmp_path / engine / "log.jsonl").read_text().splitlines()]
        computed.append(sum(event.get("tokens", 0) for event in log))
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-3)
    assert computed[0] < 0.7 * computed[1]
