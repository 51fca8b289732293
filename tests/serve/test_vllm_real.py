"""The server over a real vLLM, through the official client: `make vllm-check` runs it in an environment of its own."""

import os
import signal
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from serve import tasks
from serve.test_end_to_end import launch
from serve.test_http import chat, wait

from softprompt.backbones import load_backbone
from softprompt.core import Start
from softprompt.heads import LanguageModel
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task
from softprompt.serve.contract import Request, Sampling
from softprompt.serve.engine import PromptEngine
from softprompt.store import Store
from softprompt.template import Template

if find_spec("vllm") is None:
    pytest.skip("needs vLLM, which pins other versions than ours: make vllm-check", allow_module_level=True)

MODEL, TOKEN = "softprompt/tiny", "the-token-of-the-administrator"
TEXTS = ["name[The Quiet Fox], food[Indian]", "It broke after a day.", "A kettle that boils fast.", "The train leaves."]
MOST = 24
# Of vLLM on a CPU: little memory, no compiler, no core of its own.
LEAN = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def prompt(frozen, words, seed):
    """Eight vectors near words."""
    torch.manual_seed(seed)
    near = words[torch.randint(300, 4000, (8,))] + 0.02 * torch.randn(8, frozen.spec.hidden)
    template = Template(("{soft}", "{soft}The story: ")[seed % 2] + "{text}", frozen, length=8)
    method = PromptTuning(frozen.spec, Start(near.clone()))
    return Prompt(frozen, method, LanguageModel(), template, Task("generation", new_tokens=MOST)).eval()


def answers(frozen, made):
    """What the built-in engine writes for every prompt: tokens with their log-probabilities, text and reason."""
    with PromptEngine(frozen) as engine:
        asked = {}
        for number, (name, one) in enumerate(made.items()):
            engine.add(name, "1", one)
            sampling = Sampling(MOST, logprobs=2)
            asked[name] = engine.submit(Request(name, {"text": TEXTS[number % 4]}, "write", sampling=sampling))
        return {name: ticket.result(120) for name, ticket in asked.items()}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    frozen, store = load_backbone(MODEL, dtype="float32"), Store(folder / "store")
    words = frozen.model.get_input_embeddings().weight.detach()
    made = {f"p{seed}": prompt(frozen, words, seed) for seed in range(16)}
    for name, one in made.items():
        store.publish(tasks.save(one, folder / f"{name}.safetensors"), name)
    store.publish(tasks.save(tasks.prompt(frozen, "mood"), folder / "mood.safetensors"), "mood")
    process, said = begun(folder, store)
    made_here = SimpleNamespace(
        process=process, said=said, store=store, folder=folder, made=made, prompt=lambda s: prompt(frozen, words, s)
    )
    made_here.client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0, timeout=240)
    made_here.admin = openai.OpenAI(base_url=f"{said['admin']}/v1", api_key=TOKEN, max_retries=0)
    made_here.right = answers(frozen, made)
    made_here.alone = lambda s, text: tasks.alone(prompt(frozen, words, s), text)
    yield made_here
    if process.poll() is None:
        process.kill()
        process.communicate()


def begun(folder, store):
    """A server over vLLM, and what it says of itself."""
    wanted = ("enforce_eager=true", "max_model_len=512", "distributed_executor_backend=uni")
    options = [part for one in wanted for part in ("--engine-option", one)]
    arguments = ["--engine", "vllm", "--store", str(store.folder), "--model", MODEL, "--admin-port", "0", *options]
    return launch(folder, *arguments, SOFTPROMPT_ADMIN_TOKEN=TOKEN, **LEAN)


