"""Our side of vLLM: what it is asked, what its tokens become, and what is refused. The engine here is a small one."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import openai
import pytest
import tiny_runs
import torch
from serve import tasks
from serve.running import running
from serve.spoken import Params, Spoken
from serve.test_http import chat, wait

from softprompt.cli import main
from softprompt.cli.serve_vllm import values
from softprompt.core import Start
from softprompt.errors import DataError, RecipeError, SoftpromptError, Unsupported
from softprompt.heads import LanguageModel
from softprompt.methods.idpg import IDPG
from softprompt.methods.prefix import PrefixTuning
from softprompt.prompt import Prompt, Task
from softprompt.serve.contract import Request, Sampling, ServeError
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.limits import Limits
from softprompt.serve.http.shelf import Kept
from softprompt.serve.vllm import opened
from softprompt.serve.vllm.engine import Vllm
from softprompt.store import Store
from softprompt.template import Template

TEXT = tasks.TEXTS[0]
TALES = {"tale": 3, "saga": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A backbone, prompts that write, and their files."""
    folder = tmp_path_factory.mktemp("vllm")
    frozen = tasks.backbone(folder)
    made = {name: tasks.prompt(frozen, name, "write", seed) for name, seed in TALES.items()}
    for name, one in made.items():
        tasks.save(one, folder / f"{name}.safetensors")
    tasks.save(tasks.prompt(frozen, "mood"), folder / "mood.safetensors")
    return SimpleNamespace(folder=folder, frozen=frozen, made=made)


@contextmanager
def vllm(place, pause=0.0, *, limits=None, **more):
    engine = Spoken(place.frozen, pause, **more)
    made = Vllm(place.frozen, engine, Params, limits or Limits())
    try:
        yield made
    finally:
        made.close(drain=False)
        assert engine.closed
        assert not made.thread.is_alive()


@contextmanager
def served(place, folder, **more):
    """A server over the small engine, and its store."""
    store = Store(folder / "store")
    for name in (*TALES, "mood"):
        store.publish(place.folder / f"{name}.safetensors", name)
    with vllm(place, **more) as engine, running(engine, Kept(store)) as server:
        yield SimpleNamespace(
            client=server.client(), http=server.http(), service=server.service, engine=engine, store=store
        )


def test_the_api_over_vllm_says_what_it_says_over_the_built_in_engine(place, tmp_path):
    own = {"logprobs": 3, "max_tokens": 6}
    built_in = PromptEngine(place.frozen)
    with served(place, tmp_path) as here, built_in, running(built_in, Kept(here.store)) as server:
        for name in TALES:
            answer = chat(here.client, name, TEXT)
            assert answer.choices[0].message.content == tasks.alone(place.made[name], TEXT)
            ours, theirs = (
                client.completions.create(model=name, prompt=TEXT, **own) for client in (server.client(), here.client)
            )
            mine, its = ours.choices[0], theirs.choices[0]
            assert (its.text, its.finish_reason) == (mine.text, mine.finish_reason)
            assert its.logprobs.tokens == mine.logprobs.tokens
            for one, other in zip(mine.logprobs.top_logprobs, its.logprobs.top_logprobs, strict=True):
                assert other == pytest.approx(one, abs=1e-4)
            assert theirs.usage.prompt_tokens == ours.usage.prompt_tokens
            assert theirs.usage.completion_tokens == ours.usage.completion_tokens
            assert theirs.usage.prompt_tokens_details.cached_tokens == 3  # vLLM's own count
            word = mine.text.split()[1]
            cuts = [c.completions.create(model=name, prompt=TEXT, stop=word) for c in (server.client(), here.client)]
            assert cuts[0].choices[0].text == cuts[1].choices[0].text
            assert cuts[1].choices[0].finish_reason == "stop"


def test_a_stream_of_sampled_choices_is_the_whole_answer_and_the_seed_says_which(place, tmp_path):
    wishes = {"model": "tale", "prompt": [TEXT, tasks.TEXTS[1]], "n": 2, "temperature": 0.9, "seed": 11}
    with served(place, tmp_path) as here:
        whole, again = (here.client.completions.create(**wishes) for _ in range(2))
        texts = {}
        for chunk in here.client.completions.create(**wishes, stream=True):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
        other = here.client.completions.create(**wishes | {"seed": 12})
    said = [choice.text for choice in whole.choices]
    assert said == [choice.text for choice in again.choices] == [texts[i] for i in range(4)]
    assert len(set(said)) == 4
    assert said != [choice.text for choice in other.choices]


