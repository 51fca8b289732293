"""The engine: answers are those of a prompt alone, whatever else is in the batch, and trouble stays where it arose."""

import asyncio
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import families
import pytest
import torch
from families import P
from tokenizers_tiny import words

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, wrap
from softprompt.core import TEXT, Batch, Example, Injection, Start
from softprompt.errors import ArtifactError, DataError, RecipeError
from softprompt.generate import generate
from softprompt.heads import Classifier, Head, LanguageModel, Regressor, Tagger, Verbalizer, pooled
from softprompt.methods import find
from softprompt.methods.base import Method
from softprompt.methods.prefix import PrefixTuning
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task
from softprompt.serve.contract import Delta, Finish, Kind, Request, Sampling, ServeError, Usage
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.compiled import Store, compile_front, injection_of
from softprompt.serve.engine.scheduler import Limits
from softprompt.serve.engine.ticket import Ticket
from softprompt.serve.engine.writer import settled
from softprompt.template import Template

TEXTS = ("w7 w9 w20", "w50 w51 w52 w60 w61 w62", "w88", " ".join(f"w{30 + i}" for i in range(25)))
POISON = 66
WAIT = 60.0
HEADS: dict[str, Kind] = {
    "lm": "write",
    "classifier": "label",
    "words": "label",
    "phrases": "label",
    "regressor": "number",
    "tagger": "tags",
}


class Looking(Method):
    """Prompt vectors and a prefix that depend on the text: nothing of it can be compiled. NaN where it reads w66."""

    def forward(self, batch: Batch, text: torch.Tensor) -> Injection:
        seen = (text * (batch.mask & (batch.slots == TEXT))[..., None]).sum(1)  # [B, H]
        seen = seen / (~(batch.input_ids == POISON).any(1, keepdim=True)).float()
        seen = torch.where(seen.isinf(), torch.nan, seen)
        embeds = seen[:, None] * torch.linspace(-1, 1, P)[:, None]
        heads = seen[:, None, None, : self.spec.head_dim].expand(-1, self.spec.kv_heads, P, -1)
        return Injection(embeds=embeds, prefix=tuple((heads, -heads) for _ in range(self.spec.layers)))

    @property
    def length(self) -> int:
        return P


@cache
def frozen(name: str, ends: bool = True) -> Backbone:
    """A tiny backbone whose answers end at many tokens, so that rows of a batch end at different steps."""
    backbone = wrap(families.model(name), words(), name)
    if backbone.spec.kind in ("causal", "seq2seq"):
        backbone.model.generation_config.eos_token_id = [2, *range(10, 20)] if ends else 2
    return backbone


def head(backbone: Backbone, kind: str) -> tuple[Head, Task, str]:
    """A head, its task, and what its template has behind the text."""
    states, fill = backbone.spec.states, backbone.spec.kind == "encoder"
    if kind == "lm":
        return LanguageModel(), Task("generation", new_tokens=12), ""
    if kind == "classifier":
        return Classifier(states, 3), Task("classification", ("a", "b", "c")), ""
    if kind == "words":
        return Verbalizer([[30], [31]], fill=fill), Task("classification", ("x", "y")), " w8 {mask}"
    if kind == "phrases":
        return Verbalizer([[30, 33], [31]]), Task("classification", ("x", "y")), " w8 {mask}"
    if kind == "regressor":
        return Regressor(states, mean=2.0, scale=3.0), Task("regression"), ""
    return Tagger(states, 2), Task("tagging", ("O", "B")), ""


def made(method: str, backbone: Backbone, seed: int) -> Method:
    """A method with random weights."""
    torch.manual_seed(seed)
    start = Start(torch.randn(P, backbone.spec.hidden) * backbone.spec.rms)
    if method == "vectors":
        return PromptTuning(backbone.spec, start)
    if method == "looking":
        return Looking(backbone.spec, start)
    if method == "prefix":
        made = PrefixTuning(backbone.spec, families.start(backbone))
        for weight in made.parameters():
            weight.data.add_(torch.randn_like(weight))
        return made
    return find(method)(backbone.spec, start)


