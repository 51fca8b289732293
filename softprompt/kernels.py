"""A softmax over parts of the keys, with torch's own attention kernels for the CPU, forward and backward.

A softmax over [front; rest] is two softmaxes weighed by their normalisers, and with the normaliser of the whole put in,
the backward pass of each part is the backward pass of its share. The identity is old; Hydragen (Juravsky et al. 2024,
arXiv:2402.05099) uses it to serve, Prefix Grouper (arXiv:2506.05433) to train.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Part = tuple[int, int, int, int]  # queries from and to, and the keys from and to that they see


@dataclass(frozen=True)
class Layout:
    """Which queries of a packed row see what: their own row by `own`, and front and prefix, which all of them see."""

    own: tuple[Part, ...]
    masks: tuple[Tensor | None, ...]  # for each part, what is added to its scores
    causal: bool  # every part is a square of which the lower half is seen
    front: int
    labels: bool = False  # the queries are those of labels, and none stands in the front


flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class Shared(torch.autograd.Function):
    """Attention of a packed row on the CPU, with torch's own kernels for its parts.

    Row by row, on views: rows are short, and gathering them into padded groups took twice as long. Saved for the
    backward pass are queries, keys, values, the result and its normalisers, each token once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        layout: Layout,
        scale: float,
    ) -> Tensor:
        """[1, Q, heads, D] of `query` [1, heads, Q, D] and `key`, `value` [1, K, N, D]."""
        heads, queries = query.shape[1:3]
        out = query.new_empty(1, queries, heads, query.shape[3]).transpose(1, 2)
        parts = [
            flash(query[:, :, a:b], key[:, :, c:d], value[:, :, c:d], 0.0, layout.causal, attn_mask=mask, scale=scale)
            for (a, b, c, d), mask in zip(layout.own, layout.masks, strict=True)
        ]
        norm = torch.cat([part[1].transpose(1, 2) for part in parts], 1).transpose(1, 2)  # [1, heads, Q]
        torch.cat([part[0].transpose(1, 2) for part in parts], 1, out=out.transpose(1, 2))
        for begin, end, keys, values in shared(key, value, prefix_key, prefix_value, layout, queries):
            also, its_norm = flash(query[:, :, begin:end], keys, values, 0.0, False, scale=scale)
            merge(out[:, :, begin:end], norm[:, :, begin:end], also, its_norm)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, norm)
        ctx.layout, ctx.scale = layout, scale
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, values, and of the prefix: what each part gives, added up."""
        query, key, value, prefix_key, prefix_value, out, norm = ctx.saved_tensors
        layout, grad = ctx.layout, grad.transpose(1, 2)

        def back(
            begin: int, end: int, keys: Tensor, values: Tensor, causal: bool, mask: Tensor | None = None
        ) -> tuple[Tensor, Tensor, Tensor]:
            rows = (x[:, :, begin:end] for x in (grad, query, out, norm))
            g, q, o, n = rows
            made: tuple[Tensor, Tensor, Tensor]
            made = flash_backward(g, q, keys, values, o, n, 0.0, causal, attn_mask=mask, scale=ctx.scale)
            return made

        parts = [
            back(a, b, key[:, :, c:d], value[:, :, c:d], layout.causal, mask)
            for (a, b, c, d), mask in zip(layout.own, layout.masks, strict=True)
        ]
        dq = torch.cat([part[0].transpose(1, 2) for part in parts], 1).transpose(1, 2)
        dk, dv = (placed([part[i] for part in parts], layout, key.shape[2]) for i in (1, 2))
        length = 0 if prefix_key is None else prefix_key.shape[2]
        to_prefix = (
            [None, None] if prefix_key is None else [torch.zeros_like(prefix_key), torch.zeros_like(prefix_value)]
        )
        for begin, end, keys, values in shared(key, value, prefix_key, prefix_value, layout, query.shape[2]):
            more, *to_shared = back(begin, end, keys, values, False)
            dq[:, :, begin:end] += more
            for whole, made in zip(to_prefix, to_shared, strict=True):
                if whole is not None:
                    whole += made[:, :, :length]
            if begin or layout.labels:
                for whole, made in zip((dk, dv), to_shared, strict=True):
                    whole[:, :, : layout.front] += made[:, :, length:]
        return dq, dk, dv, *to_prefix, None, None


def placed(parts: list[Tensor], layout: Layout, tokens: int) -> Tensor:
    """What each part gives to its own keys, as a gradient [1, K, N, D] of all keys."""
    if not layout.labels:
        return torch.cat([part.transpose(1, 2) for part in parts], 1).transpose(1, 2)
    whole = parts[0].new_zeros(1, tokens, parts[0].shape[1], parts[0].shape[3]).transpose(1, 2)
    for (_, _, begin, end), part in zip(layout.own, parts, strict=True):
        whole[:, :, begin:end] = part
    return whole


def shared(
    key: Tensor, value: Tensor, prefix_key: Tensor | None, prefix_value: Tensor | None, layout: Layout, queries: int
) -> list[tuple[int, int, Tensor, Tensor]]:
    """Which queries see which shared keys and values: the front sees the prefix, the rows see prefix and front."""
    front = layout.front
    first = 0 if layout.labels else front  # the first query that is not of the front
    if prefix_key is None or prefix_value is None:
        return [(first, queries, key[:, :, :front], value[:, :, :front])] if front else []
    if not front:
        return [(0, queries, prefix_key, prefix_value)]
    keys = torch.cat([prefix_key, key[:, :, :front]], 2)
    values = torch.cat([prefix_value, value[:, :, :front]], 2)
    return [(0, first, prefix_key, prefix_value)] * bool(first) + [(first, queries, keys, values)]


def merge(out: Tensor, norm: Tensor, also: Tensor, its_norm: Tensor) -> None:
    """Make `out` [1, heads, n, D] and `norm` [1, heads, n] the softmax over the keys of both parts, in place."""
    share = torch.sigmoid(its_norm - norm)
    out.lerp_(also, share[..., None].to(out.dtype))
    torch.logaddexp(norm, its_norm, out=norm)