def test_prompts_come_and_go_and_others_than_these_are_refused(place, tmp_path):
    with served(place, tmp_path) as here:
        assert here.service.catalog.refused["mood", "1"][1] == "SP-E429"
        extra = tasks.prompt(place.frozen, "extra", "write", seed=9)
        here.store.publish(tasks.save(extra, tmp_path / "extra.safetensors"), "tale")
        here.service.catalog.sync()
        assert chat(here.client, "tale", TEXT).choices[0].message.content == tasks.alone(extra, TEXT)
        first = chat(here.client, "tale@1", TEXT).choices[0].message.content
        assert first == tasks.alone(place.made["tale"], TEXT)
        here.store.remove("tale")
        here.service.catalog.sync()
        for name in ("tale", "mood", "nobody"):
            with pytest.raises(openai.NotFoundError, match="no prompt of that name"):
                chat(here.client, name, TEXT)
        with pytest.raises(openai.BadRequestError, match=r"SP-E429.*built-in engine"):
            here.client.embeddings.create(model="saga", input=TEXT)
        assert {info.name for info in here.engine.names()} == {"saga"}


def test_a_client_that_goes_is_aborted_in_vllm(place, tmp_path):
    with served(place, tmp_path, pause=0.05) as here:
        before = len(here.engine.engine.asked)
        stream = here.client.completions.create(model="tale", prompt=TEXT, max_tokens=40, stream=True, n=2)
        next(iter(stream))
        stream.close()
        wait(lambda: not here.engine.under_way)
        mine = [number for number, _ in here.engine.engine.asked[before:]]
        assert sorted(here.engine.engine.aborted) == sorted(mine)
        assert len(mine) == 2
        assert here.engine.stats().requests == {"cancelled": 1}
        here.engine.remove("tale")  # nobody holds it any more


def test_a_stop_string_aborts_its_choice_and_an_end_aborts_nothing(place):
    with vllm(place) as engine:
        engine.add("tale", "1", place.made["tale"])
        whole = engine.submit(Request("tale", {"text": TEXT}, "write")).result(20)
        assert engine.engine.aborted == []
        word = whole.texts[0].split()[1]
        cut = engine.submit(Request("tale", {"text": TEXT}, "write", sampling=Sampling(stop=(word,)))).result(20)
        assert cut.reasons == ("stop",)
        assert cut.texts[0] == whole.texts[0][: whole.texts[0].index(word)].rstrip()
        assert engine.engine.aborted == [engine.engine.asked[-1][0]]
        assert cut.usage.completion_tokens < whole.usage.completion_tokens


def test_what_vllm_is_asked(place):
    with vllm(place) as engine:
        engine.add("tale", "1", place.made["tale"])
        asked = Sampling(5, temperature=0.7, top_p=0.8, stop=("w6",), seed=4, logprobs=2, n=2)
        for sampling in (Sampling(), asked, asked):
            engine.submit(Request("tale", {"text": TEXT}, "write", sampling=sampling)).result(20)
        plain, *sampled = [params for _, params in engine.engine.asked[-5:]]
        ends = sorted({place.made["tale"].template.tokenizer.eos_token_id})
        assert (plain.temperature, plain.seed, plain.logprobs, plain.max_tokens) == (0.0, None, None, 8)
        assert plain.stop_token_ids == ends
        assert [(p.temperature, p.top_p, p.logprobs, p.max_tokens) for p in sampled] == [(0.7, 0.8, 2, 5)] * 4
        assert sampled[0].seed != sampled[1].seed  # a choice has a seed of its own
        assert [p.seed for p in sampled[:2]] == [p.seed for p in sampled[2:]]


def test_a_full_context_and_a_full_queue_are_refused(place):
    with vllm(place, 0.05, limits=Limits(rows=2, waiting=1), longest=24) as engine:
        engine.add("tale", "1", place.made["tale"])
        assert engine.names()[0].limit == 24
        with pytest.raises(DataError, match=r"SP-E104.*at most 23"):
            engine.submit(Request("tale", {"text": "w7 " * 30}, "write"))
        with pytest.raises(ServeError, match="SP-E704"):
            engine.submit(Request("tale", {"text": TEXT}, "write", sampling=Sampling(n=3)))
        long = Request("tale", {"text": "w7 w8"}, "write", sampling=Sampling(100))
        first, second = (
            engine.submit(long),
            engine.submit(Request("tale", {"text": "w7"}, "write", sampling=Sampling(n=2))),
        )
        with pytest.raises(ServeError, match="SP-E702"):
            engine.submit(long)
        assert (engine.stats().running, engine.stats().waiting) == (2, 1)
        second.cancel()
        answer = first.result(30)
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens <= 24


