"""Where training begins: which vectors, at which scale, the same for the same seed, and never of another shape."""

from dataclasses import replace
from typing import Any

import pytest
import speakers
import torch
from speakers import TEXTS, P, speaker

from softprompt.artifact import Artifact
from softprompt.backbones.text import tokens_only
from softprompt.core import Start
from softprompt.errors import RecipeError
from softprompt.init import COMMON, from_prompt, make_start, sample_vocabulary
from softprompt.methods.prefix import PrefixTuning
from softprompt.template import continuation

every_family = pytest.mark.parametrize("family", TEXTS)


def start(family: str, kind: Any = "vocabulary", length: int = P, seed: int = 0, **more: Any) -> Start:
    return make_start(speaker(family), kind, length, keys=more.pop("keys", False), seed=seed, **more)


def rows_of(family: str, vectors: torch.Tensor) -> list[int]:
    """The token id whose embedding each vector is."""
    backbone = speaker(family)
    table = backbone.tokens(torch.arange(len(backbone.tokenizer))[None])[0]
    distance = (vectors[:, None] - table[None]).abs().amax(2)
    assert distance.min(1).values.max() == 0
    return distance.argmin(1).tolist()


@every_family
def test_vocabulary_is_ordinary_tokens_without_repeats(family: str) -> None:
    ids = rows_of(family, start(family, length=60).embeds)
    assert len(set(ids)) == 60
    assert not set(ids) & set(speaker(family).tokenizer.all_special_ids)


def test_vocabulary_repeats_only_when_it_runs_out() -> None:
    backbone = speaker("bert")
    generator = torch.Generator().manual_seed(0)
    ordinary = len(backbone.tokenizer) - len(backbone.tokenizer.all_special_ids)
    ids = sample_vocabulary(backbone, ordinary + 3, generator)
    assert len(set(ids[:ordinary])) == ordinary


def test_vocabulary_is_the_first_five_thousand_that_the_tokenizer_knows() -> None:
    """Lester et al. sample from the 5,000 commonest; rows of the table beyond the tokenizer were never trained."""

    class Large:
        all_special_ids = (0, 1)

        def __init__(self, size: int) -> None:
            self.size = size

        def __len__(self) -> int:
            return self.size

    class Table:
        weight = torch.zeros(6000, 1)

    def sampled(size: int) -> list[int]:
        backbone: Any = type("B", (), {"tokenizer": Large(size)})()
        backbone.model = type("M", (), {"get_input_embeddings": staticmethod(lambda: Table)})()
        return sample_vocabulary(backbone, 2000, torch.Generator().manual_seed(0))

    ids = sampled(6000)
    assert max(ids) < COMMON == 5000
    assert max(ids) > 4000
    assert len(set(ids)) == 2000
    assert max(sampled(3000)) < 3000


@every_family
def test_labels_begin_at_the_mean_of_their_tokens_and_the_rest_at_vocabulary(family: str) -> None:
    backbone = speaker(family)
    labels = ["good", "warm and funny"]
    made = start(family, "labels", labels=labels).embeds
    for vector, label in zip(made, labels, strict=False):
        ids = continuation(backbone.tokenizer, label)
        torch.testing.assert_close(vector, backbone.tokens(torch.tensor([ids]))[0].mean(0))
    assert torch.equal(made[2:], start(family, "vocabulary").embeds[:2])


def test_more_labels_than_vectors_fill_the_prompt() -> None:
    labels = ["good", "bad", "yes", "no", "film", "joy"]
    made = start("llama", "labels", labels=labels).embeds
    assert made.shape == (P, 32)
    assert torch.equal(made, start("llama", "labels", labels=labels[:P]).embeds)


def test_labels_without_a_word_are_refused() -> None:
    for labels in ([], ["good", "\u200b"]):
        with pytest.raises(RecipeError, match="SP-E230"):
            start("bert", "labels", labels=labels)


@every_family
def test_text_begins_at_its_own_tokens(family: str) -> None:
    backbone = speaker(family)
    ids = backbone.tokenizer("a warm film", add_special_tokens=False)["input_ids"]
    assert rows_of(family, start(family, "text", length=len(ids) + 2, text="a warm film").embeds)[: len(ids)] == ids
    assert rows_of(family, start(family, "text", length=2, text="a warm film").embeds) == ids[:2]


@every_family
def test_random_vectors_have_the_scale_of_the_embeddings(family: str) -> None:
    made = start(family, "random", length=500).embeds
    rms = speaker(family).spec.rms
    assert made.square().mean().sqrt().item() == pytest.approx(rms, rel=0.05)
    assert abs(made.mean().item()) < 0.05 * rms


@every_family
def test_keys_and_values_are_those_that_the_model_makes_of_the_text(family: str) -> None:
    backbone = speaker(family)
    made = start(family, "text", keys=True, text="a warm and funny film")
    ids = backbone.tokenizer("a warm and funny film", add_special_tokens=False)["input_ids"][:P]
    recorded = backbone.record(tokens_only(torch.tensor([ids])))
    sides = [(made.prefix, recorded.prefix), (made.decoder, recorded.decoder), (made.cross, recorded.cross)]
    assert [ours is None for ours, _ in sides] == [False, family != "t5", family != "t5"]
    for ours, theirs in sides:
        for mine, real in zip(ours or (), theirs or (), strict=True):
            assert mine is not None
            assert real is not None
            assert mine[0].shape[2] == P
            torch.testing.assert_close(mine[0], real[0])
            torch.testing.assert_close(mine[1], real[1])


