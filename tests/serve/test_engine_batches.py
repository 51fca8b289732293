"""How the engine puts rows of several tasks into one product, one forward, and one batch: the numbers are the same."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import P
from serve.test_engine import POISON, TEXTS, WAIT, fields, frozen, held_up, opened, prompt, same, write
from torch import Tensor
from transformers import Ministral3Config, Ministral3ForCausalLM
from typing_extensions import override

from softprompt.backbones.load import wrap
from softprompt.core import Batch, Example, Injection, Pair, Start
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.serve.contract import Request, ServeError
from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.lean import Lean, lean
from softprompt.serve.engine.parts import beside
from softprompt.serve.engine.reader import Reader
from softprompt.serve.engine.slots import Slots
from softprompt.serve.engine.step import allowed
from softprompt.serve.engine.table import Front
from softprompt.serve.engine.writing import Writing, Written

HEADS, KEYS, SIZE, LAYERS, SLOTS = 4, 2, 8, 2, 6
SCALE = 0.3


def pair(length: int) -> Pair | None:
    return (torch.randn(1, KEYS, length, SIZE), torch.randn(1, KEYS, length, SIZE)) if length else None


def right(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention [heads, D] of one query to keys and values [K, S, D], written out."""
    keys, values = (x.repeat_interleave(HEADS // KEYS, 0) for x in (keys, values))
    return torch.stack([(k @ q * SCALE).softmax(0) @ v for q, k, v in zip(query, keys, values, strict=True)])


def attended(fronts: list[Front], lengths: list[int], cache: Cache) -> bool:
    """One step of rows that write, compared with each row alone; whether it was one product."""
    cache.reserve(max(lengths) + 1)
    written = Written(Writing(fronts, lengths), cache, torch.zeros(1))
    for layer in range(LAYERS):
        count = len(fronts)
        query, key, value = (torch.randn(count, n, SIZE) for n in (HEADS, KEYS, KEYS))
        stored = cache.layer(layer, key[None].transpose(1, 2), value[None].transpose(1, 2))
        before = [x.clone() for x in stored]
        out = written.attend(layer, query, key, value, SCALE)
        for i, (front, length) in enumerate(zip(fronts, lengths, strict=True)):
            kv = []
            for side, new in enumerate((key, value)):
                own = torch.cat([before[side][i, :, :length], new[i][:, None]], 1)
                laid = front.pairs[layer]
                kv.append(own if laid is None else torch.cat([laid[side][0], own], 1))
            torch.testing.assert_close(out[i], right(query[i], *kv), rtol=1e-5, atol=1e-5)
    return written.even


def row(**facts: int) -> Any:
    return SimpleNamespace(slot=-1, **facts)


def test_a_row_takes_its_keys_along_to_another_slot() -> None:
    cache, new = Cache(1, 3), torch.zeros(1, KEYS, 1, SIZE)
    cache.reserve(8)
    keys, values = (store.copy_(torch.randn_like(store)) for store in cache.layer(0, new, new))
    was = keys.clone(), values.clone()
    slots, rows = Slots(cache), [row(done=n) for n in (3, 5, 2)]
    for one in rows:
        slots.give(one)
    slots.settle([rows[2]])  # in the place of the first, which is still read
    assert [one.slot for one in rows] == [2, 1, 0]
    for now, before in zip((keys, values), was, strict=True):
        assert now[0, :, :2].equal(before[2, :, :2])
        assert now[2, :, :3].equal(before[0, :, :3])
    slots.free(rows[2], poisoned=False)
    slots.settle([rows[1]])  # to a place that is free
    assert slots.jobs() == [rows[1], rows[0]]
    for now, before in zip((keys, values), was, strict=True):
        assert now[0, :, :5].equal(before[1, :, :5])


def test_many_short_texts_are_read_at_once_and_a_long_one_never_holds_others_up() -> None:
    short, long = row(left=8), row(left=9)
    assert allowed([long], 0, 8) == 32  # nobody waits for it
    assert allowed([short, long, long], 1, 8) == 8
    assert allowed([short, short], 1, 8) == 32


def test_rows_that_write_attend_as_each_alone_whatever_fronts_they_share() -> None:
    torch.manual_seed(0)
    cache = Cache(LAYERS, SLOTS)
    one, two, other = (Front((pair(n), pair(n)), n) for n in (5, 3, 7))
    partly = Front((pair(4), None), 4)  # a prefix that enters the first layer only
    nothing = Front((None, None), 0)
    steps = [
        [one, two, other],
        [two, two, one, two],
        [other, one],
        [nothing, one, Front((None, None), 0)],
        [nothing, nothing],
        [partly, two, one, partly, other],
        [one],
        [other, partly, two, one],
    ]
    assert all(attended(fronts, [(3 * i) % 5 for i in range(len(fronts))], cache) for fronts in steps)
    long = Front((pair(90), pair(90)), 90)
    assert not attended([one, two, other, partly, long], [1, 2, 3, 4, 0], cache)
    assert not attended([one, two, one, partly, two, nothing], [1, 60, 0, 4, 0, 2], cache)
    assert attended([one, two], [0, 0], cache)


def test_a_front_is_laid_once_and_nan_in_one_reaches_no_other_row() -> None:
    torch.manual_seed(0)
    cache = Cache(LAYERS, SLOTS)
    cache.reserve(4)
    broken, sound = (Front((pair(3), pair(3)), 3) for _ in range(2))
    for laid in broken.pairs:
        assert laid is not None
        laid[0].fill_(torch.nan)
    fronts = [broken, sound, Front((None, None), 0)]
    written = Written(Writing(fronts, [0, 0, 0]), cache, torch.zeros(1))
    out = written.attend(0, torch.randn(3, HEADS, SIZE), torch.ones(3, KEYS, SIZE), torch.ones(3, KEYS, SIZE), SCALE)
    assert out.isfinite().flatten(1).all(1).tolist() == [False, True, True]
    tables = cache.table.pairs[0]
    assert tables is not None
    tables[0][1] = 7.0  # a mark: what lies there already is not laid again
    cache.table.settle([sound, broken], torch.float32)
    assert tables[0][1].eq(7.0).all()
    again = Front((pair(2), pair(2)), 2)
    assert cache.table.settle([again, sound], torch.float32) == [again, sound]
    assert attended([again], [1], cache)  # where NaN has lain


def test_a_short_row_and_its_front_are_one_softmax() -> None:
    torch.manual_seed(0)
    query, front, own = torch.randn(HEADS, 5, SIZE), (torch.randn(KEYS, 3, SIZE),) * 2, torch.randn(2, KEYS, 5, SIZE)
    out = beside(query[None], (front[0][None], front[1][None]), (own[:1], own[1:]), SCALE)[0]
    for i in range(5):
        keys, values = (torch.cat([front[side], own[side][:, : i + 1]], 1) for side in (0, 1))
        torch.testing.assert_close(out[:, i], right(query[:, i], keys, values), rtol=1e-5, atol=1e-5)


def test_a_llama_is_run_by_its_weights_and_what_only_looks_like_one_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = frozen("llama")
    assert Reader(backbone).lean is not None
    assert Reader(frozen("gpt2")).lean is None
    head = backbone.model.lm_head.forward
    monkeypatch.setattr(backbone.model.lm_head, "forward", lambda x: head(x) * 1.01)  # as models that scale logits
    assert Reader(backbone).lean is None


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_a_model_that_differs_from_a_llama_late_in_its_context_only_is_run_by_itself(growth: float) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    rope |= {"max_position_embeddings": 128, "llama_4_scaling_beta": growth}
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    torch.manual_seed(0)
    model = Ministral3ForCausalLM(Ministral3Config(**sizes, **heads, sliding_window=None, rope_parameters=rope))
    for weight in model.parameters():
        weight.data.normal_(0, 0.3)
    backbone = wrap(model)
    assert lean(backbone) is not None, "it has the parts of a Llama"
    assert (Reader(backbone).lean is None) == (growth > 0)


@pytest.mark.parametrize("wrong", [torch.nan, None])
def test_a_short_way_that_gives_nan_or_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch, wrong: float | None) -> None:
    def run(self: Lean, embedded: Tensor, positions: Tensor, state: Any, places: Tensor | None) -> Tensor:
        if wrong is None:
            raise RuntimeError("shapes that do not fit")
        return embedded[0] * wrong

    monkeypatch.setattr(Lean, "run", run)
    assert Reader(frozen("llama")).lean is None


@pytest.mark.parametrize(
    ("name", "methods", "heads"),
    [
        ("bert", ["vectors", "prefix"], ["classifier", "regressor", "tagger"]),
        ("t5", ["vectors", "prefix"], ["lm"]),
        ("t5", ["vectors", "prefix"], ["phrases"]),
        ("bloom", ["vectors"], ["lm"]),
    ],
)
def test_tasks_that_run_padded_share_one_batch(
    name: str, methods: list[str], heads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = {f"{m}-{h}-{n}": prompt(name, m, h, n) for n in (0, 1) for m in methods for h in heads}
    sizes: list[int] = []
    with opened(name) as engine:
        backbone = engine.backbone
        before = backbone.forward
        infos = {key: engine.add(key, "1", value) for key, value in prompts.items()}
        lock = held_up(engine)
        asked = [(key, TEXTS[i % 3]) for i, key in enumerate(prompts)]
        handles = [engine.submit(Request(key, fields(text, infos[key].kind), infos[key].kind)) for key, text in asked]

        def counted(batch: Any, *given: Any, **named: Any) -> Any:
            sizes.append(len(batch))
            return before(batch, *given, **named)

        monkeypatch.setattr(backbone, "forward", counted)
        lock.release()
        answers = [handle.result(WAIT) for handle in handles]
        monkeypatch.undo()
    assert sizes[0] == len(asked) * (2 if heads == ["phrases"] else 1)
    for (key, text), answer in zip(asked, answers, strict=True):
        same(answer, prompts[key].predict([Example(fields(text, infos[key].kind))])[0], infos[key].kind)


class Refusing(PromptTuning):
    """Fails where it reads w66."""

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        if (batch.input_ids == POISON).any():
            raise ValueError("no")
        return super().forward(batch, text)


def test_a_request_that_cannot_be_begun_takes_nobody_with_it() -> None:
    with opened("bart") as engine:
        for i in range(2):
            made_prompt = prompt("bart", seed=i)
            if i:
                vectors = torch.zeros(P, engine.backbone.spec.hidden)
                made_prompt.method = Refusing(engine.backbone.spec, Start(vectors))
            engine.add(f"t{i}", "1", made_prompt)
        lock = held_up(engine)
        handles = [write(engine, "w66" if i == 1 else TEXTS[0], f"t{i % 2}") for i in range(3)]
        lock.release()
        with pytest.raises(ServeError, match="SP-E900"):
            handles[1].result(WAIT)
        expected = prompt("bart").predict([Example({"text": TEXTS[0]})])[0].answer
        assert handles[0].result(WAIT).texts == handles[2].result(WAIT).texts == (expected,)
