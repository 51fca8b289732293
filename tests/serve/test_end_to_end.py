"""The whole way: a store, a tiny real backbone, the engine, HTTP, and the official client."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest
from serve import tasks
from serve.running import running
from serve.test_http import chat, wait

from softprompt.serve.engine import PromptEngine
from softprompt.serve.http.shelf import Files, Kept
from softprompt.store import Store

ROOT = Path(__file__).parents[2]
KINDS = {"mood": "label", "kind": "label", "parts": "tags", "tale": "write"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and prompt files; nobody changes them."""
    folder = tmp_path_factory.mktemp("served")
    frozen = tasks.backbone(folder)
    made = {name: tasks.prompt(frozen, name, kind, seed) for seed, (name, kind) in enumerate(KINDS.items())}
    (folder / "prompts").mkdir()
    for name, one in made.items():
        tasks.save(one, folder / "prompts" / f"{name}.safetensors")
    return folder, frozen, made


@pytest.fixture
def store(place, tmp_path):
    """A store of these prompts."""
    kept = Store(tmp_path / "store")
    for name in KINDS:
        kept.publish(place[0] / "prompts" / f"{name}.safetensors", name, aliases=["prod"])
    return kept


@pytest.fixture
def server(place, store):
    with PromptEngine(place[1]) as engine, running(engine, Kept(store), watch=0.1) as made:
        yield made


def test_every_task_answers_as_its_prompt_does_alone(server, place):
    client = server.client()
    for name, one in place[2].items():
        for text in tasks.TEXTS[:4]:
            expected = tasks.alone(one, text)
            assert chat(client, name, text).choices[0].message.content == expected
            assert chat(client, f"{name}@1", text).choices[0].message.content == expected
            assert chat(client, f"{name}@prod", text).choices[0].message.content == expected


def test_a_sampled_stream_says_what_the_whole_answer_says(server):
    client = server.client()
    wishes = {"model": "tale", "prompt": tasks.TEXTS[:3], "n": 2, "temperature": 0.9, "seed": 11, "logprobs": 2}
    whole = client.completions.create(**wishes)
    texts = {}
    for chunk in client.completions.create(**wishes, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert len(texts) == 6
    assert whole.usage.completion_tokens > 0
    assert all(value <= 0 for value in whole.choices[0].logprobs.token_logprobs)
    again = client.completions.create(**wishes)
    assert [c.text for c in again.choices] == [c.text for c in whole.choices]
    other = client.completions.create(**wishes | {"seed": 12})
    assert [c.text for c in other.choices] != [c.text for c in whole.choices]


def test_a_stop_string_ends_an_answer_and_is_left_out(server):
    client = server.client()
    whole = client.completions.create(model="tale", prompt=tasks.TEXTS[0]).choices[0].text
    word = whole.split()[2]
    cut = client.completions.create(model="tale", prompt=tasks.TEXTS[0], stop=word).choices[0]
    assert cut.text == whole[: whole.index(word)].rstrip()  # the tokenizer of whole words writes spaces between them
    assert cut.finish_reason == "stop"


def test_probabilities_and_vectors_are_those_of_the_prompt(server, place):
    with server.http() as http:
        found = http.post("/v1/classify", json={"model": "mood", "input": tasks.TEXTS[:3]}).json()["data"]
        vectors = http.post("/v1/embeddings", json={"model": "mood", "input": tasks.TEXTS[:2]}).json()["data"]
    for one, text in zip(found, tasks.TEXTS[:3], strict=True):
        assert one["label"] == tasks.alone(place[2]["mood"], text)
        assert sum(one["probs"]) == pytest.approx(1, abs=1e-4)
    assert len(vectors[0]["embedding"]) == place[1].spec.hidden
    assert vectors[0]["embedding"] != vectors[1]["embedding"]


def test_publishing_aliasing_and_removing_reach_the_server(server, store, place, tmp_path):
    client, text = server.client(), tasks.TEXTS[0]
    other = tasks.prompt(place[1], "other", seed=77)
    store.publish(tasks.save(other, tmp_path / "o.safetensors"), "mood", aliases=["next"], parents=["mood@1"])
    wait(lambda: chat(client, "mood", text).choices[0].message.content.startswith("other-"))
    assert chat(client, "mood@1", text).choices[0].message.content.startswith("mood-")
    assert chat(client, "mood@prod", text).choices[0].message.content.startswith("mood-")
    assert server.http().get("/v1/prompts/mood").json()["parents"][0].endswith("mood@1")
    store.alias("mood@2", "prod")
    wait(lambda: chat(client, "mood@prod", text).choices[0].message.content.startswith("other-"))
    store.unalias("kind@prod")
    store.remove("kind")
    wait(lambda: "kind" not in {model.id for model in client.models.list()})
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, "kind", text)
    assert caught.value.code == "model_not_found"