def test_random_keys_and_values_have_the_scale_of_their_own_layer() -> None:
    real, noise = (start("llama", kind, length=50, keys=True).prefix for kind in ("vocabulary", "random"))
    assert real is not None
    assert noise is not None
    for one, other in zip(real, noise, strict=True):
        assert one is not None
        assert other is not None
        for a, b in zip(one, other, strict=True):
            assert not torch.equal(a, b)
            assert b.square().mean().sqrt().item() == pytest.approx(a.square().mean().sqrt().item(), rel=0.1)


@pytest.mark.parametrize("kind", ["vocabulary", "text", "labels", "random"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(kind: str) -> None:
    def made(seed: int) -> Start:
        return start("gpt2", kind, length=30, keys=True, seed=seed, text="a joy", labels=["good"])

    assert torch.equal(made(3).embeds, made(3).embeds)
    one, same, other = (next(filter(None, made(seed).prefix or ())) for seed in (3, 3, 4))
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(made(3).embeds, made(4).embeds)


def test_the_state_of_torchs_own_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    start("gpt2", "random", keys=True)
    assert torch.equal(torch.get_rng_state(), before)


# Images


def test_vectors_for_images_are_uniform_within_the_bound_of_vpt() -> None:
    made = start("vit", "random", length=400).embeds
    bound = (6 / (3 * 4 * 4 + 32)) ** 0.5  # patches of 4 x 4, hidden size 32
    assert made.abs().max() <= bound
    assert made.abs().max() > 0.95 * bound
    assert abs(made.mean().item()) < 0.05 * bound


def test_keys_for_images_come_from_images() -> None:
    pixels = torch.randn(2, 3, 16, 16)
    made = start("vit", "text", length=20, keys=True, pixels=pixels)
    assert made.prefix is not None
    assert made.prefix[0] is not None
    assert made.prefix[0][0].shape == (1, 4, 20, 8)
    with pytest.raises(RecipeError, match="SP-E230"):
        start("vit", "text", length=20, keys=True)
    with pytest.raises(RecipeError, match=r"SP-E230.*34 patches for 50"):
        start("vit", "text", length=50, keys=True, pixels=pixels)


def test_labels_for_images_are_refused_and_not_ignored() -> None:
    with pytest.raises(RecipeError, match="SP-E230"):
        start("vit", "labels", labels=["good"])


# From another prompt


@every_family
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "prefix"])
def test_a_prompt_begins_where_another_ended(family: str, method: str) -> None:
    stored = Artifact.of(speakers.prompt(family, method), {}, {}).method_tensors()
    keys = method == "prefix"
    made = from_prompt(start(family, keys=keys), stored, "there")
    if not keys:
        assert torch.equal(made.embeds, stored["prompt"])
        return
    sides = {"encoder": made.prefix, "decoder": made.decoder, "cross": made.cross}
    for name in (name for name in stored if name.endswith("prefix")):
        tensor = stored[name]
        pairs = sides[name.split(".")[1]]
        assert pairs is not None
        assert torch.equal(torch.stack([torch.cat(pair) for pair in pairs if pair]), tensor)


def test_a_side_that_the_other_prompt_lacks_begins_as_usual() -> None:
    stored = Artifact.of(speakers.prompt("t5", "prefix", options={"reach": "encoder"}), {}, {})
    usual = start("t5", keys=True)
    made = from_prompt(usual, stored.method_tensors(), "there")
    assert made.prefix is not usual.prefix
    assert made.decoder is usual.decoder
    assert made.cross is usual.cross


def test_a_side_that_the_new_prompt_does_not_reach_is_refused_and_not_lost() -> None:
    stored = Artifact.of(speakers.prompt("t5", "prefix", options={"reach": "decoder"}), {}, {}).method_tensors()
    made = from_prompt(start("t5", keys=True), stored, "there")
    spec = speaker("t5").spec
    for reach in ("encoder", "cross"):
        with pytest.raises(RecipeError, match=r"SP-E231.*keys and values for decoder.*reach"):
            PrefixTuning(spec, made, reach=reach)
    with pytest.raises(RecipeError, match="SP-E231"):  # a head of hidden states: the decoder never runs
        PrefixTuning(replace(spec, decoder_layers=0), made)
    for reach in ("decoder", "all"):
        kept = PrefixTuning(spec, made, reach=reach).parts()["decoder"]
        torch.testing.assert_close(kept(), stored["stacks.decoder.prefix"] * stored["stacks.decoder.unit"])


def test_a_prompt_of_another_shape_is_refused() -> None:
    vectors = Artifact.of(speakers.prompt("llama"), {}, {}).method_tensors()
    keys = Artifact.of(speakers.prompt("llama", "prefix"), {}, {}).method_tensors()
    slots, layers = start("llama", length=P + 1), start("llama", length=P + 1, keys=True)
    for begin, stored in ((slots, vectors), (layers, keys)):
        with pytest.raises(RecipeError, match=r"SP-E231.*there"):
            from_prompt(begin, stored, "there")
    some = Artifact.of(speakers.prompt("llama", "prefix", options={"layers": "1-2"}), {}, {})
    with pytest.raises(RecipeError, match=r"SP-E231.*keys and values of 2 layers.*without method.options.layers"):
        from_prompt(start("llama", keys=True), some.method_tensors(), "there")


def test_a_prompt_of_another_kind_is_refused_and_not_ignored() -> None:
    vectors = Artifact.of(speakers.prompt("llama"), {}, {}).method_tensors()
    keys = Artifact.of(speakers.prompt("llama", "prefix"), {}, {}).method_tensors()
    with pytest.raises(RecipeError, match="SP-E231"):
        from_prompt(start("llama", keys=True), vectors, "there")
    with pytest.raises(RecipeError, match="SP-E231"):
        from_prompt(start("llama"), keys, "there")
    with pytest.raises(RecipeError, match="SP-E231"):
        from_prompt(replace(start("llama"), prefix=None), {}, "there")
