"""The server as clients see it: the official client unchanged, streams, names, versions and tokens."""

import base64
import json
import struct

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.small_engine import SmallShelf, artifact


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def chat(client, model, text="hello", **options):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def test_every_prompt_is_a_model_with_the_backbone_as_parent(client):
    models = {model.id: model for model in client.models.list()}
    assert {"moods", "moods@1", "moods@2", "moods@prod", "writer"} <= models.keys()
    assert {model.parent for model in models.values()} == {"small"}
    assert models["moods"].version == "2"
    assert client.models.retrieve("moods@prod").version == "1"


def test_a_name_means_the_newest_version_and_an_alias_the_one_it_points_to(client):
    assert chat(client, "moods").choices[0].message.content == "bad"
    assert chat(client, "moods@latest").choices[0].message.content == "bad"
    assert chat(client, "moods@1").choices[0].message.content == "good"
    answer = chat(client, "moods@prod")
    assert answer.choices[0].message.content == "good"
    assert answer.system_fingerprint == "moods@1"


def test_a_completion_has_text_reason_and_usage(client):
    answer = client.completions.create(model="writer", prompt="one two three")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two three", "stop")
    assert answer.usage.model_dump(exclude_unset=True, exclude_none=True) == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    short = client.completions.create(model="writer", prompt="one two three", max_tokens=2)
    assert (short.choices[0].text, short.choices[0].finish_reason) == ("one two", "length")


def test_choices_and_prompts_are_numbered_one_after_the_other(client):
    answer = client.completions.create(model="writer", prompt=["a b", "c"], n=2)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a b"), (1, "a b"), (2, "c"), (3, "c")]
    assert answer.usage.completion_tokens == 6


def offsets(choice):
    return list(zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True))


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_answer_says(client, n):
    whole = client.completions.create(model="writer", prompt=["one two", "three"], n=n, logprobs=1)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    texts, reasons, tokens, usage = {}, {}, {}, None
    for chunk in client.completions.create(model="writer", prompt=["one two", "three"], n=n, logprobs=1, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason
            if choice.logprobs:
                tokens.setdefault(choice.index, []).extend(offsets(choice))
    assert texts == {c.index: c.text for c in whole.choices}
    assert reasons == {c.index: c.finish_reason for c in whole.choices}
    assert tokens == {c.index: offsets(c) for c in whole.choices}
    assert usage == whole.usage


def test_a_chat_streams_a_role_then_words_then_a_reason(client):
    chunks = list(chat(client, "writer", "one two", stream=True, logprobs=True, top_logprobs=1))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[1].choices[0].logprobs.content[0].top_logprobs[0].token == "other"
    whole = chat(client, "writer", "one two", logprobs=True)
    assert [t.token for t in whole.choices[0].logprobs.content] == ["one", " two"]


def test_a_prompt_that_classifies_answers_a_chat_with_its_label(client):
    assert "".join(c.choices[0].delta.content or "" for c in chat(client, "moods", stream=True)) == "bad"
    assert chat(client, "stars", "a b c").choices[0].message.content == "3"
    with pytest.raises(openai.BadRequestError, match="n, stop and logprobs do nothing"):
        chat(client, "moods", n=2)


def test_labels_come_with_the_probability_of_each(server):
    with server.http() as http:
        answer = http.post("/v1/classify", json={"model": "moods", "input": ["x", {"text": "y"}]}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1]
    assert answer["data"][0]["label"] == "bad"
    assert answer["data"][0]["probabilities"] == {"good": 0.25, "bad": 0.75}
    assert answer["data"][0]["probs"] == [0.25, 0.75]
    assert answer["data"][0]["num_classes"] == 2
    assert answer["usage"]["total_tokens"] == 10


def test_tags_and_numbers(server):
    with server.http() as http:
        for given in ("ab c", [["ab", "c"]]):
            answer = http.post("/v1/tag", json={"model": "tagger", "input": given}).json()
            assert answer["data"] == [{"index": 0, "tags": ["O", "X"]}]
        answer = http.post("/v1/regress", json={"model": "stars", "input": "a b"}).json()
        assert answer["data"] == [{"index": 0, "number": 2.0}]


def test_vectors_are_the_same_in_both_encodings(client, server):
    floats = client.embeddings.create(model="moods", input=["x", "y"], encoding_format="float").data
    coded = client.embeddings.create(model="moods", input=["x", "y"]).data  # the client asks for base64
    assert [one.embedding for one in floats] == [pytest.approx(one.embedding, abs=1e-7) for one in coded]
    with server.http() as http:
        raw = http.post("/v1/embeddings", json={"model": "moods", "input": "x", "encoding_format": "base64"}).json()
    assert len(struct.unpack("<4f", base64.b64decode(raw["data"][0]["embedding"]))) == 4


def test_a_prompt_of_several_columns_wants_all_of_them_and_no_other(server):
    with server.http() as http:
        pair = {"premise": "a", "hypothesis": "b"}
        assert http.post("/v1/classify", json={"model": "pair", "input": pair}).status_code == 200
        for wrong in ("a", {"premise": "a"}, pair | {"other": "c"}):
            answer = http.post("/v1/classify", json={"model": "pair", "input": wrong})
            assert answer.status_code == 400
            assert "premise, hypothesis" in answer.json()["error"]["message"]


def test_the_wrong_task_is_said_with_the_right_route(server):
    with server.http() as http:
        answer = http.post("/v1/classify", json={"model": "writer", "input": "x"})
    assert answer.status_code == 400
    assert "/v1/completions" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["nobody", "moods@9", "moods@gone", "Moods", "moods@latest2"])