def test_an_old_version_is_fetched_when_it_is_asked_for(place, store, tmp_path):
    for seed in (50, 51):
        other = tasks.prompt(place[1], f"new{seed}", seed=seed)
        store.publish(tasks.save(other, tmp_path / f"{seed}.safetensors"), "mood")
    store.unalias("mood@prod")
    with PromptEngine(place[1]) as engine, running(engine, Kept(store)) as server:
        assert {m.id for m in server.client().models.list() if m.root == "mood"} == {"mood", "mood@3"}
        answer = chat(server.client(), "mood@1", tasks.TEXTS[0])
        assert answer.choices[0].message.content == tasks.alone(place[2]["mood"], tasks.TEXTS[0])
        assert "mood@1" in {m.id for m in server.client().models.list()}


def test_a_prompt_of_another_model_is_passed_over(place, tmp_path):
    import shutil

    (tmp_path / "other").mkdir()
    foreign = tasks.backbone(tmp_path / "other")
    with_noise = next(foreign.model.parameters())
    with_noise.data.add_(1.0)
    shutil.copytree(place[0] / "prompts", tmp_path / "prompts")
    (tmp_path / "prompts" / "broken.safetensors").write_bytes(b"no prompt")
    with PromptEngine(place[1]) as engine, running(engine, Files([tmp_path / "prompts"])) as server:
        assert {m.root for m in server.client().models.list()} == set(KINDS)
        assert server.service.catalog.refused["broken", "1"][1].startswith("SP-E3")


def test_a_client_that_goes_frees_the_row_within_a_moment(server):
    stream = server.client().completions.create(model="tale", prompt="w7 w8", max_tokens=100, stream=True, n=4)
    next(iter(stream))
    stream.close()
    wait(lambda: server.engine.stats().running == 0 and server.service.gate.busy == 0, 5)


def test_sixteen_clients_get_right_answers_while_prompts_come_and_go(server, store, place, tmp_path):
    """A minute; `SOAK_SECONDS=600` makes it longer (`make soak`)."""
    seconds = float(os.environ.get("SOAK_SECONDS", "60"))
    expected = {(name, text): tasks.alone(one, text) for name, one in place[2].items() for text in tasks.TEXTS}
    extra = tasks.save(tasks.prompt(place[1], "extra", seed=99), tmp_path / "extra.safetensors")
    end, errors, counts, changes = time.monotonic() + seconds, [], [0] * 16, 0

    def ask(i):
        rng, client = random.Random(i), server.client(timeout=60)
        try:
            while time.monotonic() < end:
                name, text = rng.choice(list(expected))
                if rng.random() < 0.3:
                    parts = chat(client, name, text, stream=True)
                    found = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
                else:
                    found = chat(client, name, text).choices[0].message.content
                assert found == expected[name, text], (name, text, found)
                counts[i] += 1
                visit(client, rng.choice(tasks.TEXTS))
        except Exception as error:  # shown below
            errors.append(error)

    def visit(client, text):
        try:
            assert chat(client, "extra", text).choices[0].message.content.startswith("extra-")
        except openai.NotFoundError as error:
            if error.code != "model_not_found":
                raise

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        store.publish(extra, "extra")
        time.sleep(0.15)
        store.remove("extra")
        changes += 1
        time.sleep(0.15)
    for thread in threads:
        thread.join()
    assert errors == []
    assert min(counts) > 0
    assert changes > seconds / 2
    print(f"{sum(counts)} right answers, {changes} prompts added and removed, in {seconds:g} s")


