"""Smaller prompts of a trained one, most without training: what each weighs and still scores, and which one to keep."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from softprompt import canary
from softprompt.artifact import Artifact, MethodCard
from softprompt.compress import gates, merge, prune, rank, ratio
from softprompt.compress.distil import Lessons
from softprompt.compress.int8 import int8
from softprompt.core import Example
from softprompt.errors import RecipeError
from softprompt.explain.importance import products
from softprompt.explain.shares import shares
from softprompt.methods import name_of
from softprompt.metrics import find_metric
from softprompt.prompt import Prompt
from softprompt.vectors import Measured, measure, vectors_of

WAYS = ("auto", "prune", "merge", "rank", "int8", "pieces", "distil")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # what is removed, as in XPrompt's search
PIECES = 16  # XPrompt's
WATCHED = 32  # examples whose attention is looked at


@dataclass(frozen=True)
class Candidate:
    """A prompt made of another one, and what it scores on the examples it is chosen by."""

    how: str
    keep: int  # vectors; of `rank` the rank
    prompt: Prompt
    dev: Measured

    @property
    def bytes(self) -> int:
        """What the method's tensors take; the card of a file comes on top."""
        return weight(self.prompt)

    def as_dict(self) -> dict[str, Any]:
        """The candidate as plain values."""
        return {"how": self.how, "keep": self.keep, "bytes": self.bytes, "dev": self.dev.as_dict()}


