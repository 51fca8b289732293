"""Rows of different length in one batch: nothing of a row is lost, and padding on either side changes no answer."""

from typing import Any

import pytest
import speakers
import torch
from hypothesis import given
from hypothesis import strategies as st
from speakers import TEXTS, speaker

from softprompt.collate import collate
from softprompt.core import IGNORE, TEXT, Injection, Row
from softprompt.prompt import Prompt


@st.composite
def some_rows(draw: Any) -> list[Row]:
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 6))
        slots = draw(st.lists(st.sampled_from([TEXT, 0, 1]), min_size=n, max_size=n))
        rows.append(Row(draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)), slots, [*range(n)], target=n))
    return rows


@given(rows=some_rows(), side=st.sampled_from(["left", "right"]))
def test_every_row_is_found_again_at_its_side(rows: list[Row], side: Any) -> None:
    batch = collate(rows, filler=7, side=side)
    longest = max(len(row.ids) for row in rows)
    assert batch.input_ids.shape == (len(rows), longest)
    for i, row in enumerate(rows):
        n = len(row.ids)
        place, rest = (slice(longest - n, None), slice(0, longest - n))
        if side == "right":
            place, rest = slice(0, n), slice(n, None)
        assert batch.input_ids[i, place].tolist() == row.ids
        assert batch.slots[i, place].tolist() == row.slots
        assert batch.labels is not None
        assert batch.labels[i, place].tolist() == row.labels
        assert batch.mask[i, place].all()
        assert not batch.mask[i, rest].any()
        assert (batch.slots[i, rest] == TEXT).all()
        assert (batch.labels[i, rest] == IGNORE).all()
    assert batch.vectors == int(batch.slots.max()) + 1
    assert batch.target is not None
    assert batch.target.tolist() == [row.target for row in rows]


def test_numbers_keep_their_precision_and_classes_are_whole() -> None:
    numbers = [Row([1], [TEXT], target=value) for value in (1_700_000_000.25, -3.0)]
    made = collate(numbers).target
    assert made is not None
    assert made.tolist() == [1_700_000_000.25, -3.0]
    classes = collate([Row([1], [TEXT], target=2)]).target
    assert classes is not None
    assert classes.dtype == torch.long


@pytest.mark.parametrize("field", ["target", "decoder", "pixels"])
def test_what_only_some_rows_have_is_refused(field: str) -> None:
    value = {"target": 1, "decoder": Row([1], [TEXT]), "pixels": torch.zeros(3, 4, 4)}[field]
    with pytest.raises(ValueError, match="1 of 2 rows"):
        collate([Row([1], [TEXT], **{field: value}), Row([1], [TEXT])])  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("family", TEXTS)
def test_a_row_in_a_batch_padded_on_either_side_equals_the_row_alone(family: str, method: str) -> None:
    prompt = speakers.prompt(family, method, "verbalizer")
    rows = [prompt.row(example) for example in speakers.examples("verbalizer")]
    assert len({len(row.ids) for row in rows}) > 1
    sides = ["right"] if family == "t5" and method == "prefix" else ["right", "left"]  # that one is refused: SP-E417
    alone = [answers(prompt, [row], "right")[0] for row in rows]
    for side in sides:
        torch.testing.assert_close(answers(prompt, rows, side), torch.stack(alone), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def answers(prompt: Prompt, rows: list[Row], side: str) -> torch.Tensor:
    batch = prompt.batch(rows, side)
    return prompt.head.scores(prompt(batch), batch)  # type: ignore[no-any-return, operator]


@torch.no_grad()
def test_hidden_states_of_real_tokens_do_not_depend_on_the_side() -> None:
    backbone = speaker("gpt2")
    rows = [Row([5, 6, 7, 8], [TEXT] * 4), Row([9, 10], [TEXT] * 2)]
    right, left = (collate(rows, side=side) for side in ("right", "left"))
    states = [backbone(batch, Injection()).hidden[batch.mask] for batch in (right, left)]
    torch.testing.assert_close(states[0], states[1], atol=1e-5, rtol=1e-5)