def counts(here):
    """Numbers of /metrics by their first words."""
    page = httpx.get(f"{here.said['url']}/metrics", timeout=60).text
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_sixteen_prompts_asked_at_once_write_what_the_built_in_engine_writes_token_for_token(here):
    assert here.said["prompts"] == sorted(here.made)
    found, errors = {}, []

    def ask(number, name):
        try:
            found[name] = here.client.completions.create(model=name, prompt=TEXTS[number % 4], logprobs=2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(here.made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    total = 0
    for name, right in here.right.items():
        choice, tokens = found[name].choices[0], right.tokens[0]
        assert (choice.text, choice.finish_reason) == (right.texts[0], right.reasons[0])
        assert choice.logprobs.tokens == [token.text for token in tokens]
        assert choice.logprobs.token_logprobs == pytest.approx([token.logprob for token in tokens], abs=1e-3)
        for best, token in zip(choice.logprobs.top_logprobs, tokens, strict=True):
            assert best == pytest.approx(dict(token.top), abs=1e-3)
        assert found[name].usage.prompt_tokens == right.usage.prompt_tokens
        total += len(tokens)
    assert total > 60
    print(f"16 of 16 answers equal, {total} tokens")


def test_chat_stream_stop_and_choices(here):
    name = max(here.right, key=lambda name: len(here.right[name].texts[0].split()))
    text, right = TEXTS[list(here.made).index(name) % 4], here.right[name].texts[0]
    assert chat(here.client, name, text).choices[0].message.content == right
    parts = list(here.client.completions.create(model=name, prompt=text, stream=True))
    assert "".join(choice.text for part in parts for choice in part.choices) == right
    assert len(parts) > 3
    word = right.split()[1]
    cut = here.client.completions.create(model=name, prompt=text, stop=word).choices[0]
    assert (cut.text, cut.finish_reason) == (right[: right.index(word)].rstrip(), "stop")
    wishes = {"model": name, "prompt": text, "n": 2, "temperature": 1.2, "seed": 5, "max_tokens": 8}
    whole, again = (here.client.completions.create(**wishes) for _ in range(2))
    assert [c.text for c in whole.choices] == [c.text for c in again.choices]
    assert whole.choices[0].text != whole.choices[1].text
    texts = {}
    for part in here.client.completions.create(**wishes, stream=True):
        for choice in part.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}


def test_prompts_come_and_go_through_the_administrators_port(here):
    refused = here.admin.get("/prompts", cast_to=httpx.Response).json()
    assert "SP-E429" in str(refused), refused
    for name in ("mood", "nobody", "later"):
        with pytest.raises(openai.NotFoundError) as caught:
            chat(here.client, name, TEXTS[0])
        assert caught.value.code == "model_not_found"
    here.store.publish(tasks.save(here.prompt(50), here.folder / "later.safetensors"), "later")
    here.admin.post("/load_prompt_adapter", body={"name": "later"}, cast_to=object)
    for seed, text in ((50, TEXTS[0]), (50, TEXTS[1])):
        assert chat(here.client, "later", text).choices[0].message.content == here.alone(seed, text)
    # Another content under the same name, asked the same text: no state of vLLM's may stand for it.
    here.store.publish(tasks.save(here.prompt(52), here.folder / "newer.safetensors"), "later")
    here.admin.post("/sync", body={}, cast_to=object)
    assert chat(here.client, "later", TEXTS[0]).choices[0].message.content == here.alone(52, TEXTS[0])
    assert chat(here.client, "later@1", TEXTS[0]).choices[0].message.content == here.alone(50, TEXTS[0])
    here.admin.post("/unload_prompt_adapter", body={"name": "later"}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        chat(here.client, "later", TEXTS[0])
    with pytest.raises(openai.BadRequestError, match=r"SP-E429.*built-in engine"):
        here.client.embeddings.create(model="p0", input=TEXTS[0])


def test_a_client_that_goes_is_aborted(here):
    wishes = {"model": "p0", "prompt": TEXTS[0], "temperature": 2, "seed": 1, "max_tokens": 450, "n": 8}
    stream = here.client.completions.create(**wishes, stream=True)
    next(iter(stream))
    stream.close()
    wait(lambda: any("cancelled" in name and value for name, value in counts(here).items()), 20)
    assert not any("num_requests_running" in name and value for name, value in counts(here).items())


def test_a_ctrl_c_of_the_terminal_finishes_what_is_under_way_and_ends_vllm(here):
    wishes = {"model": "p1", "prompt": TEXTS[0], "temperature": 1.5, "seed": 3, "max_tokens": 60, "n": 4}
    whole = here.client.completions.create(**wishes)
    stream, texts = iter(here.client.completions.create(**wishes, stream=True)), {}
    everyone = [here.process.pid, *children(here.process.pid)]
    assert len(everyone) > 1
    for number, part in enumerate(stream):
        if number == 0:
            for process in everyone:  # a terminal tells all of them
                os.kill(process, signal.SIGINT)
        for choice in part.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}
    _, lines = here.process.communicate(timeout=60)
    assert here.process.returncode == 0, lines[-2000:]
    assert '"event": "stopped"' in lines
    assert TEXTS[0] not in lines
    wait(lambda: not any(Path(f"/proc/{process}").exists() for process in everyone), 20)


def children(process):
    """What a process has started."""
    tasks_of = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks_of for child in (task / "children").read_text().split()]


def test_a_vllm_that_is_killed_is_told_by_health_and_no_request_waits_for_it(tmp_path):
    frozen, store = load_backbone(MODEL, dtype="float32"), Store(tmp_path / "store")
    words = frozen.model.get_input_embeddings().weight.detach()
    store.publish(tasks.save(prompt(frozen, words, 1), tmp_path / "one.safetensors"), "one")
    process, said = begun(tmp_path, store)
    client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0, timeout=60)
    family = children(process.pid)
    try:
        assert httpx.get(f"{said['url']}/health", timeout=20).status_code == 200
        wishes = {"model": "one", "prompt": TEXTS[0], "temperature": 2, "seed": 1, "max_tokens": 450, "n": 4}
        stream = iter(client.completions.create(**wishes, stream=True))
        next(stream)
        engines = [child for child in family if "EngineCor" in Path(f"/proc/{child}/comm").read_text()]  # cut there
        assert len(engines) == 1, family
        os.kill(engines[0], signal.SIGKILL)
        with pytest.raises(openai.APIError, match="SP-E842"):
            list(stream)
        for path in ("/health", "/ready"):
            wait(lambda path=path: httpx.get(f"{said['url']}{path}", timeout=20).status_code == 503, 20)
        assert "SP-E842" in httpx.get(f"{said['url']}/health", timeout=20).json()["reason"]
        with pytest.raises(openai.InternalServerError, match="SP-E842"):
            chat(client, "one", TEXTS[1])
        process.send_signal(signal.SIGTERM)
        _, lines = process.communicate(timeout=60)
        assert process.returncode == 0, lines[-2000:]
        assert '"event": "engine_failed"' in lines
    finally:
        if process.poll() is None:
            for one in (process.pid, *family):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