def launch(folder, *arguments, **environment):
    """`softprompt serve` as a process, and what it says of itself."""
    command = [sys.executable, "-m", "softprompt.cli", "serve", "--port", "0", "--json", *arguments]
    command[1:3] = ["-c", "import sys; from softprompt.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    return process, json.loads(text)


def test_sigterm_finishes_what_is_under_way_and_exits_with_0(place):
    process, said = launch(place[0], "--prompts", "prompts", "--model", "llama", "--drain", "20")
    assert said["prompts"] == sorted(KINDS)
    client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0)
    whole = client.completions.create(model="tale", prompt="w7 w8", max_tokens=40, n=8, temperature=1, seed=3)
    stream = iter(client.completions.create(**WISHES))
    parts = {}
    take(next(stream), parts)
    process.send_signal(signal.SIGTERM)
    for chunk in stream:
        take(chunk, parts)
    assert parts == {choice.index: choice.text for choice in whole.choices}
    _, lines = process.communicate(timeout=30)
    assert process.returncode == 0, lines
    events = [json.loads(line) for line in lines.splitlines()]
    assert events[-1]["event"] == "stopped"
    assert "w7" not in lines


WISHES = {"model": "tale", "prompt": "w7 w8", "max_tokens": 40, "n": 8, "temperature": 1, "seed": 3, "stream": True}


def take(chunk, parts):
    for choice in chunk.choices:
        parts[choice.index] = parts.get(choice.index, "") + choice.text


def test_the_command_line_serves_a_store_with_keys_and_an_administrators_port(place, store, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("# ours\nthe-key-of-the-clients\n")
    arguments = ["--store", str(store.folder), "--model", "llama", "--api-keys", str(keys), "--admin-port", "0"]
    process, said = launch(place[0], *arguments, SOFTPROMPT_ADMIN_TOKEN="the-token-of-the-administrator")
    try:
        client = openai.OpenAI(base_url=f"{said['url']}/v1", api_key="the-key-of-the-clients", max_retries=0)
        admin = openai.OpenAI(base_url=f"{said['admin']}/v1", api_key="the-token-of-the-administrator", max_retries=0)
        assert chat(client, "mood", "w7").choices[0].message.content.startswith("mood-")
        admin.post("/unload_prompt_adapter", body={"name": "mood"}, cast_to=object)
        with pytest.raises(openai.NotFoundError):
            chat(client, "mood", "w7")
        admin.post("/sync", body={}, cast_to=object)
        with pytest.raises(openai.NotFoundError):
            chat(client, "mood", "w7")
        admin.post("/load_prompt_adapter", body={"name": "mood"}, cast_to=object)
        assert chat(client, "mood", "w7").choices[0].message.content.startswith("mood-")
        for name in ("nobody", "../mood", "/etc/passwd"):
            with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
                admin.post("/load_prompt_adapter", body={"name": name}, cast_to=object)
        stranger = openai.OpenAI(base_url=f"{said['admin']}/v1", api_key="the-key-of-the-clients", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.post("/sync", body={}, cast_to=object)
        with pytest.raises(openai.NotFoundError):  # the administrator's calls are not on the clients' port
            client.post("/sync", body={}, cast_to=object)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_server_beside_other_work_is_asked_by_the_demo(place):
    from softprompt.demo import served

    asked = [(name, text) for name in KINDS for text in tasks.TEXTS[:2]]
    address, answers = served.ask(place[0] / "prompts", place[1], asked)
    assert address.startswith("http://127.0.0.1:")
    assert answers == [tasks.alone(place[2][name], text) for name, text in asked]


def test_thin_clients_print_what_the_prompts_answer(server, place, tmp_path, capsys):
    from softprompt.cli import main

    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tasks.TEXTS[:3]))
    for name, one in place[2].items():
        capsys.readouterr()
        assert main(["predict", name, str(texts), "--server", server.url]) == 0
        assert capsys.readouterr().out.splitlines() == [tasks.alone(one, text) for text in tasks.TEXTS[:3]]
        assert main(["chat", name, tasks.TEXTS[0], "--server", server.url]) == 0
        assert capsys.readouterr().out.strip() == tasks.alone(one, tasks.TEXTS[0])
    assert main(["chat", "nobody", "w7", "--server", server.url, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "SP-E777"
    assert main(["chat", "mood", "w7", "--server", "http://127.0.0.1:9"]) == 2
    assert "SP-E776" in capsys.readouterr().err