def test_closing_finishes_what_is_under_way_or_cancels_it(place):
    request = Request("tale", {"text": TEXT}, "write", sampling=Sampling(30))
    for drain, outcome in ((True, "done"), (False, "cancelled")):
        with vllm(place, 0.02) as engine:
            engine.add("tale", "1", place.made["tale"])
            ticket = engine.submit(request)
            engine.close(drain=drain)
            assert engine.stats().requests == {outcome: 1}
            with pytest.raises(ServeError, match="SP-E703"):
                engine.submit(request)
            if drain:
                assert ticket.result(0).texts[0]


def test_a_vllm_that_fails_under_way_ends_the_request_with_one_line(place):
    for broken in ({"fails": True}, {"ends": "abort"}):
        with vllm(place, **broken) as engine:
            engine.add("tale", "1", place.made["tale"])
            handle = engine.submit(Request("tale", {"text": TEXT}, "write", sampling=Sampling(30, n=2)))
            with pytest.raises(ServeError, match="SP-E848") as caught:
                handle.result(20)
            assert caught.value.trouble == "internal"
            assert "died" not in str(caught.value)
            wait(lambda one=engine: not one.under_way)


def test_a_vllm_that_has_died_is_told_by_health_and_nothing_waits_for_it(place, tmp_path):
    with served(place, tmp_path, pause=0.02) as here, here.http as http:
        assert [http.get(path).status_code for path in ("/health", "/ready")] == [200, 200]
        stream = iter(here.client.completions.create(model="tale", prompt=TEXT, max_tokens=90, stream=True))
        next(stream)
        here.engine.engine.errored = True  # and it says nothing to those who wait
        with pytest.raises(openai.APIError, match="SP-E842"):
            list(stream)
        for path in ("/health", "/ready"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "failed")
            assert answer.json()["reason"].startswith("SP-E842 found a vLLM that has ended")
        with pytest.raises(openai.InternalServerError, match="SP-E842") as caught:
            chat(here.client, "tale", TEXT)
        assert (caught.value.status_code, caught.value.code) == (503, "engine_failed")
        assert here.engine.stats().requests == {"engine_failed": 1}
        here.store.publish(tasks.save(tasks.prompt(place.frozen, "new", "write"), tmp_path / "n.safetensors"), "new")
        here.service.catalog.sync()
        assert here.service.catalog.refused["new", "1"][1] == "SP-E842"


def test_a_vllm_that_says_that_it_has_died_ends_the_request_with_the_same_line(place):
    with vllm(place, 0.02) as engine:
        engine.add("tale", "1", place.made["tale"])
        engine.engine.tells = True
        handle = engine.submit(Request("tale", {"text": TEXT}, "write", sampling=Sampling(90)))
        engine.engine.errored = True
        with pytest.raises(ServeError, match="SP-E842") as caught:
            handle.result(20)
        assert caught.value.trouble == "engine_failed"


def test_a_vllm_with_another_model_serves_nothing(place, tmp_path_factory):
    other = tasks.backbone(tmp_path_factory.mktemp("other"))
    other.model.get_output_embeddings().weight.data.mul_(1.5)
    with vllm(SimpleNamespace(frozen=other)) as engine:
        engine.backbone = place.frozen
        with pytest.raises(SoftpromptError, match=r"SP-E849.*built-in engine"):
            engine.add("tale", "1", place.made["tale"])
        assert engine.names() == ()


def test_what_vllm_cannot_do_is_refused_in_one_line_that_names_the_built_in_engine(place, tmp_path):
    def prompt(frozen, method, form):
        torch.manual_seed(1)
        made = method(frozen.spec, Start(torch.randn(4, frozen.spec.hidden)))
        template = Template(form, frozen, length=4, prefix=0 if "{soft" in form else 4)
        return Prompt(frozen, made, LanguageModel(), template, Task("generation", new_tokens=8)).eval()

    gpt2 = tiny_runs.open_model(tmp_path, "gpt2")
    cases = {
        "prefix": prompt(place.frozen, PrefixTuning, "{text}"),
        "depend": prompt(place.frozen, IDPG, "{soft}{text}"),
        "classification": tasks.prompt(place.frozen, "mood"),
        "tagging": tasks.prompt(place.frozen, "parts", "tags"),
    }
    with vllm(place) as engine:
        for words, one in cases.items():
            with pytest.raises(Unsupported, match=rf"SP-E429.*{words}.*built-in engine"):
                engine.add("no", "1", one)
        assert engine.engine.asked == []
        engine.backbone = gpt2
        with pytest.raises(Unsupported, match=r"SP-E429.*gpt2.*built-in engine"):
            engine.add("no", "1", tasks.prompt(gpt2, "no", "write"))
        assert engine.names() == ()


