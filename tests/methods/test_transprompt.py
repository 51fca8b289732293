"""TransPrompt's vectors are the MLP of two encoders' mean; tasks share all but their own encoder."""

import pytest
import torch
from families import H, P, backbone, batch, start
from torch.testing import assert_close

from softprompt.core import Start
from softprompt.methods import Method
from softprompt.methods.transprompt import TransPrompt


def made(share: float = 0.5) -> TransPrompt:
    torch.manual_seed(2)
    frozen = backbone("llama")
    return TransPrompt(frozen.spec, start(frozen), share=share)


def vectors(method: Method) -> torch.Tensor:
    embeds = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert embeds is not None
    return embeds[0].detach()


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_vectors_are_the_mlp_of_the_mean_of_both_encoders(share: float) -> None:
    method = made(share)
    x = method.prompt.detach() / method.spec.rms
    for i in range(P):
        mean = share * method.universal(x)[0][i] + (1 - share) * method.own(x)[0][i]
        inner = torch.relu(method.inner.weight @ mean + method.inner.bias)
        assert_close(
            vectors(method)[i], (method.outer.weight @ inner + method.outer.bias).detach(), atol=1e-6, rtol=1e-4
        )


def test_it_has_as_many_numbers_as_the_formula_says() -> None:
    """P H + 2 BiLSTMs of two layers with H / 2 a direction + two square layers."""
    half = H // 2
    lstm = 2 * (4 * half * (H + half) + 8 * half) + 2 * (4 * half * (2 * half + half) + 8 * half)
    assert sum(p.numel() for p in made().parameters()) == P * H + 2 * lstm + 2 * (H * H + H)


def test_tasks_share_everything_but_an_encoder_and_begin_at_the_start() -> None:
    frozen = backbone("llama")
    first, second = made().siblings(2)
    shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
    assert shared == {id(p) for group in first.groups()[:-1] for p in group.parameters}
    assert {id(p) for p in first.own.parameters()}.isdisjoint(id(p) for p in second.own.parameters())
    for method in (first, second):
        assert_close(vectors(method), start(frozen).embeds, atol=1e-5, rtol=1e-5)


def test_an_unseen_task_reads_the_universal_encoder_alone() -> None:
    method = made()
    before = vectors(method.unseen())
    with torch.no_grad():
        for weight in method.own.parameters():
            weight.normal_()
    assert torch.equal(vectors(method.unseen()), before)
    assert not torch.allclose(vectors(method), before)


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        TransPrompt(backbone("llama").spec, Start(torch.zeros(P, H)), share=1.5)
