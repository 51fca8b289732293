"""Parts of one softmax: attention over some of the keys, and the normalisers by which parts are merged."""

from functools import lru_cache

import torch
from torch import Tensor

from softprompt.core import Pair
from softprompt.packed import flash

SHORT = 64  # tokens of a row that reads up to which front and row are one softmax, not two that are merged


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


def beside(query: Tensor, front: Pair, own: Pair, scale: float) -> Tensor:
    """Attention [1, heads, Q, D] of Q queries, `SHORT` at most, to a front and, causally, to Q keys of their own.

    One softmax over keys that are copied side by side for it: for short rows, a copy that stays in the cache of a core
    and two plain products cost less than parts that are merged, and less than torch's kernels for attention.
    """
    keys, values = (torch.cat([first[0].to(then), then[0]], 1) for first, then in zip(front, own, strict=True))
    heads, count, places = keys.shape[0], query.shape[2], keys.shape[1]
    asked = query.reshape(heads, -1, query.shape[3])  # [K, heads / K * Q, D]
    later = unseen(front[0].shape[2], query.dtype, query.device)[:, :count, :places]
    if asked.shape[1] > count:
        later = later.repeat(1, asked.shape[1] // count, 1)
    shares = torch.baddbmm(later, asked, keys.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(shares, values).view(1, -1, count, values.shape[2])


@lru_cache(maxsize=32)
def unseen(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[1, SHORT, length + SHORT]: minus infinity where a key comes after the query; a front of `length` does not."""
    return torch.full((1, SHORT, length + SHORT), -torch.inf, dtype=dtype, device=device).triu_(length + 1)