@dataclass(frozen=True)
class Compressed:
    """Everything that was tried, what was chosen, and what the predictors would have kept."""

    whole: Candidate
    candidates: list[Candidate]
    chosen: Candidate
    predicted: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The search as plain values."""
        tried = [one.as_dict() | {"chosen": one is self.chosen} for one in [self.whole, *self.candidates]]
        return {"predicted": self.predicted, "candidates": tried}


def compress(
    prompt: Prompt,
    examples: Sequence[Example],
    metric: str,
    *,
    how: str = "auto",
    keep: int | None = None,
    by: str = "",
    tolerance: float = 0.01,
    lessons: Lessons | None = None,
) -> Compressed:
    """The smallest prompt that keeps the score on `examples` within `tolerance` of the whole one's, without training.

    `how` is one of WAYS; `auto` tries all that train nothing but pieces, and rounds to 8 bits whatever is good enough;
    `distil` trains, by `lessons` (`compress.distil.lessons`), a length that `keep` or `by` says. With `keep` or the
    predictor `by` (of `ratio.PREDICTORS`) that many vectors are kept, whatever it costs; else every share of SHARES is
    measured. Prompts that write are judged by their loss, `tolerance` being a share of it. If nothing smaller is good
    enough, the whole prompt is what is chosen. Raises `Unsupported` SP-E428, and `RecipeError` SP-E204.
    """
    vectors = vectors_of(prompt)
    check(how, keep, by, len(vectors), lessons)
    found = one_pass(prompt, vectors, examples, metric)
    guess = ratio.predicted(found)
    way = by or ratio.DEFAULT
    counts = [keep] if keep else grid(len(vectors)) if way == ratio.MEASURED else [guess[way]]
    whole = Candidate("whole", len(vectors), prompt, measure(prompt, examples, metric))
    tried = [
        Candidate(way, count, made, measure(made, examples, metric))
        for way, count, made in smaller(prompt, vectors, found.importance, examples, how, counts, lessons)
    ]
    good = enough(whole.dev, metric, tolerance)
    if how == "auto":
        tried += [rounded(one, examples, metric) for one in tried if good(one.dev) and one.how in ("prune", "merge")]
    told = keep is not None or by in ratio.PREDICTORS
    fit = tried if told and how != "auto" else [one for one in tried if good(one.dev)]
    return Compressed(whole, tried, min([*fit, *([] if fit else [whole])], key=cost), guess)


def cost(one: Candidate) -> tuple[int, float]:
    """What decides between candidates that are good enough: bytes, then the loss."""
    return one.bytes, one.dev.loss


def check(how: str, keep: int | None, by: str, length: int, lessons: Lessons | None) -> None:
    """Raise `RecipeError` SP-E204 for settings that make no sense, and SP-E778 where `distil` lacks something."""
    if how == "distil" and (lessons is None or not (keep or by in ratio.PREDICTORS)):
        found = "distil without data to train on" if lessons is None else "distil without a number of vectors"
        do = "give --train FILE, and --keep N or --by PREDICTOR"
        raise RecipeError("SP-E778", found, "both: every length is trained", do)
    for name, value, known in (("how", how, WAYS), ("by", by, ("", ratio.MEASURED, *ratio.PREDICTORS))):
        if value not in known:
            expected = f"one of {', '.join(word for word in known if word)}"
            raise RecipeError("SP-E204", f"{name} {value!r}", expected, f"change --{name}")
    if keep is not None and not 1 <= keep <= length:
        raise RecipeError("SP-E204", f"keep = {keep}", f"a number from 1 to {length}", "change --keep")
    if not length:
        raise RecipeError("SP-E204", "a prompt without vectors", "vectors", "compress another prompt")


def grid(length: int) -> list[int]:
    """How many of `length` vectors are kept at every share of SHARES, most first; always one, never all."""
    return sorted({max(1, round(length * (1 - share))) for share in SHARES} - {length}, reverse=True)


def one_pass(prompt: Prompt, vectors: Tensor, examples: Sequence[Example], metric: str) -> ratio.Pass:
    """What predictors read: slopes of every example, the attention of some, and gates learned on some."""
    seen = shares(prompt, vectors, examples[:WATCHED])
    by_layer = seen.get("text", [])
    mass = vectors.new_tensor([layer["vectors"] for layer in by_layer]).mean(0) if by_layer else None
    slopes, loss = products(prompt, vectors, examples), measure(prompt, examples, metric).loss
    return ratio.Pass(slopes, loss, vectors, mass, gates.learned(prompt, vectors, examples))


def smaller(
    prompt: Prompt,
    vectors: Tensor,
    scores: Tensor,
    examples: Sequence[Example],
    how: str,
    counts: list[int],
    lessons: Lessons | None = None,
) -> Iterator[tuple[str, int, Prompt]]:
    """The prompts to try, each with how it was made and how much of it is left."""
    if how in ("auto", "int8"):
        yield "int8", len(vectors), int8(prompt)
    for count in counts:
        if how in ("auto", "prune"):
            yield "prune", count, prune.tokens(prompt, vectors, scores, count)
        if how in ("auto", "merge"):
            yield "merge", count, merge.merge(prompt, vectors, scores, count)
        if how == "rank" or (how == "auto" and rank.saves(vectors, count)):
            yield "rank", count, rank.low_rank(prompt, vectors, count)
        if how == "pieces":
            made = prune.pieces(prompt, vectors, examples, PIECES, 1 - count / len(vectors))
            yield "pieces", count, made
        if how == "distil" and lessons is not None:
            yield from ((way, count, made) for way, made in lessons(count))


def rounded(one: Candidate, examples: Sequence[Example], metric: str) -> Candidate:
    """A candidate in 8 bits."""
    made = int8(one.prompt)
    return Candidate(f"{one.how}+int8", one.keep, made, measure(made, examples, metric))


def enough(whole: Measured, metric: str, tolerance: float) -> Callable[[Measured], bool]:
    """Whether what is measured is as good as the whole prompt, but for the tolerance."""
    if whole.score is None:
        return lambda found: found.loss <= whole.loss * (1 + tolerance)
    sign, before = (1 if find_metric(metric).higher_is_better else -1), whole.score.value
    return lambda found: found.score is not None and sign * (found.score.value - before) >= -tolerance - 1e-9


def weight(prompt: Prompt) -> int:
    """Bytes of the method's tensors."""
    tensors = [value for name, value in prompt.state_dict().items() if name.startswith("method.")]
    return sum(value.numel() * value.element_size() for value in tensors)


def stored(prompt: Prompt, parent: Artifact, report: dict[str, Any], name: str) -> Artifact:
    """The artifact of a compressed prompt, in the form that it has (factors, codes), with its parent in the card."""
    made = Artifact.of(prompt, parent.card.recipe, report, (name,))
    method = prompt.method
    trained_as = parent.card.method.trained_as or parent.card.method.name
    card = MethodCard(name=name_of(method), length=method.length, options=method.options(), trained_as=trained_as)
    tensors = {key: value.detach().cpu().clone() for key, value in prompt.state_dict().items()}
    return Artifact(tensors, made.card.model_copy(update={"method": card, "canaries": canary.record(prompt)}))