def test_the_command_says_what_is_missing(place, monkeypatch, capsys):
    here = ["serve", "--prompts", str(place.folder / "tale.safetensors"), "--model", str(place.folder / "llama")]
    asked = {
        "SP-E845": [*here, "--engine", "vllm"],
        "SP-E846": [*here, "--engine-option", "seed=1"],
    }
    monkeypatch.setattr(opened, "find_spec", lambda name: None)
    for code, arguments in asked.items():
        assert main(arguments) == 2
        assert code in capsys.readouterr().err
    assert main([*here, "--engine", "vllm", "--on", "ray"]) == 2
    assert "SP-E846" in capsys.readouterr().err
    monkeypatch.setattr(opened, "find_spec", lambda name: "there")
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert main([*here, "--engine", "vllm"]) == 2
    told = capsys.readouterr().err
    assert "SP-E845" in told
    assert "pip install vllm" in told


@dataclass
class Args:
    """Some fields of vLLM's `AsyncEngineArgs`."""

    model: str
    dtype: str
    enable_prompt_embeds: bool
    max_num_seqs: int
    shutdown_timeout: int
    disable_log_stats: bool = False
    max_model_len: int = 100


def package(monkeypatch, place, error=None):
    """A package `vllm` that starts the small engine, or fails; what it was started with."""
    asked = []

    def start(args):
        asked.append(args)
        if error is not None:
            raise error
        return Spoken(place.frozen, longest=args.max_model_len)

    names = {
        "vllm": {"SamplingParams": lambda output_kind, **more: Params(**more)},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": Args},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA=1)},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_engine_args=start)},
    }
    for name, content in names.items():
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[name]).update(content)
    monkeypatch.setattr(opened, "find_spec", lambda name: "there")
    for name in opened.SETTINGS:
        monkeypatch.setenv(name, "theirs")
    return asked


def test_vllm_is_started_on_the_backbone_of_the_prompts_and_ended_with_the_server(place, monkeypatch):
    asked = package(monkeypatch, place)
    wanted = {"name": str(place.folder / "llama"), "dtype": "float32", "adapter": None, "quantize": "none"}
    with opened.opened(wanted, Limits(rows=4), 7.5, {"max_model_len": 50}) as engine:
        engine.add("tale", "1", place.folder / "tale.safetensors")
        answer = engine.submit(Request("tale", {"text": TEXT}, "write")).result(20)
    assert answer.texts[0] == tasks.alone(place.made["tale"], TEXT)
    assert asked == [Args(wanted["name"], "float32", True, 4, 7, True, 50)]
    assert engine.longest == 50
    assert not engine.thread.is_alive()


def test_a_vllm_that_does_not_start_says_so_in_one_line(place, monkeypatch):
    package(monkeypatch, place, RuntimeError("no memory\nand more lines"))
    wanted = {"name": str(place.folder / "llama")}
    with pytest.raises(SoftpromptError, match=r"SP-E847.*no memory; expected"), opened.opened(wanted, Limits(), 1.0):
        pass


def test_a_backbone_that_was_changed_is_not_handed_to_vllm(place, monkeypatch):
    monkeypatch.setattr(opened, "find_spec", lambda name: "there")
    for change in ({"adapter": "lora"}, {"quantize": "int8"}):
        wanted = {"name": str(place.folder / "llama"), "dtype": "float32", **change}
        with pytest.raises(Unsupported, match=r"SP-E429.*built-in engine"), opened.opened(wanted, Limits(), 1.0):
            pass


def test_options_of_vllm_are_checked_before_it_starts():
    assert values(["max-model-len=512", "enforce_eager=true", "device=cpu"]) == {
        "max_model_len": 512,
        "enforce_eager": True,
        "device": "cpu",
    }
    known = ["max_model_len", "model", "trust_remote_code"]
    opened.check_options({"max_model_len": 512}, known, {"model": "x"})
    for name in ("max_len", "model", "trust_remote_code"):
        with pytest.raises(RecipeError, match="SP-E846"):
            opened.check_options({name: 1}, known, {"model": "x"})
    for text in ("max_model_len", "=3"):
        with pytest.raises(RecipeError, match="SP-E846"):
            values([text])
