"""Where training begins: initial prompt vectors and, for prefixes, keys and values of a real text.

Lester et al. 2021 (arXiv:2104.08691, section 3.2): sampled vocabulary (the first 5,000 ids, without repeats) or class
labels; both beat random vectors. A prefix starts from the keys and values that the model itself makes of a text.

Prompts of other tasks come in by two keys of a recipe. `init.source` is one stored prompt that training begins at: it
becomes `Start.embeds`, or keys and values, so a method that freezes or multiplies its start (`adapt`, `mpt`) needs no
more. `init.sources` are several that a method reads beside its own: they become `Start.sources` [N, P, H]. `plan` opens
the files and checks their backbone, this module their kind and shape; a method sees tensors alone, and says by
`borrows` that it reads them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from softprompt.backbones import Backbone
from softprompt.backbones.text import tokens_only
from softprompt.core import TEXT, Batch, Pair, Prefix, Start
from softprompt.errors import RecipeError
from softprompt.tokens import continuation

Kind = Literal["vocabulary", "text", "labels", "random"]
COMMON = 5000  # ids that count as frequent: tokenizers number tokens by frequency


def make_start(
    backbone: Backbone,
    kind: Kind,
    length: int,
    *,
    keys: bool,
    seed: int,
    text: str = "",
    labels: Sequence[str] = (),
    pixels: Tensor | None = None,
) -> Start:
    """Initial vectors [P, H] and, with `keys`, the keys and values [1, K, P, D] of every layer.

    `text` is the text to start from (`kind="text"`), `labels` the class names (`kind="labels"`); what they do not fill
    is filled with sampled vocabulary. `pixels` [B, channels, h, w] are training images, for vision backbones. Raises
    `RecipeError` where a kind does not fit the task or the backbone.
    """
    generator = torch.Generator().manual_seed(seed)
    if backbone.spec.kind == "vision":
        return vision_start(backbone, kind, length, pixels, keys, generator)
    sampled = sample_vocabulary(backbone, length, generator)
    if kind == "text":
        given = backbone.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # may be long: it is cut
        ids = (given + sampled)[:length]
        note = f"text {backbone.tokenizer.decode(ids)[:60]!r}"
    elif kind == "labels":
        words = label_words(backbone, labels)
        ids, note = ([i for word in words for i in word] + sampled)[:length], "class labels, then sampled vocabulary"
    else:
        ids, note = sampled, f"{length} of the first {COMMON} tokens"
    embeds = embedded(backbone, ids)
    if kind == "labels":
        means = [embedded(backbone, word).mean(0) for word in words]
        embeds = torch.cat([torch.stack(means), embedded(backbone, sampled)])[:length]
    if kind == "random":
        embeds = torch.randn(length, backbone.spec.hidden, generator=generator) * backbone.spec.rms
        note = f"normal, in the scale of the embeddings (rms {backbone.spec.rms:.3g})"
    if not keys:
        exact = kind in ("text", "vocabulary")
        return Start(embeds, ids=torch.tensor(ids) if exact else None, note=note)
    start = recorded_start(backbone, tokens_only(torch.tensor([ids], device=backbone.device)), embeds, length, note)
    return randomised(start, generator) if kind == "random" else start


def recorded_start(backbone: Backbone, batch: Batch, embeds: Tensor, length: int, note: str) -> Start:
    """Vectors beside the keys and values that the layers make of the first `length` places of a batch."""

    def first(prefix: Prefix | None) -> Prefix | None:
        if prefix is None:
            return None
        return tuple(
            pair and (pair[0][:1, :, :length].float().cpu(), pair[1][:1, :, :length].float().cpu()) for pair in prefix
        )

    made = backbone.record(batch)
    return Start(embeds, first(made.prefix), first(made.decoder), first(made.cross), f"keys and values of {note}")


def sample_vocabulary(backbone: Backbone, length: int, generator: torch.Generator) -> list[int]:
    """Ids of frequent ordinary tokens, without repeats while there are enough of them."""
    rows = min(backbone.model.get_input_embeddings().weight.shape[0], len(backbone.tokenizer))
    special = set(backbone.tokenizer.all_special_ids)
    frequent = [i for i in range(min(COMMON, rows)) if i not in special]
    rounds = -(-length // len(frequent))
    order = [i for _ in range(rounds) for i in torch.randperm(len(frequent), generator=generator).tolist()]
    return [frequent[i] for i in order[:length]]


def label_words(backbone: Backbone, labels: Sequence[str]) -> list[list[int]]:
    """The tokens of every class name, as it stands in running text."""
    words = [continuation(backbone.tokenizer, label) for label in labels]
    if not words or not all(words):
        raise RecipeError("SP-E230", "init=labels without class names", "a classification task", "use init=vocabulary")
    return words


def embedded(backbone: Backbone, ids: list[int]) -> Tensor:
    """The embeddings [P, H] of token ids, float32 on the CPU."""
    return backbone.tokens(torch.tensor([ids], device=backbone.device))[0].float().cpu()


def randomised(start: Start, generator: torch.Generator) -> Start:
    """Normal keys and values in the scale of the recorded ones, layer by layer."""

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator) * x.square().mean().sqrt()

    def random(prefix: Prefix | None) -> Prefix | None:
        return None if prefix is None else tuple(pair and (noise(pair[0]), noise(pair[1])) for pair in prefix)

    note = "normal, in the scale of this model's own keys and values"
    return replace(
        start, prefix=random(start.prefix), decoder=random(start.decoder), cross=random(start.cross), note=note
    )


def vision_start(
    backbone: Any, kind: Kind, length: int, pixels: Tensor | None, keys: bool, generator: torch.Generator
) -> Start:
    """Uniform vectors as in VPT (arXiv:2203.12119, v = sqrt(6 / (3 patch^2 + H))); keys and values of real images."""
    if kind == "labels":
        found, expected = "init=labels for images", "a backbone that reads words"
        raise RecipeError("SP-E230", found, expected, "use init=random")
    config, spec = backbone.model.config, backbone.spec
    bound = (6 / (3 * config.patch_size**2 + spec.hidden)) ** 0.5
    embeds = (torch.rand(length, spec.hidden, generator=generator) * 2 - 1) * bound
    if not keys:
        return Start(embeds, note=f"uniform within {bound:.3g}, as in VPT")
    if pixels is None:
        raise RecipeError("SP-E230", "a prefix for images without images", "training images", "give data.train")
    places = torch.zeros(len(pixels), 1, dtype=torch.long)
    batch = Batch(places, places == 0, places + TEXT, pixels=pixels.to(backbone.device), vectors=0)
    made = backbone.record(batch).prefix
    joined: Prefix = tuple(pair and side_by_side(pair, length) for pair in made)
    start = Start(embeds, joined, note=f"keys and values of the patches of {len(pixels)} images")
    return randomised(start, generator) if kind == "random" else start


def side_by_side(pair: Pair, length: int) -> Pair:
    """Keys and values [1, K, P, D] of patches of several images [B, K, T, D], one image after the other."""
    key, value = (x.float().cpu().transpose(0, 1).flatten(1, 2)[None, :, :length] for x in pair)
    if key.shape[2] < length:
        raise RecipeError(
            "SP-E230", f"{key.shape[2]} patches for {length} vectors", "more images", "use a shorter prompt"
        )
    return key, value


def from_prompt(method_start: Start, stored: dict[str, Tensor], where: str) -> Start:
    """A warm start: the vectors, keys and values of a stored prompt of the same shape.

    Sides that the stored prompt lacks begin as `method_start` says; `Start.stored` names the others, so that a method
    can refuse those that it does not reach. Raises `RecipeError` where the stored prompt has other shapes than the one
    about to be trained, vectors for a place where that one has none, or more than vectors.
    """
    keys = method_start.prefix is not None
    if stored.keys() == {"prompt"} and not keys:  # more would be left behind without a word
        if stored["prompt"].shape != method_start.embeds.shape:
            raise mismatch(where, tuple(stored["prompt"].shape), tuple(method_start.embeds.shape))
        return replace(method_start, embeds=stored["prompt"].float(), ids=None, note=f"prompt {where}")
    sides = {"encoder": method_start.prefix, "decoder": method_start.decoder, "cross": method_start.cross}
    units = {side: stored.get(f"stacks.{side}.unit", torch.ones(())) for side in sides}
    given = {side: stored[name] * units[side] for side in sides if (name := f"stacks.{side}.prefix") in stored}
    if not given or not keys:
        raise RecipeError(
            "SP-E231",
            f"{', '.join(sorted(stored))[:120] or 'nothing'} in {where}",
            f"{'keys and values' if keys else 'plain vectors'} and nothing else",
            "set init.source to a prompt that is stored so (`softprompt show`), or leave it out",
        )
    for side, made in given.items():  # [L, 2, K, P, D]
        usual = sides[side]
        wanted = None if usual is None else (len(usual), 2, *usual[0][0].shape[1:])  # type: ignore[index]
        if tuple(made.shape) != wanted:
            if wanted is None or len(made) == wanted[0]:
                raise mismatch(where, tuple(made.shape), wanted)
            raise partial(where, len(made), wanted[0])
        sides[side] = tuple((layer[0][None].float(), layer[1][None].float()) for layer in made)
    start = replace(method_start, prefix=sides["encoder"], decoder=sides["decoder"], cross=sides["cross"])
    return replace(start, note=f"prompt {where}", stored=tuple(given))


def from_sources(start: Start, sources: Sequence[tuple[dict[str, Tensor], str]]) -> Start:
    """The same start with the vectors [N, P, H] of N stored prompts beside it, each given as tensors and a name.

    Raises `RecipeError` where one of them holds keys and values, or vectors of another shape than those of the start.
    """
    if not sources:
        return start
    for tensors, where in sources:
        if tensors.keys() != {"prompt"}:
            raise RecipeError(
                "SP-E231",
                f"{', '.join(sorted(tensors))[:120] or 'nothing'} in {where}",
                "plain vectors among the input embeddings, which is what the target's own prompt is",
                "set init.sources to prompts that are stored so (`softprompt show`)",
            )
        if tensors["prompt"].shape != start.embeds.shape:
            raise mismatch(where, tuple(tensors["prompt"].shape), tuple(start.embeds.shape))
    joined = torch.stack([tensors["prompt"].float() for tensors, _ in sources])
    return replace(start, sources=joined, note=f"{start.note}; {len(sources)} source prompts")


def partial(where: str, found: int, expected: int) -> RecipeError:
    """A stored prefix of other layers: which ones they were is not among its tensors."""
    do = "start from a prefix that was trained without method.options.layers; one of some layers starts no other"
    return RecipeError("SP-E231", f"keys and values of {found} layers in {where}", f"of all {expected}", do)


def mismatch(where: str, found: object, expected: object) -> RecipeError:
    """A stored prompt of another shape."""
    return RecipeError(
        "SP-E231", f"shape {found} in {where}", f"{expected}", "use the same method, length and backbone as that prompt"
    )
