"""Attention over one row that holds a whole batch, [front][rest of row 1][rest of row 2]... (`core.Packing`).

Every row attends to the front, to a prefix where there is one, and to itself: causally, or, in an encoder, where no
front is shared, in both directions. In the last layer it may be labels alone that ask (`Several`).

Keys and values of front and prefix exist once, for all rows (`softprompt.kernels`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softprompt.core import Packing, Pair, Prefix
from softprompt.errors import Unsupported
from softprompt.kernels import Layout, Shared
from softprompt.kernels import flash as flash  # also for rows of other kinds (`softprompt.serve`)
from softprompt.kernels import merge as merge

CHUNK = 1024  # tokens that one masked product covers, where attention is masked
HARMLESS = {"position_ids", "use_cache", "cache_position", "output_attentions", "output_router_logits", "is_causal"}


class Packed:
    """One forward over a packed row: what its layers need to know, and which of them asked.

    `windows` is the number of layers that must ask for a sliding window; `biased` are models whose layers add a bias
    by distance to their scores, which is that of each row where the rows stand one after the other.
    """

    def __init__(
        self,
        packing: Packing,
        modules: list[nn.Module],
        prefix: Prefix | None,
        windows: int,
        *,
        causal: bool = True,
        biased: bool = False,
    ) -> None:
        self.packing, self.windows, self.causal, self.biased = packing, windows, causal, biased
        self.layouts: dict[str, Layout] = {}
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
        at: Tensor | None = None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        dropout: float = 0.0,
        **others: Any,
    ) -> Tensor:
        """`query` [1, heads, N, D], `key` and `value` [1, K, N, D]; the result is [1, N, heads, D].

        With `at` [J], the places of labels, there are J queries and as many results. Raises `Unsupported` where a layer
        asks for anything that is not known to be harmless.
        """
        bias = others.pop("position_bias", None) if self.biased else None
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
            layout = self.layout(bias, query.dtype) if at is None else self.layout_at(at, query.dtype)
            made: Tensor = Shared.apply(query, key, value, *(pair or (None, None)), layout, scale)  # type: ignore[no-untyped-call]
            return made
        if bias is not None:
            raise unpackable("a bias by distance on a device that keeps normalisers to itself")
        return self.masked(query, key, value, pair, scale, window, at)

    def layout(self, bias: Tensor | None, dtype: torch.dtype) -> Layout:
        """All tokens ask. Layers share one bias [1, heads, n, n] by distance; a row takes as much as it is long."""
        if "whole" not in self.layouts:
            front = self.packing.front
            spans = [(0, front), *self.packing.spans] if front else self.packing.spans
            masks = [None if bias is None else bias[..., : b - a, : b - a].to(dtype).contiguous() for a, b in spans]
            self.layouts["whole"] = Layout(tuple((a, b, a, b) for a, b in spans), tuple(masks), self.causal, front)
        return self.layouts["whole"]

    def layout_at(self, at: Tensor, dtype: torch.dtype) -> Layout:
        """Labels ask, each about its own row, up to itself where the model is causal."""
        if "labels" not in self.layouts:
            columns, own, masks = self.packing.columns[0], [], []
            edges = torch.tensor([end for _, end in self.packing.spans], device=at.device)
            first = 0
            for (begin, end), last in zip(self.packing.spans, torch.searchsorted(at, edges).tolist(), strict=True):
                if last > first:
                    own.append((first, last, begin, end))
                    later = columns[None, begin:end] > columns[at[first:last], None]
                    hidden = torch.zeros(later.shape, dtype=dtype, device=at.device).masked_fill(later, -torch.inf)
                    masks.append(hidden if self.causal else None)
                first = last
            self.layouts["labels"] = Layout(tuple(own), tuple(masks), False, self.packing.front, labels=True)
        return self.layouts["labels"]

    def check(self) -> None:
        """Raise `Unsupported` if a layer attended in another way, or said nothing of its window."""
        silent = len(self.pairs.keys() - self.asked.keys())
        windows = sum(window is not None for window in self.asked.values())
        if silent or windows != self.windows:
            what = f"{silent} layers that do not attend" if silent else f"{windows} of {self.windows} windows"
            raise unpackable(f"{what} through the attention registry of transformers")

    def masked(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pair: Pair | None,
        scale: float,
        window: int | None,
        at: Tensor | None = None,
    ) -> Tensor:
        """The same by products with masks: for sliding windows, and for devices that keep normalisers to themselves."""
        length, front = 0 if pair is None else pair[0].shape[2], self.packing.front
        masks = self.masks.get((length, window))
        if masks is None:
            masks = self.masks[length, window] = [self.visible(a, b, length, window) for a, b in self.chunks()]
        made = []
        for (begin, end), mask in zip(self.chunks(), masks, strict=True):
            asking = query[:, :, begin:end]
            if at is not None:
                chosen = ((at >= begin) & (at < end)).nonzero()[:, 0]
                asking, mask = query[:, :, chosen], mask[at[chosen] - begin]
            parts = [] if pair is None else [pair]
            parts += [(key[:, :, :front], value[:, :, :front])] if begin else []
            parts += [(key[:, :, begin:end], value[:, :, begin:end])]
            keys, values = (torch.cat([part[i] for part in parts], 2) for i in (0, 1))
            groups = query.shape[1] // keys.shape[1]
            if groups > 1:
                keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
            seen = F.scaled_dot_product_attention(asking, keys, values, attn_mask=mask, scale=scale)
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
        seen = (numbers[at][:, None] == numbers[keys]) | (numbers[keys] == 0)
        if self.causal:
            seen &= distance >= 0
        if window is not None:
            seen &= distance < window
        return F.pad(seen, (length, 0), value=True)  # a prefix is always in sight, as in `attention.widen`


class KeysMade(Exception):
    """Ends a run of the last layer where its keys and values are made: nothing else of it is needed at all tokens."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair


class Several:
    """Packed rows one after the other in one row: each attends within itself, with the prefix that is its own.

    Where logits are made at labels alone, the `last` attention of the model needs keys and values of all tokens, but
    queries of labels only. Whoever runs its layer sets `armed` for a run that ends in `KeysMade`, and then `held` for
    one in which the states of labels stand alone and ask for these keys.
    """

    def __init__(self, rows: Sequence[Packed], last: nn.Module | None = None) -> None:
        self.rows, self.mask, self.last = rows, rows[0].mask, last
        self.tokens = [row.packing.columns.shape[1] for row in rows]
        self.labels = [len(row.packing.places) for row in rows]
        self.armed = False
        self.held: Pair | None = None

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **others: Any
    ) -> Tensor:
        """As `Packed.attend`, for the tokens of all rows."""
        if self.armed and module is self.last and others.get("sliding_window") is None:
            raise KeysMade((key, value))
        alone = module is self.last and self.held is not None
        if alone and self.held is not None:
            key, value = self.held
        asking = torch.split(query, self.labels if alone else self.tokens, 2)
        parts = zip(self.rows, asking, *(torch.split(x, self.tokens, 2) for x in (key, value)), strict=True)
        made = []
        for row, q, k, v in parts:
            at = row.packing.places if alone else None
            made.append(row.attend(module, q, k, v, mask, at=at, **others))
        return made[0] if len(made) == 1 else torch.cat(made, 1)

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
