"""Nothing is ignored: every field of an injection acts on a family and can be trained there, or is refused.

`penalty` and `lesson` are left out: the training loss adds them, no backbone sees them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers as tf
from families import (
    ENCODERS,
    MODELS,
    MODELS_OF_IMAGES,
    SEQ2SEQ,
    TEXTS,
    VISION,
    WORDS,
    B,
    H,
    L,
    P,
    answer,
    backbone,
    batch,
    leaf,
    leaves,
    prefix,
    real,
    tokens,
)
from torch import Tensor, nn

from softprompt.attention import Prefixes, Stack
from softprompt.backbones import Backbone, wrap
from softprompt.core import Batch, Injection, Prefix
from softprompt.errors import Unsupported

Trial = tuple[Batch, Injection, Injection]  # a batch, an injection, and one that must give another answer


def vectors(frozen: Backbone) -> Tensor:
    return leaf((1, P, frozen.spec.hidden))


def deep(frozen: Backbone) -> tuple[Tensor, ...]:
    return tuple(leaf((1, P, H)) for _ in range(frozen.spec.layers or L))


def side(frozen: Backbone) -> Prefix:
    return prefix(frozen, layers=frozen.spec.decoder_layers or L)


def try_embeds(frozen: Backbone, name: str) -> Trial:
    slots = 0 if name in VISION else P
    return batch(name, slots), Injection(embeds=vectors(frozen)), Injection(embeds=vectors(frozen))


def try_offset(frozen: Backbone, name: str) -> Trial:
    data = batch(name)
    width = data.input_ids.shape[1] or 1
    return data, Injection(offset=leaf((1, width, frozen.spec.hidden))), Injection()


def try_mask(frozen: Backbone, name: str) -> Trial:
    keep, given = torch.ones(B, P, dtype=torch.bool), prefix(frozen)
    keep[0, :2] = False
    return batch(name), Injection(prefix=given, prefix_mask=keep), Injection(prefix=given)


def on_decoder(make: Callable[[Backbone], Injection]) -> Callable[[Backbone, str], Trial]:
    return lambda frozen, name: (batch(name), Injection(decoder=make(frozen)), Injection())


FIELDS: dict[str, Callable[[Backbone, str], Trial]] = {
    "embeds": try_embeds,
    "offset": try_offset,
    "prefix": lambda frozen, name: (batch(name), Injection(prefix=prefix(frozen)), Injection()),
    "prefix_mask": try_mask,
    "deep": lambda frozen, name: (batch(name), Injection(deep=deep(frozen)), Injection()),
    "cross": lambda frozen, name: (batch(name), Injection(cross=side(frozen)), Injection()),
    "decoder.prefix": on_decoder(lambda frozen: Injection(prefix=side(frozen))),
    "decoder.cross": on_decoder(lambda frozen: Injection(cross=side(frozen))),
    "decoder.embeds": on_decoder(lambda frozen: Injection(embeds=vectors(frozen))),
    "decoder.offset": on_decoder(lambda frozen: Injection(offset=leaf((1, 4, H)))),
    "decoder.deep": on_decoder(lambda frozen: Injection(deep=deep(frozen))),
    "decoder.decoder": on_decoder(lambda frozen: Injection(decoder=Injection())),
}


@cache
def refusal(name: str, field: str) -> str:
    """The code of the refusal, or an empty string where the field changed the answer and can be trained."""
    try:
        frozen = backbone(name)
        data, given, other = FIELDS[field](frozen, name)
        with_it, without = answer(frozen, data, given), answer(frozen, data, other)
    except Unsupported as error:
        return error.code
    inside = real(data).expand(with_it.shape[:2])
    assert (with_it - without)[inside].abs().max() > 1e-3, "the field was ignored"
    weight = torch.randn_like(with_it)
    for gradient in torch.autograd.grad((with_it * weight)[inside].sum(), leaves(given)):
        places = gradient.movedim(-2, 0).flatten(1) if field != "offset" else gradient.flatten()[None]
        assert (places.abs().sum(1) > 0).all(), "part of the field gets no gradient"
    return ""


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_field_acts_and_can_be_trained_or_is_refused(name: str, field: str) -> None:
    code = refusal(name, field)
    assert code == "" or code.startswith("SP-E41"), code


@pytest.mark.parametrize("name", TEXTS + VISION)
def test_the_families_that_are_promised_take_a_prefix(name: str) -> None:
    assert refusal(name, "embeds") == refusal(name, "prefix") == refusal(name, "prefix_mask") == ""
    if name in TEXTS:
        assert refusal(name, "offset") == ""
    if name in SEQ2SEQ:
        assert refusal(name, "decoder.prefix") == refusal(name, "decoder.cross") == ""
    if name in VISION:
        assert refusal(name, "deep") == ""


def pads_left(name: str) -> bool:
    """True where a row padded on the left is the row (its equality is shown in test_seam.py)."""
    try:
        answer(backbone(name), batch(name, left=True))
    except Unsupported:
        return False
    return True


def test_the_table_in_the_documentation_is_what_happens() -> None:
    text = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    columns = ["embeds", "offset", "prefix", "decoder.cross", "deep"]
    expected = []
    for name in MODELS:
        works = ["yes" if refusal(name, field) == "" else "no" for field in columns]
        left = "n/a" if name in MODELS_OF_IMAGES else "yes" if pads_left(name) else "no"
        kind = "refused" if name == "siglip_vision_model" else backbone(name).spec.kind
        expected.append([f"`{name}`", kind, *works, left])
    assert [row[: len(columns) + 3] for row in rows] == expected


def refused(code: str, frozen: Backbone, data: Batch, given: Injection) -> None:
    with pytest.raises(Unsupported) as caught:
        answer(frozen, data, given)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_vectors_and_slots_that_do_not_match_are_refused(name: str) -> None:
    frozen = backbone(name)
    full, short = Injection(embeds=torch.zeros(1, P, H)), Injection(embeds=torch.zeros(1, P - 1, H))
    refused("SP-E412", frozen, batch(name), full)
    refused("SP-E412", frozen, batch(name, slots=P), Injection())
    refused("SP-E412", frozen, batch(name, slots=P), short)
    refused("SP-E412", frozen, batch(name, slots=P - 1), full)


def test_slots_of_an_image_must_match_its_vectors() -> None:
    data = replace(batch("vit"), vectors=P)
    refused("SP-E412", backbone("vit"), data, Injection())
    refused("SP-E412", backbone("vit"), data, Injection(embeds=torch.zeros(1, P - 1, H)))


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vit"])
def test_a_prefix_mask_without_a_prefix_is_refused(name: str) -> None:
    refused("SP-E418", backbone(name), batch(name), Injection(prefix_mask=torch.ones(B, P, dtype=torch.bool)))


def test_a_prefix_mask_of_the_decoder_without_a_prefix_is_refused() -> None:
    given = Injection(decoder=Injection(prefix_mask=torch.ones(B, P, dtype=torch.bool)))
    refused("SP-E418", backbone("t5"), batch("t5"), given)


@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_a_short_prefix_away_from_its_text_is_refused_where_distance_counts(where: str) -> None:
    frozen, keep = backbone("t5"), torch.ones(B, P, dtype=torch.bool)
    keep[0, -1] = False
    masked = Injection(prefix=prefix(frozen), prefix_mask=keep)
    refused("SP-E418", frozen, batch("t5"), masked if where == "encoder" else Injection(decoder=masked))


def test_keys_and_values_beside_hidden_states_are_refused() -> None:
    frozen = backbone("vit")
    refused("SP-E419", frozen, batch("vit"), Injection(prefix=prefix(frozen), deep=deep(frozen)))


def test_an_injection_for_a_decoder_that_does_not_run_is_refused() -> None:
    frozen, data = backbone("t5"), batch("t5")
    given = Injection(decoder=Injection(prefix=side(frozen)))
    with pytest.raises(Unsupported, match="SP-E415"):
        frozen(data, given)
    with pytest.raises(Unsupported, match="SP-E415"):
        frozen(replace(data, decoder=None), given)
    with pytest.raises(Unsupported, match="SP-E415"):
        frozen(replace(data, decoder=None), Injection(), columns=torch.tensor([0]))


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_words_from_a_model_without_a_head_are_refused(name: str) -> None:
    frozen = wrap(tf.BertModel(tf.BertConfig(**WORDS))) if name == "bert" else backbone("vit")
    with pytest.raises(Unsupported, match="SP-E414"):
        frozen(batch(name), Injection(), columns=torch.tensor([0]))


def test_a_text_for_a_vision_model_is_refused() -> None:
    with pytest.raises(Unsupported, match="SP-E414"):
        backbone("vit")(batch("llama"), Injection())
    with pytest.raises(Unsupported, match="SP-E413"):
        backbone("vit").record(batch("llama"))


@pytest.mark.parametrize("name", ["falcon", "gemma2", "albert", "deberta-v2"])
def test_keys_and_values_cannot_be_recorded_where_they_cannot_enter(name: str) -> None:
    with pytest.raises(Unsupported, match="SP-E410"):
        backbone(name).record(tokens(torch.arange(5, 9)[None]))


def test_a_layer_that_never_asks_for_its_prefix_is_noticed() -> None:
    deaf = nn.Linear(1, 1)
    given = Prefixes([Stack([deaf], ((torch.zeros(1), torch.zeros(1)),), causal=True)])
    with pytest.raises(Unsupported, match="SP-E411 found 1 of 1 layers"):
        given.check()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_layer_that_does_not_run_is_noticed(name: str) -> None:
    """The same, whole: the prefix names a layer that this forward leaves out."""
    frozen = backbone(name)
    stray = nn.Linear(1, 1)
    modules = frozen.attention_modules
    frozen.attention_modules = [*modules[:-1], stray]
    try:
        refused("SP-E411", frozen, batch(name), Injection(prefix=prefix(frozen)))
    finally:
        frozen.attention_modules = modules
