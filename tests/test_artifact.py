"""A prompt in a file is the same prompt: bit for bit on its own backbone, and refused on any other."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import speakers
import torch
from pydantic import ValidationError
from speakers import TEXTS, speaker

from softprompt import container
from softprompt.artifact import Artifact, Card, describe
from softprompt.backbones import Backbone
from softprompt.core import Batch, Injection
from softprompt.errors import ArtifactError, RecipeError, Unsupported
from softprompt.methods import Method, names
from softprompt.prompt import Prompt

CASES = [
    (family, head, method)
    for family in [*TEXTS, "vit"]
    for head in speakers.KINDS
    for method in names()
    if not (family == "bert" and head == "lm") and (family != "vit" or head in ("classifier", "regressor"))
    if family == "vit" or method in speakers.READING
]


def saved(prompt: Prompt, path: Path) -> Artifact:
    Artifact.of(prompt, {}, {}).save(path)
    return Artifact.load(path)


def card_of(prompt: Prompt) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(Artifact.of(prompt, {}, {}).card.model_dump_json())
    return card


def tampered(prompt: Prompt, path: Path, *keys: str, value: Any) -> Artifact:
    """The artifact of a prompt whose card says something else, sealed again as if it had always said so."""
    artifact, card = Artifact.of(prompt, {}, {}), card_of(prompt)
    place = card
    for key in keys[:-1]:
        place = place[int(key) if isinstance(place, list) else key]
    place[keys[-1]] = value
    container.write_file(path, artifact.tensors, json.dumps(card))
    return Artifact.load(path)


@pytest.mark.parametrize(("family", "head", "method"), CASES)
def test_a_saved_prompt_answers_with_the_same_bits(tmp_path: Path, family: str, head: str, method: str) -> None:
    try:
        prompt = speakers.prompt(family, method, head)
    except Unsupported as refusal:
        if family != "vit":  # images have no token embeddings, which some methods look at
            raise
        pytest.skip(str(refusal))
    examples = speakers.examples(head, family)
    expected = prompt.predict(examples)
    artifact = saved(prompt, tmp_path / "p.safetensors")
    again = artifact.bind(speaker(family))
    assert again.predict(examples) == expected
    assert again.task == prompt.task
    assert not again.training


@pytest.mark.parametrize("method", speakers.READING)
def test_a_loaded_prompt_can_be_saved_again(tmp_path: Path, method: str) -> None:
    prompt = speakers.prompt("llama", method)
    again = saved(prompt, tmp_path / "p.safetensors").bind(speaker("llama"))
    twice = saved(again, tmp_path / "q.safetensors").bind(speaker("llama"))
    assert twice.predict(speakers.examples("verbalizer")) == prompt.predict(speakers.examples("verbalizer"))


@pytest.mark.parametrize("method", speakers.READING)
def test_the_file_does_not_depend_on_the_machine_or_the_moment(tmp_path: Path, method: str) -> None:
    prompt = speakers.prompt("llama", method)
    files = [tmp_path / "a.safetensors", tmp_path / "elsewhere.safetensors"]
    for path in files:
        Artifact.of(prompt, {}, {}).save(path)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_prompt_binds_on_a_model_that_was_loaded_again(tmp_path: Path) -> None:
    prompt = speakers.prompt("bert", head="classifier")
    again = saved(prompt, tmp_path / "p.safetensors").bind(speakers.fresh("bert"))
    assert again.predict(speakers.examples("classifier")) == prompt.predict(speakers.examples("classifier"))


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("limit", [None, 24])
def test_a_limit_on_tokens_is_kept(tmp_path: Path, method: str, limit: int | None) -> None:
    prompt = speakers.prompt("gpt2", method, task={"max_tokens": limit})
    again = saved(prompt, tmp_path / "p.safetensors").bind(speaker("gpt2"))
    assert again.template.limit == prompt.template.limit == (limit or (64 if method == "prompt_tuning" else 60))


@pytest.mark.parametrize("cut", ["tail", "head", "error"])
@pytest.mark.parametrize("head", ["verbalizer", "tagger"])
def test_a_short_context_is_no_reason_to_lose_a_trained_prompt(tmp_path: Path, cut: str, head: str) -> None:
    """The canaries are longer than 20 tokens; what `truncate=error` refuses are texts of the user."""
    prompt = speakers.prompt("gpt2", head=head, task={"max_tokens": 20, "truncate": cut})
    again = saved(prompt, tmp_path / "p.safetensors").bind(speaker("gpt2"))
    assert again.template.cut == cut


def test_reparameterisations_are_folded_away(tmp_path: Path) -> None:
    folded = saved(speakers.prompt("llama", "p_tuning"), tmp_path / "p.safetensors")
    assert (folded.card.method.name, folded.card.method.trained_as) == ("prompt_tuning", "p_tuning")
    assert {name: tuple(t.shape) for name, t in folded.method_tensors().items()} == {"prompt": (4, 32)}
    mlp = Artifact.of(speakers.prompt("llama", "prefix", options={"bottleneck": 8}), {}, {})
    assert mlp.card.method.options["bottleneck"] == 0


def test_a_method_without_a_name_cannot_be_saved() -> None:
    class Unnamed(Method):
        def forward(self, batch: Batch, text: torch.Tensor) -> Injection:
            return Injection()

    prompt = speakers.prompt("llama")
    nameless = Prompt(prompt.backbone, Unnamed(prompt.backbone.spec, None), prompt.head, prompt.template, prompt.task)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"SP-E210.*Unnamed"):
        Artifact.of(nameless, {}, {})


def test_binding_draws_no_random_number(tmp_path: Path) -> None:
    artifact = saved(speakers.prompt("llama", "prefix", "classifier"), tmp_path / "p.safetensors")
    before = torch.get_rng_state()
    artifact.bind(speaker("llama"))
    assert torch.equal(torch.get_rng_state(), before)


# Another backbone


def other_weights(family: str) -> Backbone:
    return speakers.fresh(family, seed=8)


def one_weight(family: str) -> Backbone:
    """One number among all weights differs, at a place that the fingerprint samples."""
    backbone = speakers.fresh(family)
    with torch.no_grad():
        next(backbone.model.parameters()).view(-1)[0] += 1
    return backbone


def other_tokenizer(family: str) -> Backbone:
    """The same pieces with two of them swapped: the same shapes, other tokens."""
    backbone = speakers.fresh(family)
    tokenizer = deepcopy(speakers.TOKENIZERS[family]())
    made = tokenizer.backend_tokenizer
    words = json.loads(made.to_str())
    vocabulary = words["model"]["vocab"]
    if isinstance(vocabulary, dict):
        a, b = list(vocabulary)[-2:]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    else:
        vocabulary[-2], vocabulary[-1] = vocabulary[-1], vocabulary[-2]
    backbone.tokenizer = speakers.fast(type(made).from_str(json.dumps(words)), **tokenizer.special_tokens_map)
    return backbone


@pytest.mark.parametrize("change", [other_weights, one_weight, other_tokenizer])
@pytest.mark.parametrize("family", TEXTS)
def test_a_model_that_only_looks_the_same_is_refused(tmp_path: Path, family: str, change: Any) -> None:
    artifact = saved(speakers.prompt(family), tmp_path / "p.safetensors")
    with pytest.raises(ArtifactError, match="SP-E320") as caught:
        artifact.bind(change(family))
    assert ("tokenizer" in caught.value.found) == (change is other_tokenizer)
    assert caught.value.where == str(tmp_path / "p.safetensors")


@pytest.mark.parametrize("other", ["gpt2", "bert", "t5", "vit", "silent"])
def test_a_model_of_another_family_or_head_is_refused(tmp_path: Path, other: str) -> None:
    owner = "bert" if other == "silent" else "llama"
    artifact = saved(speakers.prompt(owner, head="classifier"), tmp_path / "p.safetensors")
    with pytest.raises(ArtifactError, match="SP-E320"):
        artifact.bind(speaker(other))


def test_another_image_processor_is_refused(tmp_path: Path) -> None:
    artifact = saved(speakers.prompt("vit", head="classifier"), tmp_path / "p.safetensors")
    other = speakers.fresh("vit")
    other.tokenizer.image_mean = [0.1, 0.2, 0.3]
    with pytest.raises(ArtifactError, match="SP-E323"):
        artifact.bind(other)


def test_a_bfloat16_copy_of_the_same_model_is_accepted(tmp_path: Path) -> None:
    prompt = speakers.prompt("llama", head="classifier")
    artifact = saved(prompt, tmp_path / "p.safetensors")
    copy = speakers.fresh("llama")
    copy.model.to(torch.bfloat16)
    answers = artifact.bind(copy).predict(speakers.examples("classifier"))
    for one, other in zip(answers, prompt.predict(speakers.examples("classifier")), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=0.1)


# Another card


@pytest.mark.parametrize(
    ("keys", "value", "code"),
    [
        (("method", "name"), "lora", "SP-E311"),
        (("method", "name"), "prefix", "SP-E311"),
        (("method", "length"), 5, "SP-E311"),
        (("method", "options"), {"bottleneck": 3}, "SP-E311"),
        (("head", "name"), "classifier", "SP-E311"),
        (("head", "name"), "oracle", "SP-E310"),
        (("head", "options"), {"word": []}, "SP-E311"),
        (("head", "options"), {"words": []}, "SP-E311"),
        (("head", "options"), {"words": [[1], []]}, "SP-E311"),
        (("head", "options"), {"words": [[1], [10**6]]}, "SP-E311"),
        (("head", "options"), {"words": [[1], [-1]]}, "SP-E311"),
        (("head", "options"), {"words": [[1], [2], [3]]}, "SP-E311"),
        (("head", "options"), {"words": "ab"}, "SP-E311"),
        (("task", "labels"), ["good"], "SP-E311"),
        (("template", "text"), "{text} {soft}{mask}", "SP-E323"),
        (("template", "text"), "{soft:3}{text}", "SP-E311"),
        (("template", "text"), "{soft", "SP-E311"),
        (("template", "limit"), 40, "SP-E323"),
        (("template", "cut"), "head", "SP-E323"),
        (("template", "hash"), "0" * 64, "SP-E323"),
        (("backbone", "fingerprint"), "0" * 64, "SP-E320"),
        (("backbone", "hidden"), 64, "SP-E320"),
        (("canaries",), [], "SP-E310"),
        (("canaries", "0", "outputs"), {}, "SP-E310"),
        (("canaries", "0", "outputs"), {"99999": -1.0}, "SP-E322"),
        (("canaries", "0", "outputs"), {"-1": -1.0}, "SP-E322"),
        (("canaries", "0", "input"), "Another sentence.", "SP-E310"),
        (("canaries", "5", "outputs"), {"0": 5.0}, "SP-E322"),
    ],
)
def test_a_card_that_does_not_fit_its_tensors_is_refused(
    tmp_path: Path, keys: tuple[str, ...], value: Any, code: str
) -> None:
    artifact = tampered(speakers.prompt("llama"), tmp_path / "p.safetensors", *keys, value=value)
    with pytest.raises(ArtifactError) as caught:
        artifact.bind(speaker("llama"))
    assert caught.value.code == code
    assert caught.value.where == str(tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("method", "length"), 0),
        (("method", "length"), 10**12),
        (("method", "length"), "many"),
        (("template", "cut"), "middle"),
        (("template", "limit"), -1),
        (("task", "kind"), "translation"),
        (("task", "new_field"), 1),
        (("new_field",), 1),
        (("canaries", "0", "outputs"), {"0": "nan"}),
        (("canaries", "0", "outputs"), {"0": "inf"}),
        (("canaries", "0", "outputs"), {"one": 1.0}),
        (("method",), None),
    ],
)
def test_a_card_with_unknown_or_impossible_values_is_not_read(
    tmp_path: Path, keys: tuple[str, ...], value: Any
) -> None:
    with pytest.raises(ArtifactError, match="SP-E310"):
        tampered(speakers.prompt("llama"), tmp_path / "p.safetensors", *keys, value=value)


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    saved(speakers.prompt("llama"), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="SP-E301"):
        Artifact.load(path)


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_tensors_of_another_prompt_are_refused_by_the_canaries(tmp_path: Path, method: str) -> None:
    one = Artifact.of(speakers.prompt("llama", method), {}, {})
    others = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in one.tensors.items()}
    mixed = Artifact(others, one.card, "mixed")
    with pytest.raises(ArtifactError, match=r"SP-E322 mixed.*canaries off by"):
        mixed.bind(speaker("llama"))


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    artifact = Artifact.of(speakers.prompt("llama", head="classifier"), {}, {})
    for name in artifact.tensors:
        fewer = {key: t for key, t in artifact.tensors.items() if key != name}
        with pytest.raises(ArtifactError, match="SP-E311"):
            Artifact(fewer, artifact.card).bind(speaker("llama"))


# What a card says


def test_no_path_of_the_machine_is_in_a_file(tmp_path: Path) -> None:
    backbone = speakers.fresh("llama")
    for name in (str(tmp_path / "models" / "mine"), str(tmp_path), "/home/someone/models/mine"):
        backbone.name = name
        artifact = Artifact.of(speakers.prompt("llama", backbone=backbone), {}, {})
        artifact.save(tmp_path / "p.safetensors")
        written = (tmp_path / "p.safetensors").read_bytes().decode("latin-1")
        assert str(tmp_path.parent) not in written
        assert "someone" not in written
        assert artifact.card.backbone.name == Path(name).name


def test_a_card_says_what_a_prompt_is(tmp_path: Path) -> None:
    prompt = speakers.prompt("llama", "prefix", "classifier")
    artifact = Artifact.of(prompt, {"optim": {"lr": 0.1}}, {"metric": "accuracy"}, ("parent.safetensors",))
    artifact.save(tmp_path / "p.safetensors")
    card = Artifact.load(tmp_path / "p.safetensors").card
    assert card == artifact.card
    assert (card.method.name, card.method.length, card.head.name) == ("prefix", 4, "classifier")
    assert (card.backbone.family, card.backbone.hidden, card.backbone.layers) == ("llama", 32, 3)
    assert card.backbone == describe(speaker("llama"))
    assert card.task.labels == ("bad", "good")
    assert card.recipe == {"optim": {"lr": 0.1}}
    assert card.parents == ("parent.safetensors",)
    assert len(card.canaries) == 6
    assert set(card.versions) == {"softprompt", "torch", "transformers", "python"}
    with pytest.raises(ValidationError):
        card.method.length = 3  # type: ignore[misc]
    assert Card.model_validate_json(card.model_dump_json()) == card
