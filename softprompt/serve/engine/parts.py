"""Parts of one softmax: attention over some of the keys, and the normalisers by which parts are merged."""

from functools import lru_cache

import torch
from torch import Tensor

from softprompt.packed import flash


def part(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool = False, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention [B, heads, Q, D] and its normalisers [B, heads, Q] over one part of the keys [B, K, S, D].

    `bias` [B, 1, 1, S] is minus infinity at what is not seen; `causal` is for as many queries as keys.
    """
    key, value = key.to(query.dtype), value.to(query.dtype)
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        made: tuple[Tensor, Tensor] = flash(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)
        return made
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1).float(), value.repeat_interleave(groups, 1).float()
    scores = query.float() @ key.transpose(-1, -2) * scale
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if bias is not None:
        scores = scores + bias
    norm = scores.logsumexp(-1)
    return ((scores - norm[..., None]).exp() @ value).to(query.dtype), norm


def beside(query: Tensor, front: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], scale: float) -> Tensor:
    """Attention [heads, Q, D] of Q queries to a front and, causally, to as many keys of their own [K, Q, D].

    One softmax over both. For short rows this is quicker than two parts that are merged.
    """
    heads, count, length = own[0].shape[0], query.shape[1], front[0].shape[1]
    asked = query.reshape(heads, -1, query.shape[2])  # [K, heads / K * Q, D]
    scores = asked.new_empty(heads, asked.shape[1], length + count)
    scores[..., :length].baddbmm_(asked, front[0].transpose(1, 2), beta=0, alpha=scale)
    later = unseen(count, asked.shape[1] // count, query.dtype, query.device)
    torch.baddbmm(later, asked, own[0].transpose(1, 2), alpha=scale, out=scores[..., length:])
    shares = scores.softmax(-1)
    made = torch.bmm(shares[..., :length], front[1]).baddbmm_(shares[..., length:], own[1])
    return made.reshape(*query.shape[:2], own[1].shape[2])


@lru_cache(maxsize=64)
def unseen(count: int, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[groups * Q, Q]: minus infinity where a key comes after the query."""
    return torch.full((count, count), -torch.inf, dtype=dtype, device=device).triu_(1).repeat(groups, 1)
