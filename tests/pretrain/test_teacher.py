"""Lessons of an encoder: what is asked of the small model's states, and that a resumed run is asked the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.pretrain.teacher import LENGTHS, WIDTH, Lessons, Tongue, lessons
from scripts.pretrain.train import check_tokenizer


def made(sizes: list[int]) -> Lessons:
    rng = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    vectors = rng.normal(size=(len(sizes), WIDTH)).astype(np.float16)
    return Lessons(np.arange(1, starts[-1] + 1, dtype=np.uint16), starts, vectors)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    taught = made([5, 7, 16, 20, 33, 64, 9, 12])
    whole = lessons(taught, 128, 0, 0)
    for _ in range(5):
        next(whole)
    for one, other in zip(next(whole), next(lessons(taught, 128, 0, 5)), strict=True):
        assert torch.equal(one, other)


def test_every_text_stands_whole_beside_its_own_vector() -> None:
    taught = made([5, 7, 16, 20, 33, 64])
    by_first = {int(taught.ids[at]): i for i, at in enumerate(taught.starts[:-1])}
    feed = lessons(taught, 128, 3, 0)
    for _ in range(20):
        ids, ends, wanted = next(feed)
        assert ids.shape[1] in LENGTHS
        for row, end, vector in zip(ids, ends, wanted, strict=True):
            i = by_first[int(row[0])]
            text = taught.ids[taught.starts[i] : taught.starts[i + 1]].astype(np.int64)
            assert row[: int(end) + 1].tolist() == text.tolist()
            assert not row[int(end) + 1 :].any()
            assert np.allclose(vector.numpy(), taught.vectors[i].astype(np.float32))


def test_the_loss_is_nought_where_both_maps_name_the_vector_and_ignores_padding() -> None:
    torch.manual_seed(0)
    tongue, wanted = Tongue(WIDTH), torch.randn(2, WIDTH)
    for part in (tongue.last, tongue.mean):
        part.weight.data = torch.eye(WIDTH)
        part.bias.data.zero_()
    states = wanted[:, None].repeat(1, 4, 1)
    states[0, 2:] = 100 * torch.randn(2, WIDTH)  # behind the end of the first text
    ids, ends = torch.ones(2, 4, dtype=torch.int64), torch.tensor([1, 3])
    assert tongue(states, ids, ends, wanted).item() == pytest.approx(0, abs=1e-5)
    assert tongue(-states, ids, ends, wanted).item() == pytest.approx(2, abs=1e-5)


def test_weights_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    for name, text in (("one", "{}"), ("same", "{}"), ("other", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(text)
    check_tokenizer(tmp_path / "one", tmp_path / "same")
    with pytest.raises(SystemExit, match="tokenizer"):
        check_tokenizer(tmp_path / "one", tmp_path / "other")
