"""Attention over [prefix; keys] equals the softmax written out, for every kind of mask."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from softprompt.attention import Prefixes, Stack, attend
from softprompt.core import Pair

B, HEADS, GROUPS, Q, D, P = 2, 4, 2, 5, 8, 3  # GROUPS: query heads to a key/value head


class Layer(nn.Module):
    """What transformers' attention function asks of an attention module."""

    num_key_value_groups = GROUPS

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.is_causal = causal


def inputs(queries: int = Q) -> tuple[Tensor, Tensor, Tensor, Pair]:
    heads = HEADS // GROUPS
    query = torch.randn(B, HEADS, queries, D)
    key, value = (torch.randn(B, heads, Q, D) for _ in range(2))
    return query, key, value, (torch.randn(1, heads, P, D), torch.randn(1, heads, P, D))


def written_out(query: Tensor, key: Tensor, value: Tensor, pair: Pair, visible: Tensor, bias: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D) + bias) V over what is visible [B, 1, Q, P + S]; the result is [B, Q, heads, D]."""
    key, value = (
        torch.cat([front.expand(B, -1, -1, -1), text], 2).repeat_interleave(GROUPS, 1)
        for front, text in zip(pair, (key, value), strict=True)
    )
    scores = query @ key.transpose(2, 3) / D**0.5 + bias
    return (scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value).transpose(1, 2)


def visible_text(causal: bool) -> Tensor:
    """[B, 1, Q, S]: the second row ends with a padded place."""
    seen = torch.ones(B, 1, Q, Q, dtype=torch.bool)
    seen[1, ..., -1] = False
    return seen.tril() if causal else seen


def short_prefix() -> Tensor:
    """[B, P]: the first row has one place fewer."""
    keep = torch.ones(B, P, dtype=torch.bool)
    keep[0, 0] = False
    return keep


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["none", "bool", "float", "shared"])
def test_attention_over_a_prefix_is_the_softmax_over_prefix_and_keys(form: str, causal: bool, ragged: bool) -> None:
    query, key, value, pair = inputs()
    layer, keep = Layer(causal), short_prefix() if ragged else None
    seen = visible_text(causal)
    if form in ("none", "shared"):
        seen = torch.ones(1, 1, Q, Q, dtype=torch.bool)
        seen = seen.tril() if causal else seen
    mask = None if form == "none" else seen
    if form == "float":
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    given = Prefixes([Stack([layer], (pair,), causal, keep=keep)])
    ours, _ = attend(layer, query, key, value, mask, prefixes=given)
    front = (torch.ones(B, P, dtype=torch.bool) if keep is None else keep)[:, None, None].expand(B, 1, Q, P)
    visible = torch.cat([front, seen.expand(B, 1, Q, Q)], -1)
    assert_close(ours, written_out(query, key, value, pair, visible, torch.zeros(())), atol=1e-5, rtol=1e-5)
    given.check()


def test_a_single_query_sees_the_whole_prefix_and_every_key() -> None:
    query, key, value, pair = inputs(queries=1)
    layer = Layer(causal=True)
    ours, _ = attend(layer, query, key, value, None, prefixes=Prefixes([Stack([layer], (pair,), True)]))
    everything = torch.ones(B, 1, 1, P + Q, dtype=torch.bool)
    assert_close(ours, written_out(query, key, value, pair, everything, torch.zeros(())), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("told", [False, True])
def test_a_bias_by_distance_covers_the_prefix_too(told: bool) -> None:
    query, key, value, pair = inputs()
    layer, text, front = Layer(causal=False), torch.randn(1, HEADS, Q, Q), torch.randn(1, HEADS, Q, P)
    stack = Stack([layer], (pair,), False, bias=(lambda length, queries, keys: front) if told else None)
    ours, _ = attend(layer, query, key, value, None, prefixes=Prefixes([stack]), position_bias=text)
    bias = torch.cat([front if told else torch.zeros_like(front), text], -1)
    everything = torch.ones(B, 1, Q, P + Q, dtype=torch.bool)
    assert_close(ours, written_out(query, key, value, pair, everything, bias), atol=1e-5, rtol=1e-5)


def test_a_layer_without_a_prefix_attends_as_ever() -> None:
    query, key, value, pair = inputs()
    layer, neighbour = Layer(causal=True), Layer(causal=True)
    given = Prefixes([Stack([neighbour, layer], (pair, None), True)])
    assert attend(layer, query, key, value, None, prefixes=given)[0].equal(attend(layer, query, key, value, None)[0])


def test_keys_and_values_are_recorded_in_the_order_asked_for() -> None:
    query, key, value, _ = inputs()
    one, two = Layer(causal=True), Layer(causal=True)
    record = Prefixes(record=True)
    attend(one, query, key, value, None, prefixes=record)
    attend(two, query, value, key, None, prefixes=record)
    second, first = record.pairs([two, one])
    assert first is not None
    assert second is not None
    assert first[0].equal(key)
    assert second[0].equal(value)
