"""Rounded prompts: codes of one byte, and vectors within half a level of what was rounded."""

from pathlib import Path

import pytest
import torch
from families import H, P, answer, backbone, batch, start
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.core import Injection, Start
from softprompt.methods.rounded import Rounded, decode, encode


def test_codes_are_the_nearest_levels_of_the_largest_coordinate() -> None:
    vectors = torch.tensor([[1.27, -0.634, 0.004, 0.006], [0.0, 0.0, 0.0, 0.0]])
    codes, scale = encode(vectors)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == [[255, 65, 128, 129], [128] * 4]
    assert_close(scale, torch.tensor([[0.01], [1.0]]))
    assert decode(codes, scale)[1].equal(torch.zeros(4))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_no_coordinate_is_more_than_half_a_level_off(size: float) -> None:
    vectors = torch.randn(P, H, generator=torch.Generator().manual_seed(0)) * size
    level = vectors.abs().amax(1, keepdim=True) / 127
    assert ((decode(*encode(vectors)) - vectors).abs() <= 0.501 * level).all()


def test_the_model_reads_the_decoded_vectors_and_has_a_number_a_vector_to_train() -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    method = Rounded(frozen.spec, start(frozen))
    wanted = Injection(embeds=decode(*encode(start(frozen).embeds))[None])
    assert_close(answer(frozen, data, method(data, torch.zeros(0))), answer(frozen, data, wanted))
    assert sum(weight.numel() for weight in method.parameters()) == P
    stored = {name: (value.dtype, tuple(value.shape)) for name, value in method.state_dict().items()}
    assert stored == {"codes": (torch.uint8, (P, H)), "scale": (torch.float32, (P, 1))}


def test_codes_go_through_a_file_as_they_are(tmp_path: Path) -> None:
    import tiny_prompts

    codes, scale = encode(torch.randn(2, 8, generator=torch.Generator().manual_seed(1)))
    card = tiny_prompts.artifact(0, method="rounded").card
    Artifact({"method.codes": codes, "method.scale": scale}, card).save(tmp_path / "p.safetensors")
    again = Artifact.load(tmp_path / "p.safetensors").method_tensors()
    method = Rounded(backbone("llama").spec, Start(torch.zeros(2, 8)))
    method.load_state_dict(again)
    assert method(batch("llama"), torch.zeros(0)).embeds[0].equal(decode(codes, scale))
