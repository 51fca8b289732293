"""Sizes that a cost is made of: of layers, read from their modules, and of batches, read from rows. Nothing is run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from softprompt.core import IGNORE, Injection, Row

FLASH = 2.5  # operations of attention's backward pass over its forward pass: five products for two
# What an activation keeps of its input, in copies: those that are written out in Python keep every factor.
COPIES = {"NewGELUActivation": 4, "FastGELUActivation": 6, "QuickGELUActivation": 2}
Product = tuple[str, int, int, float]  # name, numbers in and out of a linear layer, and how often a token passes it


@dataclass(frozen=True)
class Stack:
    """One stack of layers; a number is for all of its layers unless it says otherwise."""

    layers: int
    hidden: int
    linear: float  # weights of linear layers that a token meets
    entry: int  # of these, the queries, keys and values of one layer
    wide: int  # of one attention: heads x head size
    narrow: int  # of one attention: key/value heads x head size
    heads: int
    attentions: int  # two a layer where a decoder reads an encoder
    norms: float  # bytes that a token keeps in norms
    inner: float  # numbers that a token keeps between the linear layers, attention left out


@dataclass(frozen=True)
class Load:
    """What one batch, laid out one way, asks of a stack."""

    tokens: int
    pairs: int  # of queries and keys, those of a prefix included
    keys: int = 0  # places of a prefix, times the rows that have a copy
    memory: int = 0  # states of an encoder that a decoder reads


def read_stack(stack: nn.Module, config: Any, size: int) -> Stack:
    """The sizes of a stack of layers whose activations take `size` bytes a number.

    `config` is the model's; where layers share their weights (ALBERT), each run of them counts.
    """
    products = [made for made in linears(stack, config) if "pooler" not in made[0]]
    inside = [made for made in products if attends(made[0])]
    others = [made for made in products if not attends(made[0])]
    runs = config.num_hidden_layers / getattr(config, "num_hidden_groups", config.num_hidden_layers)
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or config.hidden_size // heads
    wide, narrow = heads * head, (getattr(config, "num_key_value_heads", None) or heads) * head
    crossed = any("encdec" in name.lower() or "encoder_attn" in name for name, *_ in inside)
    layers = getattr(config, "decoder_layers" if crossed else "encoder_layers", None) or config.num_hidden_layers
    hidden = config.hidden_size
    return Stack(
        layers=layers,
        hidden=hidden,
        linear=runs * sum(wide_in * out * often for _, wide_in, out, often in products),
        entry=hidden * (wide + 2 * narrow),
        wide=wide,
        narrow=narrow,
        heads=heads,
        attentions=layers * (2 if crossed else 1),
        norms=runs * sum(norms(stack, wide, narrow, size)),
        inner=runs * between(others, hidden, copies(stack)),
    )


def attends(name: str) -> bool:
    """Whether a module belongs to attention, by its name."""
    return "attn" in name.lower() or "attention" in name.lower()


def linears(model: nn.Module, config: Any) -> Iterator[Product]:
    """Every linear layer of a model; of a mixture of experts, each of them as often as a router chooses it."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    chosen = (getattr(config, "num_experts_per_tok", None) or 1) / experts
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if hasattr(module, "in_features") and hasattr(module, "out_features"):  # of quantised layers too
            yield name, module.in_features, module.out_features, 1.0
        elif type(module).__name__ == "Conv1D" and weight is not None:  # GPT-2's, transposed
            yield name, weight.shape[0], weight.shape[1], 1.0
        for own, stacked in module.named_parameters(recurse=False):
            if stacked.dim() == 3 and len(stacked) == experts > 1:
                yield f"{name}.{own}", stacked.shape[2], stacked.shape[1], chosen * experts


def norms(stack: nn.Module, wide: int, narrow: int, size: int) -> Iterator[float]:
    """Bytes that a token keeps in each norm: its input and a number or two; RMS norms compute in float32."""
    for name, module in stack.named_modules():
        weight = getattr(module, "weight", None)
        if "Norm" in type(module).__name__ and weight is not None:
            width = {"q_norm": wide, "k_norm": narrow}.get(name.rpartition(".")[2], weight.numel())
            yield (width + 2) * (max(4, size) if type(module) is not nn.LayerNorm else size)


def between(products: list[Product], hidden: int, kept: int) -> float:
    """Numbers that a token keeps between the linear layers of all layers: what activations and gates need."""
    up = sum(out * often for _, _, out, often in products if out != hidden)
    down = sum(wide_in * often for _, wide_in, out, often in products if out == hidden)
    return down * (kept + (2 if up > 1.5 * down else 0))  # a gate keeps both of its factors too


def copies(stack: nn.Module) -> int:
    """What the activation of a stack keeps of its input."""
    return max((COPIES.get(type(module).__name__, 1) for module in stack.modules()), default=1)


def reaches(injection: Injection, stacks: list[Stack]) -> list[tuple[float, bool]]:
    """The share of each stack's layers that a gradient passes, and whether it goes back to its tokens."""
    found = [reach(injection, stacks[0])]
    if len(stacks) > 1:  # what the encoder learns reaches the decoder through every layer
        found.append((1.0, False) if found[0][0] else reach(injection.decoder or Injection(), stacks[1]))
    return found


