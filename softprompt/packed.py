"""Attention over one row that holds a whole batch, [front][rest of row 1][rest of row 2]... (`core.Packing`).

Every row attends to the front, to a prefix where there is one, and causally to itself. Keys and values of front and
prefix exist once: a softmax over [front; rest] is two softmaxes weighed by their normalisers, and with the normaliser
of the whole put in, the backward pass of each part is the backward pass of its share. The identity is old; Hydragen
(Juravsky et al. 2024, arXiv:2402.05099) uses it to serve, Prefix Grouper (arXiv:2506.05433) to train.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from softprompt.core import Packing, Pair, Prefix
from softprompt.errors import Unsupported

CHUNK = 1024  # tokens that one masked product covers, where attention is masked
HARMLESS = {"position_ids", "use_cache", "cache_position", "output_attentions", "output_router_logits", "is_causal"}


class Packed:
    """One forward over a packed row: what its layers need to know, and which of them asked.

    `windows` is the number of layers that must ask for a sliding window.
    """

    def __init__(self, packing: Packing, modules: list[nn.Module], prefix: Prefix | None, windows: int) -> None:
        self.packing, self.windows = packing, windows
        self.pairs = dict(zip(map(id, modules), prefix or [None] * len(modules), strict=True))
        # Four dimensions: transformers hands such a mask through as it is. No layer may have put anything into it.
        self.mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=packing.columns.device)
        self.asked: dict[int, int | None] = {}  # the window of every layer that ran
        self.masks: dict[tuple[int, int | None], list[Tensor]] = {}  # by length of the prefix and window

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        dropout: float = 0.0,
        **others: Any,
    ) -> Tensor:
        """`query` [1, heads, N, D], `key` and `value` [1, K, N, D]; the result is [1, N, heads, D].

        Raises `Unsupported` where a layer asks for anything that is not known to be harmless.
        """
        check_asked(mask, dropout, others, known=id(module) in self.pairs)
        self.asked[id(module)] = sliding_window
        pair = self.pairs[id(module)]
        kind = (
            torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else key.dtype
        )
        query, key, value = (x.to(kind) for x in (query, key, value))
        pair = None if pair is None else (pair[0].to(kind), pair[1].to(kind))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        window = None if sliding_window is None or sliding_window >= self.packing.longest else sliding_window
        if window is None and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
            made: Tensor = Shared.apply(query, key, value, *(pair or (None, None)), self.packing, scale)  # type: ignore[no-untyped-call]
            return made
        return self.masked(query, key, value, pair, scale, window)

    def check(self) -> None:
        """Raise `Unsupported` if a layer attended in another way, or said nothing of its window."""
        silent = len(self.pairs.keys() - self.asked.keys())
        windows = sum(window is not None for window in self.asked.values())
        if silent or windows != self.windows:
            what = f"{silent} layers that do not attend" if silent else f"{windows} of {self.windows} windows"
            raise unpackable(f"{what} through the attention registry of transformers")

    def masked(
        self, query: Tensor, key: Tensor, value: Tensor, pair: Pair | None, scale: float, window: int | None
    ) -> Tensor:
        """The same by products with masks: for sliding windows, and for devices that keep normalisers to themselves."""
        length, front = 0 if pair is None else pair[0].shape[2], self.packing.front
        masks = self.masks.get((length, window))
        if masks is None:
            masks = self.masks[length, window] = [self.visible(a, b, length, window) for a, b in self.chunks()]
        made = []
        for (begin, end), mask in zip(self.chunks(), masks, strict=True):
            parts = [] if pair is None else [pair]
            parts += [(key[:, :, :front], value[:, :, :front])] if begin else []
            parts += [(key[:, :, begin:end], value[:, :, begin:end])]
            keys, values = (torch.cat([part[i] for part in parts], 2) for i in (0, 1))
            groups = query.shape[1] // keys.shape[1]
            if groups > 1:
                keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
            seen = F.scaled_dot_product_attention(query[:, :, begin:end], keys, values, attn_mask=mask, scale=scale)
            made.append(seen.transpose(1, 2))
        return torch.cat(made, 1)

    def chunks(self) -> list[tuple[int, int]]:
        """The front, then rows one after the other, as many as fit into a chunk (or one that is longer)."""
        found = [(0, self.packing.front)] if self.packing.front else []
        begin = self.packing.front
        for _, end in self.packing.spans:
            if found and found[-1][0] >= self.packing.front and end - found[-1][0] <= CHUNK:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
            begin = end
        return found

    def visible(self, begin: int, end: int, length: int, window: int | None) -> Tensor:
        """What tokens `begin` to `end` see of [prefix; front; themselves]: [tokens, length + front + tokens] bool."""
        columns, front = self.packing.columns[0], self.packing.front
        numbers = torch.zeros_like(columns)
        numbers[[first for first, _ in self.packing.spans]] = 1
        numbers = numbers.cumsum(0)  # which row a token is of; the front is row 0, which all rows see
        at = torch.arange(begin, end, device=columns.device)
        keys = torch.cat([torch.arange(front, device=columns.device), at]) if begin else at
        distance = columns[at][:, None] - columns[keys]
        seen = (distance >= 0) & ((numbers[at][:, None] == numbers[keys]) | (numbers[keys] == 0))
        if window is not None:
            seen &= distance < window
        return F.pad(seen, (length, 0), value=True)  # a prefix is always in sight, as in `attention.widen`


class Several:
    """Packed rows one after the other in one row: each attends within itself, with the prefix that is its own."""

    def __init__(self, rows: Sequence[Packed]) -> None:
        self.rows, self.mask = rows, rows[0].mask
        self.tokens = [row.packing.columns.shape[1] for row in rows]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **others: Any
    ) -> Tensor:
        """As `Packed.attend`, for the tokens of all rows."""
        parts = zip(self.rows, *(torch.split(x, self.tokens, 2) for x in (query, key, value)), strict=True)
        return torch.cat([row.attend(module, q, k, v, mask, **others) for row, q, k, v in parts], 1)

    def check(self) -> None:
        """As `Packed.check`, of every row."""
        for row in self.rows:
            row.check()


def unpackable(found: str) -> Unsupported:
    """The error for a model that cannot read a packed row."""
    return Unsupported("SP-E422", found, "attention over rows and nothing else", "set train.engine to plain or auto")


def check_asked(mask: Tensor | None, dropout: float, others: dict[str, Any], *, known: bool) -> None:
    """Raise `Unsupported` where a layer asks for anything that is not known to be harmless, or is not a known one."""
    unknown = [name for name, given in others.items() if given is not None and name not in HARMLESS]
    if unknown or dropout or mask is None or mask.numel() != 1 or not known:
        raise unpackable(f"an attention layer that asks for {', '.join(unknown) or 'a mask or dropout of its own'}")


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
        packing: Packing,
        scale: float,
    ) -> Tensor:
        """[1, N, heads, D] of `query` [1, heads, N, D] and `key`, `value` [1, K, N, D]."""
        front, spans = packing.front, packing.spans
        heads, tokens = query.shape[1:3]
        out = query.new_empty(1, tokens, heads, query.shape[3]).transpose(1, 2)
        causal = [(0, front), *spans] if front else list(spans)
        parts = [flash(*(x[:, :, a:b] for x in (query, key, value)), 0.0, True, scale=scale) for a, b in causal]
        norm = torch.cat([part[1].transpose(1, 2) for part in parts], 1).transpose(1, 2)  # [1, heads, N]
        torch.cat([part[0].transpose(1, 2) for part in parts], 1, out=out.transpose(1, 2))
        for begin, end, keys, values in shared(key, value, prefix_key, prefix_value, front):
            also, its_norm = flash(query[:, :, begin:end], keys, values, 0.0, False, scale=scale)
            merge(out[:, :, begin:end], norm[:, :, begin:end], also, its_norm)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, norm)
        ctx.causal, ctx.front, ctx.scale = causal, front, scale
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, values, and of the prefix: what each part gives, added up."""
        query, key, value, prefix_key, prefix_value, out, norm = ctx.saved_tensors
        grad = grad.transpose(1, 2)

        def back(begin: int, end: int, keys: Tensor, values: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            rows = (x[:, :, begin:end] for x in (grad, query, out, norm))
            g, q, o, n = rows
            made: tuple[Tensor, Tensor, Tensor]
            made = flash_backward(g, q, keys, values, o, n, 0.0, causal, scale=ctx.scale)
            return made

        parts = [back(a, b, key[:, :, a:b], value[:, :, a:b], True) for a, b in ctx.causal]
        dq, dk, dv = (torch.cat([part[i].transpose(1, 2) for part in parts], 1).transpose(1, 2) for i in range(3))
        length = 0 if prefix_key is None else prefix_key.shape[2]
        to_prefix = (
            [None, None] if prefix_key is None else [torch.zeros_like(prefix_key), torch.zeros_like(prefix_value)]
        )
        for begin, end, keys, values in shared(key, value, prefix_key, prefix_value, ctx.front):
            more, *to_shared = back(begin, end, keys, values, False)
            dq[:, :, begin:end] += more
            for whole, made in zip(to_prefix, to_shared, strict=True):
                if whole is not None:
                    whole += made[:, :, :length]
            for whole, made in zip((dk, dv), to_shared, strict=True):
                if begin:
                    whole[:, :, : ctx.front] += made[:, :, length:]
        return dq, dk, dv, *to_prefix, None, None


def shared(
    key: Tensor, value: Tensor, prefix_key: Tensor | None, prefix_value: Tensor | None, front: int
) -> list[tuple[int, int, Tensor, Tensor]]:
    """Which tokens see which shared keys and values: the front sees the prefix, the rows see prefix and front."""
    tokens = key.shape[2]
    if prefix_key is None or prefix_value is None:
        return [(front, tokens, key[:, :, :front], value[:, :, :front])] if front else []
    if not front:
        return [(0, tokens, prefix_key, prefix_value)]
    keys = torch.cat([prefix_key, key[:, :, :front]], 2)
    values = torch.cat([prefix_value, value[:, :, :front]], 2)
    return [(0, front, prefix_key, prefix_value), (front, tokens, keys, values)]


def merge(out: Tensor, norm: Tensor, also: Tensor, its_norm: Tensor) -> None:
    """Make `out` [1, heads, n, D] and `norm` [1, heads, n] the softmax over the keys of both parts, in place."""
    share = torch.sigmoid(its_norm - norm)
    out.lerp_(also, share[..., None].to(out.dtype))
    torch.logaddexp(norm, its_norm, out=norm)