def prompt(name: str, method: str = "vectors", kind: str = "lm", seed: int = 0, *, ends: bool = True) -> Prompt:
    """A prompt with random weights on a tiny backbone."""
    backbone = frozen(name, ends)
    made_head, task, tail = head(backbone, kind)
    in_text = method != "prefix"
    template = Template(
        ("{soft}w9 " if in_text else "") + "{text}" + tail, backbone, length=P, prefix=0 if in_text else P
    )
    return Prompt(backbone, made(method, backbone, seed), made_head, template, task).eval()


def fields(text: str, kind: Kind) -> dict[str, Any]:
    return {"text": tuple(text.split()) if kind == "tags" else text}


def same(answer: Any, expected: Any, kind: Kind) -> None:
    """An engine's answer is that of `Prompt.predict`."""
    if kind == "write":
        assert answer.texts == (expected.answer,)
    elif kind == "label":
        assert answer.scored.label == expected.answer
        assert answer.scored.probabilities == pytest.approx(expected.scores, abs=1e-4)
    elif kind == "tags":
        assert answer.scored.tags == expected.answer
    else:
        assert answer.scored.number == pytest.approx(expected.answer, rel=1e-4, abs=1e-4)


def opened(name: str, ends: bool = True, **limits: int) -> PromptEngine:
    return PromptEngine(frozen(name, ends), Limits(**limits))


@pytest.fixture
def engine() -> Iterator[PromptEngine]:
    """A small engine on Llama, in which one task that writes is served as `task`."""
    with opened("llama", rows=4, waiting=8, chunk=8) as made_engine:
        made_engine.add("task", "1", prompt("llama"))
        yield made_engine


def write(engine: PromptEngine, text: str = TEXTS[0], task: str = "task", **sampling: Any) -> Ticket:
    return engine.submit(Request(task, {"text": text}, "write", sampling=Sampling(**sampling)))


@pytest.mark.parametrize(
    ("name", "methods", "heads"),
    [
        ("llama", ["vectors", "prefix", "looking"], list(HEADS)),
        ("gpt2", ["vectors", "prefix"], ["lm", "words"]),
        ("gemma3_text", ["vectors", "prefix"], ["lm", "classifier"]),
        ("bloom", ["vectors"], ["lm", "classifier", "words"]),
        ("bert", ["vectors", "prefix"], ["classifier", "regressor", "tagger"]),
        ("t5", ["vectors", "prefix"], ["lm", "phrases"]),
        ("bart", ["vectors"], ["lm"]),
    ],
)
def test_a_mixed_batch_answers_as_each_prompt_alone(name: str, methods: list[str], heads: list[str]) -> None:
    prompts = {f"{m}-{h}": prompt(name, m, h, seed) for seed, m in enumerate(methods) for h in heads}
    with opened(name, chunk=16) as engine:
        infos = {key: engine.add(key, "1", value) for key, value in prompts.items()}
        asked = [(key, text) for text in TEXTS for key in prompts]
        handles = [engine.submit(Request(key, fields(text, infos[key].kind), infos[key].kind)) for key, text in asked]
        answers = [handle.result(WAIT) for handle in handles]
    for (key, text), answer in zip(asked, answers, strict=True):
        kind = infos[key].kind
        same(answer, prompts[key].predict([Example(fields(text, kind))])[0], kind)


def test_causal_prompts_run_in_one_step_and_read_their_prompt_from_the_store(engine: PromptEngine) -> None:
    entries = [engine.registry.hold("task", "")]
    engine.add("looking", "1", prompt("llama", "looking"))
    entries.append(engine.registry.hold("looking", ""))
    assert [entry.ragged for entry in entries] == [True, True]
    assert [entry.injection is None for entry in entries] == [False, True]
    answer = write(engine).result(WAIT)
    assert answer.usage.cached_tokens == P + 1  # the vectors, and the word that every text begins with
    assert answer.usage.prompt_tokens == P + 1 + 3
    for entry in entries:
        engine.registry.release(entry)