def reach(injection: Injection, stack: Stack) -> tuple[float, bool]:
    """As `reaches`, for one stack."""
    if injection.embeds is not None or injection.offset is not None or injection.deep is not None:
        return 1.0, True
    entered = [i for pair in (injection.prefix, injection.cross) for i, given in enumerate(pair or ()) if given]
    return ((stack.layers - min(entered)) / stack.layers if entered else 0.0), False


def prefix_length(injection: Injection) -> int:
    """Places of keys and values in front of a row."""
    given = [pair for pair in injection.prefix or () if pair is not None]
    return given[0][0].shape[2] if given else 0


def image_tokens(config: Any, injection: Injection) -> int:
    """Patches of an image, CLS, and prompt vectors."""
    own = 0 if injection.embeds is None else injection.embeds.shape[1]
    return int(config.image_size // config.patch_size) ** 2 + 1 + own


def outside(model: Any, inside: set[int], config: Any) -> list[tuple[int, int]]:
    """Linear layers between the last layer and the logits: numbers in and out."""
    found = {name: (wide, out) for name, wide, out, _ in linears(model, config)}
    modules = dict(model.named_modules())
    return [shape for name, shape in found.items() if name in modules and id(modules[name]) not in inside]


def size(row: Row) -> int:
    """Tokens of a row."""
    return len(row.ids)


def spare(load: Load) -> int:
    """How many more states of an encoder a decoder turns into keys and values than it has tokens itself."""
    return load.memory - load.tokens if load.memory else 0


def places(row: Row) -> set[int]:
    """Where a row has labels."""
    return {place for place, label in enumerate(row.labels) if label != IGNORE}


def padded(lengths: list[int], prefix: int, memory: Load | None = None) -> Load:
    """Rows as long as the longest, each with a copy of the prefix; a decoder's rows read the encoder's."""
    rows, longest = len(lengths), max(lengths)
    read = memory.tokens if memory else 0
    pairs = rows * longest * (longest + prefix) + longest * read
    return Load(rows * longest, pairs, rows * prefix, read)


def packed(rows: list[Row], prefix: int, *, shares: bool = True) -> Load:
    """Rows as one row; what they all begin with once, where they share it (`collate.pack`)."""
    shared = front(rows) if shares else 0
    rest = [size(row) - shared for row in rows]
    tokens = shared + sum(rest)
    pairs = shared**2 + sum(n * n for n in rest) + sum(rest) * shared + tokens * prefix
    return Load(tokens, pairs, prefix)


def fronted(rows: list[Row]) -> Load:
    """Padded rows behind what they all begin with, which runs once; its keys and values are copied to every row."""
    shared, longest = front(rows), max(map(size, rows))
    rest = len(rows) * (longest - shared)
    return Load(shared + rest, shared**2 + rest * longest, shared * len(rows))


def front(rows: list[Row]) -> int:
    """How many tokens all rows begin with, before any label, leaving each row one of its own."""
    first, limit = rows[0], min(map(size, rows)) - 1
    for at in range(limit):
        token = (first.ids[at], first.slots[at], IGNORE)
        if any((row.ids[at], row.slots[at], row.labels[at] if row.labels else IGNORE) != token for row in rows):
            return at
    return limit


def trimmed(stack: Stack, load: Load, logits: int, size: int, *, back: bool, again: bool) -> tuple[float, float]:
    """Operations and bytes that a last layer saves which runs at labels alone, but for keys and values.

    Its queries are made twice at labels, and once, for nothing, elsewhere. It is never run again for the backward
    pass.
    """
    spared, share = load.tokens - logits, 1 - logits / load.tokens
    rest, queries = stack.linear / stack.layers - stack.entry, stack.hidden * stack.wide
    fewer = 2 * (spared * rest - logits * stack.entry) + 4 * stack.wide * load.pairs * share
    kept = stack.norms / stack.layers / 2 + stack.inner / stack.layers * size
    kept += (2 * stack.wide + stack.heads) * size
    if not back:
        return fewer, 0.0
    if again:
        fewer += 2 * load.tokens * stack.linear / stack.layers + 4 * stack.wide * load.pairs
        kept = 0.0  # it goes back, and is done with, before any other layer is run again
    return fewer + 2 * spared * (rest + queries) + 4 * FLASH * stack.wide * load.pairs * share, spared * kept


def keeps(stack: Stack, load: Load, size: int, *, packed: bool, again: bool) -> float:
    """Bytes that a stack keeps for its backward pass if a gradient passes all of it."""
    keys = stack.narrow if packed else stack.wide  # padded, keys and values are copied for every head
    attention = stack.attentions * (2 * (stack.wide + keys) + stack.heads) * size
    whole = load.tokens * (stack.norms + stack.inner * size + attention)
    whole += stack.layers * 2 * (keys * load.keys + stack.wide * spare(load)) * size
    if not again:
        return whole
    return whole / stack.layers + stack.layers * stack.hidden * size * load.tokens  # one layer at a time