def test_an_unknown_name_is_404_model_not_found(client, name):
    for ask in (
        lambda: chat(client, name),
        lambda: chat(client, name, stream=True),
        lambda: client.models.retrieve(name),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert caught.value.code == "model_not_found"


NAMES = [
    "../moods", "/etc/passwd", "moods/../moods", "file:///etc/passwd", "http://example.org/x", "hub:user/name", "~root",
    "a\\b", "%2e%2e", "moods\0", ".", "..", "@", "moods@", "@prod", "moods@@1", "moods@1@2", "-rf", " moods", "moods ",
    "mооds", "‮moods", "CON:", "moods\n", "x" * 129, "store:moods", "{moods}", "*", "moods?", "moods#1", "${HOME}",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_paths_and_addresses_are_no_names(server, name):
    with server.http() as http:
        answer = http.post("/v1/classify", json={"model": name, "input": "x"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_model_name"
    assert len(name) < 3 or name not in answer.text


def test_prompts_come_and_go_while_the_server_runs(start):
    shelf = SmallShelf()
    shelf.put("first", artifact(answer="good"))
    with start(shelf=shelf, watch=0.05) as server:
        client = server.client()
        with pytest.raises(openai.NotFoundError):
            chat(client, "second")
        shelf.put("second", artifact(answer="bad"))
        wait(lambda: "second" in {m.id for m in client.models.list()})
        assert chat(client, "second").choices[0].message.content == "bad"
        shelf.put("second", artifact(answer="good"))
        wait(lambda: chat(client, "second").choices[0].message.content == "good")
        shelf.take("first")
        wait(lambda: "first" not in {m.id for m in client.models.list()})
        with pytest.raises(openai.NotFoundError):
            chat(client, "first")


def test_a_broken_prompt_leaves_the_others_and_its_old_version_alone(start):
    shelf = SmallShelf()
    shelf.put("good", artifact(answer="good"))
    with start(shelf=shelf, watch=0) as server:
        shelf.put("good", artifact(answer="broken"))
        shelf.put("bad", artifact(answer="broken"))
        server.service.catalog.sync()
        client = server.client()
        assert chat(client, "good").choices[0].message.content == "good"
        with pytest.raises(openai.NotFoundError):
            chat(client, "bad")
        assert server.service.catalog.refused["bad", "1"][1] == "SP-E123"


def test_metrics_are_prometheus_with_the_names_of_vllm(server, client):
    chat(client, "writer", "one two three")
    with server.http() as http:
        families = {f.name: f for f in text_string_to_metric_families(http.get("/metrics").text)}
    wanted = {"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:prompt_tokens", "vllm:generation_tokens"}
    wanted |= {"vllm:e2e_request_latency_seconds", "vllm:time_to_first_token_seconds", "vllm:request_success"}
    assert wanted <= families.keys()
    counts = [s.value for s in families["vllm:e2e_request_latency_seconds"].samples if s.name.endswith("_count")]
    assert counts[0] >= 1
    tasks = {s.labels["task"] for s in families["softprompt:task_requests"].samples}
    assert "writer" in tasks


def test_the_state_of_the_server(server):
    with server.http() as http:
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/ready").json() == {"status": "ready", "prompts": 5}
        assert http.get("/version").json()["backbone"] == "small"
        assert http.get("/live").json()["running"] == 0
        paths = http.get("/openapi.json").json()["paths"]
        assert {"/v1/chat/completions", "/v1/classify", "/v1/tag", "/v1/embeddings", "/metrics"} <= paths.keys()


def test_routes_that_are_asked_directly_are_described_like_any_other(server):
    bodies = {"completions": "Completion", "chat/completions": "Chat", "classify": "Score", "tag": "Tag"}
    with server.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
        for path, kind in bodies.items():
            body = paths[f"/v1/{path}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
            assert body["$ref"].endswith(f"/{kind}Request")
            assert paths[f"/v1/{path}"]["post"]["description"]
            assert http.get(f"/v1/{path}").status_code == 405
            assert http.post(f"/v1/{path}/nothing", json={}).status_code == 404


def test_a_card_tells_what_is_public_and_no_more(server):
    with server.http() as http:
        card = http.get("/v1/prompts/moods@prod").json()
    assert (card["name"], card["version"], card["template"]) == ("moods", "1", "{soft:4}{text} {mask}")
    assert not {"recipe", "canaries", "tensors"} & card.keys()
    json.dumps(card)


def wait(done, seconds=10):
    import time

    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)