def test_a_front_that_a_text_shares_only_in_part_is_used_in_part() -> None:
    made_prompt = prompt("llama")
    injection = injection_of(made_prompt)
    assert injection is not None
    compiled = compile_front(made_prompt, injection)
    row = made_prompt.row(Example({"text": TEXTS[0]}), labelled=False)
    assert compiled.match(row) == P + 1
    row.ids[P] = 77
    assert compiled.match(row) == P
    assert compiled.first(P) is compiled.first(P)
    pair = compiled.first(P).pairs[0]
    whole = compiled.front.pairs[0]
    assert pair is not None
    assert whole is not None
    assert pair[0].data_ptr() == whole[0].data_ptr()  # read in place
    assert pair[0].shape[2] == P


def test_the_store_drops_the_least_recently_used_and_counts() -> None:
    made_prompt = prompt("llama")
    injection = injection_of(made_prompt)
    assert injection is not None
    fronts = [compile_front(made_prompt, injection) for _ in range(3)]
    store = Store(2 * fronts[0].bytes)
    for key in "ab":
        store.put(key, fronts[0])
    assert store.get("a") is not None
    store.put("c", fronts[2])
    assert (store.get("b"), store.evictions, store.misses, store.hits) == (None, 1, 1, 1)
    assert store.bytes == 2 * fronts[0].bytes
    assert list(store.held) == ["a", "c"]
    store.put("d", fronts[1])
    store.drop("d")
    assert store.bytes == fronts[0].bytes
    small = Store(1)
    small.put("a", fronts[0])
    assert small.bytes == 0


def test_an_engine_without_room_for_compiled_prompts_answers_the_same() -> None:
    prompts = [prompt("llama", seed=i) for i in range(3)]
    with opened("llama", store_bytes=1) as engine:
        for i, each in enumerate(prompts):
            engine.add(f"t{i}", "1", each)
        answers = [write(engine, TEXTS[1], f"t{i}").result(WAIT) for i in range(3)]
        assert engine.stats().misses == 3
    assert [a.texts[0] for a in answers] == [each.predict([Example({"text": TEXTS[1]})])[0].answer for each in prompts]


