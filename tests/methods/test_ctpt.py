"""CTPT begins at its start, attends as multi-head attention does, and trains a few dozen numbers."""

import pytest
import torch
from families import H, P, backbone, batch, start
from torch.nn import functional as F
from torch.testing import assert_close

from softprompt.core import Start
from softprompt.methods.ctpt import CrossTask


def moved(dimension: int = 8, heads: int = 4) -> CrossTask:
    torch.manual_seed(4)
    frozen = backbone("llama")
    method = CrossTask(frozen.spec, start(frozen), dimension=dimension, heads=heads)
    with torch.no_grad():
        method.z.normal_()
    return method


def test_it_begins_at_its_start_bit_for_bit() -> None:
    frozen = backbone("llama")
    method = CrossTask(frozen.spec, start(frozen))
    assert torch.equal(method.product(), start(frozen).embeds)
    assert sum(p.numel() for p in method.parameters()) == 2 * 32 + 1


def test_the_vectors_are_those_of_multi_head_attention_over_all_source_vectors() -> None:
    method = moved()
    k, z = 8, method.z.detach()
    own = start(backbone("llama")).embeds + (method.moves @ z[:k]).reshape(P, H)
    library = start(backbone("llama")).sources.reshape(-1, H)
    gains = 1 + (method.gains @ z[k:-1]).reshape(3, H)
    q = own / own.square().mean(1, keepdim=True).sqrt() * gains[0]
    keys = library / library.square().mean(1, keepdim=True).sqrt() * gains[1]
    heads = [slice(i, i + H // 4) for i in range(0, H, H // 4)]
    read = [F.scaled_dot_product_attention(q[:, h], keys[:, h], (library * gains[2])[:, h]) for h in heads]
    wanted = own + z[-1] * torch.cat(read, 1)
    assert_close(method.product().detach(), wanted, atol=1e-5, rtol=1e-4)
    embeds = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert embeds is not None
    assert torch.equal(embeds[0], method.product())


def test_the_projections_follow_from_the_seed_and_only_z_is_stored() -> None:
    first, second = moved(), moved()
    assert torch.equal(first.moves, second.moves)
    other = CrossTask(backbone("llama").spec, start(backbone("llama")), dimension=8, seed=1)
    assert not torch.equal(first.moves, other.moves)
    assert first.state_dict().keys() == {"z"}
    assert first.moves.std().item() == pytest.approx(backbone("llama").spec.rms * 8**-0.5, rel=0.1)


@pytest.mark.parametrize("options", [{"dimension": 0}, {"heads": 5}, {"heads": 0}])
def test_sizes_that_do_not_fit_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="heads"):
        CrossTask(backbone("llama").spec, Start(torch.zeros(P, H)), **options)
