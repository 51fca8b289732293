"""XPrompt is prompt tuning whose masked pieces are zero, get no gradient and stay zero, whatever the optimiser does."""

from typing import Any

import pytest
import torch
from families import H, P, answer, backbone, batch, start
from torch.testing import assert_close

from softprompt.core import Start
from softprompt.methods import find
from softprompt.methods.xprompt import XPrompt
from softprompt.optim import make_optimizer
from softprompt.sections import OptimSection

PIECES = 4
KEEP = "1101 0001 1111 1000"
DIGITS = torch.tensor([[int(digit) for digit in word] for word in KEEP.split()])  # [P, pieces]
FAMILIES = ["llama", "gpt2", "bert", "t5", "bart"]


def built(name: str, **options: Any) -> XPrompt:
    made = find("xprompt")(backbone(name).spec, start(backbone(name)), **options)
    assert isinstance(made, XPrompt)
    return made


def by_piece(x: torch.Tensor) -> torch.Tensor:
    """Vectors [P, H] as [P, pieces, H / pieces]."""
    return x.detach().reshape(P, PIECES, H // PIECES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_with_a_mask_is_the_product_of_the_two(name: str) -> None:
    frozen, data = backbone(name), batch(name, slots=P)
    text = frozen.tokens(data.input_ids)
    vectors = start(frozen).embeds
    product = vectors.clone()
    for i, word in enumerate(KEEP.split()):
        for j, digit in enumerate(word):
            product[i, j * H // PIECES : (j + 1) * H // PIECES] *= int(digit)
    plain = find("prompt_tuning")(frozen.spec, Start(product))
    ours = answer(frozen, data, built(name, pieces=PIECES, keep=KEEP)(data, text))
    assert_close(ours, answer(frozen, data, plain(data, text)), atol=0, rtol=0)
    assert not torch.equal(ours, answer(frozen, data, built(name)(data, text)))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_masked_piece_gets_no_gradient_and_is_never_revived(name: str) -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    method = built("llama", pieces=PIECES, keep=KEEP)
    before = method.prompt.detach().clone()
    settings = OptimSection(name=name, lr=0.5, weight_decay=0.3)  # type: ignore[arg-type]
    optimizer, _ = make_optimizer(settings, method.groups(), torch.nn.Module())
    for _ in range(5):
        optimizer.zero_grad()
        answer(frozen, data, method(data, frozen.tokens(data.input_ids))).square().mean().backward()
        assert (by_piece(method.prompt.grad)[DIGITS == 0] == 0).all()
        assert (by_piece(method.prompt.grad)[DIGITS == 1] != 0).any(-1).all()
        optimizer.step()
    assert (by_piece(method.prompt)[DIGITS == 0] == 0).all()
    assert (by_piece(method.prompt)[DIGITS == 1] != by_piece(before)[DIGITS == 1]).all()


def test_the_folded_prompt_is_a_plain_one_with_as_many_numbers_as_the_mask_leaves() -> None:
    """The kept fraction of l*d: here 9 of 16 pieces of 8 numbers."""
    folded = built("llama", pieces=PIECES, keep=KEEP).fold()
    assert type(folded) is find("prompt_tuning")
    (vectors,) = folded.parameters()
    assert vectors.shape == (P, H)
    assert vectors.count_nonzero() == DIGITS.sum() * H // PIECES == 72


def test_without_a_mask_it_is_prompt_tuning() -> None:
    method, data = built("bert"), batch("bert", slots=P)
    plain = find("prompt_tuning")(backbone("bert").spec, start(backbone("bert")))
    text = backbone("bert").tokens(data.input_ids)
    assert torch.equal(method(data, text).embeds, plain(data, text).embeds)
    assert [p.shape for p in method.parameters()] == [p.shape for p in plain.parameters()]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pieces": 5}, "does not divide"),
        ({"pieces": 0}, "does not divide"),
        ({"pieces": 4, "keep": "1111 1111"}, "4 words of 4 digits"),
        ({"pieces": 4, "keep": "1111 111 1111 1111"}, "4 words of 4 digits"),
        ({"pieces": 4, "keep": "1111 1121 1111 1111"}, "4 words of 4 digits"),
        ({"pieces": 4, "keep": "1111 0000 1111 1111"}, "would still be attended to"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        built("llama", **options)