def test_embeddings_are_the_mean_state_of_the_text() -> None:
    made_prompt = prompt("llama", "vectors", "words")
    with opened("llama") as engine:
        engine.add("task", "1", made_prompt)
        answer = engine.submit(Request("task", {"text": TEXTS[1]}, "embedding")).result(WAIT)
    batch = made_prompt.batch([made_prompt.template.encode(Example({"text": TEXTS[1]}))])
    with torch.no_grad():
        states = pooled(made_prompt.backbone(batch, made_prompt.inject(batch)), batch, "mean")[0]
    assert answer.scored is not None
    assert answer.scored.embedding == pytest.approx(states.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_what_is_sampled_depends_on_the_seed_and_the_choice_alone(name: str) -> None:
    made_prompt = prompt(name)
    rows = [made_prompt.row(Example({"text": TEXTS[1]}), labelled=False)] * 3
    expected = generate(made_prompt, rows, max_new_tokens=12, temperature=1.5, top_p=0.9, seed=5)
    with opened(name, rows=8) as engine:
        engine.add("task", "1", made_prompt)
        company = [write(engine, text, temperature=1.0, seed=i) for i, text in enumerate(TEXTS[:2])]
        chosen = write(engine, TEXTS[1], temperature=1.5, top_p=0.9, seed=5, n=3)
        assert list(chosen.result(WAIT).texts) == expected
        for handle in company:
            handle.result(WAIT)
        assert list(write(engine, TEXTS[1], temperature=1.5, top_p=0.9, seed=5, n=3).result(WAIT).texts) == expected
    assert len(set(expected)) > 1


def test_stop_strings_and_lengths_end_answers_as_alone(engine: PromptEngine) -> None:
    whole = engine.registry.snapshot["task"][0].prompt
    engine.add("endless", "1", prompt("llama", seed=3))
    row = whole.row(Example({"text": TEXTS[1]}), labelled=False)
    free = generate(whole, [row], max_new_tokens=12)[0].split()
    assert len(free) > 2
    stop = free[1]
    answer = write(engine, TEXTS[1], stop=(stop,)).result(WAIT)
    assert answer.texts[0] == generate(whole, [row], max_new_tokens=12, stop=[stop])[0]
    assert answer.reasons == ("stop",)
    short = write(engine, TEXTS[1], max_new_tokens=2).result(WAIT)
    assert short.texts[0] == " ".join(free[:2])
    assert short.reasons == ("length",)
    assert short.usage.completion_tokens == 2


def test_deltas_join_to_the_answer_and_usage_comes_last(engine: PromptEngine) -> None:
    expected = write(engine, TEXTS[1]).result(WAIT)
    pieces = list(write(engine, TEXTS[1], logprobs=2))
    deltas = [piece for piece in pieces if isinstance(piece, Delta)]
    assert len(deltas) > 1
    assert "".join(delta.text for delta in deltas) == expected.texts[0]
    assert isinstance(pieces[-1], Usage)
    assert isinstance(pieces[-2], Finish)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert len(tokens) == expected.usage.completion_tokens
    for token in tokens:
        assert len(token.top) == 2
        assert token.logprob == pytest.approx(token.top[0][1])  # greedy
        assert token.logprob <= 0


def test_text_is_told_only_once_nothing_can_change_it() -> None:
    assert settled(" a b ", ()) == "a b"
    assert settled("a \ufffd", ()) == "a"
    assert settled("abc EN", ("END",)) == "abc"
    assert settled("abc E", ("END", "Z")) == "abc"
    assert settled("abc X", ("END",)) == "abc X"
    assert settled("do n", (), words=True) == "do"


def test_the_pieces_come_on_an_event_loop_too(engine: PromptEngine) -> None:
    async def read(text: str) -> str:
        return "".join([p.text async for p in write(engine, text) if isinstance(p, Delta)])

    async def both() -> list[str]:
        return list(await asyncio.gather(read(TEXTS[0]), read(TEXTS[1])))

    found = asyncio.run(both())
    assert found == [write(engine, text).result(WAIT).texts[0] for text in TEXTS[:2]]


def test_an_unknown_or_removed_name_is_not_found_and_never_the_bare_backbone(engine: PromptEngine) -> None:
    for name, version in (("other", ""), ("task", "2")):
        with pytest.raises(ServeError, match="SP-E701") as caught:
            engine.submit(Request(name, {"text": "w7"}, "write", version))
        assert caught.value.trouble == "model_not_found"
    engine.remove("task")
    assert engine.names() == ()
    assert engine.stats().compiled == 0
    with pytest.raises(ServeError, match="SP-E701"):
        write(engine)
    with pytest.raises(ServeError, match="SP-E701"):
        engine.remove("task")


def test_a_request_holds_its_version_and_removal_waits_for_it() -> None:
    old, new = prompt("llama", seed=1, ends=False), prompt("llama", seed=2, ends=False)
    expected = old.predict([Example({"text": "w7"})], max_new_tokens=40)[0].answer
    with opened("llama", ends=False) as engine:
        engine.add("task", "1", old)
        handle = write(engine, "w7", max_new_tokens=40)
        first = next(iter(handle))
        engine.add("task", "2", new)
        assert [(i.version, i.newest) for i in engine.names()] == [("1", False), ("2", True)]
        engine.remove("task", "1", wait=True)
        assert handle.ended
        assert isinstance(first, Delta)
        assert first.text + handle.result(WAIT).texts[0] == expected
        assert handle.info.version == "1"
        answer = write(engine, "w7", max_new_tokens=40).result(WAIT)
        assert answer.texts[0] == new.predict([Example({"text": "w7"})], max_new_tokens=40)[0].answer


def test_adding_replacing_and_removing_under_load_fails_no_request() -> None:
    prompts = [prompt("llama", seed=i) for i in range(3)]
    expected = {each.predict([Example({"text": TEXTS[1]})])[0].answer for each in prompts}
    steady = prompt("llama", "prefix")
    still = steady.predict([Example({"text": TEXTS[0]})])[0].answer
    wrong: list[Any] = []

    def ask() -> None:
        for _ in range(12):
            try:
                if write(serving, TEXTS[1], "changing").result(WAIT).texts[0] not in expected:
                    wrong.append("an answer of no version")
                if write(serving, TEXTS[0], "steady").result(WAIT).texts[0] != still:
                    wrong.append("a neighbour's answer")
            except Exception as error:  # every failure is counted
                wrong.append(error)

    with opened("llama") as serving:
        serving.add("steady", "1", steady)
        serving.add("changing", "0", prompts[0])
        threads = [Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(1, 7):
            serving.add("changing", str(i), prompts[i % 3])
            serving.remove("changing", str(i - 1))
            serving.add("changing", str(i), prompts[(i + 1) % 3])  # the same version again
        for thread in threads:
            thread.join(WAIT)
        assert wrong == []
        assert serving.stats().prompts == 2
        assert serving.stats().compiled == 2


def test_a_prompt_that_is_not_fit_is_refused_and_hurts_nobody(engine: PromptEngine, tmp_path: Path) -> None:
    before = write(engine).result(WAIT).texts
    broken = prompt("llama")
    next(broken.method.parameters()).data[1, 2] = torch.nan
    with pytest.raises(ArtifactError, match="SP-E305"):
        engine.add("broken", "1", broken)
    with pytest.raises(ArtifactError, match="SP-E320"):
        engine.add("broken", "1", prompt("gpt2"))
    (tmp_path / "x.safetensors").write_bytes(b"no artifact")
    with pytest.raises(ArtifactError):
        engine.add("broken", "1", tmp_path / "x.safetensors")
    for name in ("../x", "", "a b", "x" * 200):
        with pytest.raises(ServeError, match="SP-E706"):
            engine.add(name, "1", prompt("llama"))
    huge = prompt("llama", "prefix")
    next(huge.method.parameters()).data.fill_(3e38)
    with pytest.raises(ArtifactError, match="SP-E305"):
        engine.add("broken", "1", huge)
    assert [info.name for info in engine.names()] == ["task"]
    with pytest.raises(ServeError, match="SP-E701"):
        write(engine, task="broken")
    assert write(engine).result(WAIT).texts == before


def test_an_artifact_is_served_from_its_file(engine: PromptEngine, tmp_path: Path) -> None:
    made_prompt = prompt("llama", seed=4)
    Artifact.of(made_prompt, {}, {}).save(tmp_path / "a.safetensors")
    info = engine.add("file", "1.0", tmp_path / "a.safetensors")
    assert (info.kind, info.vectors, info.method, info.fields) == ("write", P, "prompt_tuning", ("text",))
    expected = made_prompt.predict([Example({"text": TEXTS[1]})])[0].answer
    assert write(engine, TEXTS[1], "file").result(WAIT).texts[0] == expected


def test_a_served_prompt_does_not_change_with_the_one_it_was_made_of(engine: PromptEngine) -> None:
    mine = prompt("llama", seed=6)
    engine.add("mine", "1", mine)
    before = write(engine, TEXTS[1], "mine").result(WAIT).texts
    next(mine.method.parameters()).data.zero_()
    assert write(engine, TEXTS[1], "mine").result(WAIT).texts == before


@pytest.mark.parametrize("kind", ["lm", "classifier", "words"])
def test_a_poisoned_request_fails_alone(kind: str) -> None:
    """Its slot is used again afterwards: NaN must not outlive it there."""
    looking, steady = prompt("llama", "looking", kind), prompt("llama", "vectors", "lm", 1)
    want = [each.answer for each in steady.predict([Example({"text": text}) for text in TEXTS])]
    with opened("llama", rows=4, chunk=8) as engine:
        asked = engine.add("looking", "1", looking).kind
        engine.add("steady", "1", steady)
        for _ in range(2):
            poisoned = [engine.submit(Request("looking", {"text": f"w7 w{POISON} w8"}, asked)) for _ in range(2)]
            others = [write(engine, text, "steady") for text in TEXTS]
            for handle in poisoned:
                with pytest.raises(ServeError, match="SP-E705") as caught:
                    handle.result(WAIT)
                assert caught.value.trouble == "not_finite"
            assert [handle.result(WAIT).texts[0] for handle in others] == want
        good = engine.submit(Request("looking", {"text": TEXTS[0]}, asked)).result(WAIT)
        same(good, looking.predict([Example({"text": TEXTS[0]})])[0], asked)


def test_a_defect_while_one_request_is_prepared_ends_that_one(
    engine: PromptEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fragile(Looking):
        def forward(self, batch: Batch, text: torch.Tensor) -> Injection:
            if bool((batch.input_ids == 67).any()):
                raise KeyError("secret detail")
            return super().forward(batch, text)

    fragile = prompt("llama", "looking")
    fragile.method = Fragile(fragile.backbone.spec, Start(torch.zeros(P, 1)))
    engine.add("fragile", "1", fragile)
    bad, good = write(engine, "w7 w67", "fragile"), write(engine)
    with pytest.raises(ServeError, match="SP-E900") as caught:
        bad.result(WAIT)
    assert "secret" not in str(caught.value)
    assert good.result(WAIT).texts == write(engine).result(WAIT).texts


def test_requests_that_cannot_be_followed_are_refused_at_once(engine: PromptEngine) -> None:
    with pytest.raises(ServeError, match="SP-E704"):
        engine.submit(Request("task", {"text": "w7"}, "label"))
    for given in ({"other": "w7"}, {"text": "w7", "more": "w8"}):
        with pytest.raises(DataError, match="SP-E112"):
            engine.submit(Request("task", given, "write"))
    with pytest.raises(ServeError, match="SP-E704"):
        write(engine, n=5)
    with pytest.raises(ServeError, match="SP-E704"):
        write(engine, logprobs=30)
    with pytest.raises(RecipeError, match="SP-E241"):
        write(engine, temperature=-1.0)
    with pytest.raises(RecipeError, match="SP-E240"):
        write(engine, max_new_tokens=0)
    with pytest.raises(RecipeError, match="SP-E245"):
        write(engine, stop=("",))
    assert engine.registry.snapshot["task"][0].holds == 0


def held_up(engine: PromptEngine) -> Any:
    """Hold the engine's thread before its next round, until the lock that is returned is released."""
    from threading import Lock

    lock, turn = Lock(), engine.scheduler.turn
    lock.acquire()

    def wait() -> None:
        with lock:
            pass
        turn()

    engine.scheduler.turn = wait  # type: ignore[method-assign]
    return lock


def test_a_full_queue_refuses_and_what_waits_is_answered(engine: PromptEngine) -> None:
    lock = held_up(engine)
    handles = [write(engine) for _ in range(8)]
    with pytest.raises(ServeError, match="SP-E702") as caught:
        write(engine)
    assert caught.value.trouble == "queue_full"
    assert engine.stats().waiting == 8
    lock.release()
    assert len({handle.result(WAIT).texts for handle in handles}) == 1


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_cancelled_request_leaves_within_one_step(name: str) -> None:
    with opened(name, ends=False, rows=1) as engine:
        engine.add("task", "1", prompt(name, ends=False))
        handle = write(engine, "w7", max_new_tokens=30)
        pieces = iter(handle)
        next(pieces)
        handle.cancel()
        written = None
        with pytest.raises(ServeError, match="SP-E707") as caught:
            for _ in pieces:
                pass
        assert caught.value.trouble == "cancelled"
        written = engine.stats().completion_tokens
        assert written < 30
        expected = prompt(name, ends=False).predict([Example({"text": "w8"})], max_new_tokens=5)[0].answer
        assert write(engine, "w8", max_new_tokens=5).result(WAIT).texts[0] == expected  # the only slot is free again
        waited = time.monotonic() + WAIT
        while engine.stats().running and time.monotonic() < waited:
            time.sleep(0.01)
        assert engine.registry.snapshot["task"][0].holds == 0
        assert engine.stats().requests == {"cancelled": 1, "done": 1}


def test_a_request_that_waits_can_be_cancelled(engine: PromptEngine) -> None:
    lock = held_up(engine)
    handle, other = write(engine), write(engine)
    handle.cancel()
    lock.release()
    with pytest.raises(ServeError, match="SP-E707"):
        handle.result(WAIT)
    assert other.result(WAIT).texts


def test_a_long_text_is_read_in_pieces_between_the_steps_of_others() -> None:
    long = " ".join(f"w{20 + i % 60}" for i in range(50))
    made_prompt = prompt("llama", ends=False)
    want = made_prompt.predict([Example({"text": text}) for text in (long, "w8")], max_new_tokens=6)
    with opened("llama", ends=False, chunk=4) as engine:
        engine.add("task", "1", made_prompt)
        engine.add("words", "1", prompt("llama", "vectors", "words", ends=False))
        engine.add("mean", "1", prompt("llama", "prefix", "classifier", ends=False))
        short = write(engine, "w8", max_new_tokens=30)
        first = next(iter(short))
        begun = engine.stats().steps
        reading = write(engine, long, max_new_tokens=6)
        scored = [engine.submit(Request(name, {"text": long}, "label")) for name in ("words", "mean")]
        next(iter(reading))
        assert engine.stats().steps > begun + 3  # the other answer went on meanwhile
        assert reading.result(WAIT).usage.completion_tokens == 6
        answers = [handle.result(WAIT) for handle in scored]
        again = write(engine, long, max_new_tokens=6).result(WAIT)
        assert again.texts[0] == want[0].answer
        assert isinstance(first, Delta)
        assert (first.text + short.result(WAIT).texts[0]).startswith(str(want[1].answer))
    for method, kind, answer in zip(("vectors", "prefix"), ("words", "classifier"), answers, strict=True):
        same(answer, prompt("llama", method, kind, ends=False).predict([Example({"text": long})])[0], "label")


def test_more_long_rows_than_there_are_slots_are_read_one_by_one() -> None:
    long = " ".join(f"w{20 + i % 60}" for i in range(30))
    made_prompt = prompt("llama", "vectors", "phrases")
    with opened("llama", rows=1, chunk=4) as engine:
        engine.add("task", "1", made_prompt)
        answer = engine.submit(Request("task", {"text": long}, "label")).result(WAIT)
    same(answer, made_prompt.predict([Example({"text": long})])[0], "label")


def test_a_text_that_fills_the_context_gets_the_answer_that_fits(engine: PromptEngine) -> None:
    long = " ".join(f"w{20 + i % 60}" for i in range(200))
    alone = engine.registry.snapshot["task"][0].prompt
    expected = alone.predict([Example({"text": long})], max_new_tokens=40)[0].answer
    assert write(engine, long, max_new_tokens=40).result(WAIT).texts[0] == expected


def test_closing_finishes_what_is_under_way_and_takes_no_more() -> None:
    engine = opened("llama", ends=False, rows=1)
    engine.add("task", "1", prompt("llama", ends=False))
    handles = [write(engine, "w7", max_new_tokens=10) for _ in range(3)]
    engine.close()
    expected = prompt("llama", ends=False).predict([Example({"text": "w7"})], max_new_tokens=10)[0].answer
    assert {handle.result(0).texts[0] for handle in handles} == {expected}
    with pytest.raises(ServeError, match="SP-E703"):
        write(engine)
    engine.close()


def test_closing_without_draining_cancels() -> None:
    engine = opened("llama", ends=False, rows=1)
    engine.add("task", "1", prompt("llama", ends=False))
    handles = [write(engine, "w7", max_new_tokens=40) for _ in range(3)]
    engine.close(drain=False)
    for handle in handles[1:]:
        with pytest.raises(ServeError, match="SP-E707"):
            handle.result(0)


def test_the_backbone_is_left_as_it_was(engine: PromptEngine) -> None:
    weights = {name: value.clone() for name, value in engine.backbone.state_dict().items()}
    write(engine).result(WAIT)
    assert all(value.equal(weights[name]) for name, value in engine.backbone.state_dict().items())


@pytest.mark.parametrize("name", families.CAUSAL)
def test_every_causal_family_of_the_packed_engine_runs_in_one_step(name: str) -> None:
    with opened(name) as engine:
        for i, method in enumerate(("vectors", "prefix")):
            engine.add(method, "1", prompt(name, method, seed=i))
        assert all(entries[-1].ragged for entries in engine.registry.snapshot.values())
