"""Fixed inputs whose outputs are recorded with a prompt: a prompt that answers otherwise here is not the same prompt.

They catch what checksums cannot: another backbone with the same shapes, another tokenizer, a template that drifted, a
server that loads a prompt and then ignores it. The sentences are ours, so a card gives away nothing of anyone's data.
"""

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from softprompt.core import Example, Row
from softprompt.errors import ArtifactError
from softprompt.heads import Regressor, Tagger
from softprompt.prompt import Prompt, without_prompt

SENTENCES = (
    "The morning train to the coast was late again.",
    "I would never buy this lamp a second time!",
    "Which river flows through the old town?",
    "Please send two large parcels to Anna before noon.",
    "Nothing in the report explains why the price fell.",
    "She plays the cello, and he repairs clocks.",
)
KEPT = 5  # largest outputs of a canary that are recorded
TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3}  # in log-probability; other types round more
COARSE = 0.25


class Canary(BaseModel):
    """One input and the outputs that a prompt gives it: the largest log-probabilities by index, or a number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    input: str
    outputs: dict[int, float]


@dataclass(frozen=True)
class Findings:
    """What canaries say of a prompt on this backbone."""

    gap: float  # largest difference from what was recorded, in log-probability
    effect: float  # largest difference that the prompt makes
    tolerance: float


def rows(prompt: Prompt) -> list[Row]:
    """The canaries as rows of this prompt's task."""
    if prompt.backbone.spec.kind == "vision":
        config = prompt.backbone.model.config
        images = [pattern(config.num_channels, config.image_size, k) for k in range(len(SENTENCES))]
        return [prompt.template.row(image) for image in images]  # type: ignore[attr-defined]
    words = isinstance(prompt.head, Tagger)
    fields = prompt.template.fields
    examples = [Example({name: tuple(text.split()) if words else text for name in fields}) for text in SENTENCES]
    answer = [prompt.template.filler] if prompt.head.reads == "logits" else None
    template = copy(prompt.template)
    if template.cut == "error":  # that refuses a user's long texts, not ours
        template.cut = "tail"
    return [template.encode(example, answer, close=False) for example in examples]


def pattern(channels: int, size: int, number: int) -> Tensor:
    """A smooth image [channels, size, size] that is the same everywhere."""
    place = torch.arange(size, dtype=torch.float32) / size
    waves = [
        torch.sin((number + 1) * 6.28 * place[:, None] + c) * torch.cos((c + 2) * 6.28 * place) for c in range(channels)
    ]
    return torch.stack(waves)


@torch.inference_mode()
def outputs(prompt: Prompt) -> Tensor:
    """Log-probabilities [canaries, C] of classes, first-word tags or next tokens; for regression the number [.., 1]."""
    was_training = prompt.training
    prompt.eval()
    found = [single(prompt, row) for row in rows(prompt)]
    prompt.train(was_training)
    return torch.stack(found)


def single(prompt: Prompt, row: Row) -> Tensor:
    """The outputs [C] of one canary, alone in its batch."""
    batch = prompt.batch([row])
    output = prompt(batch)
    head: Any = prompt.head
    if head.reads == "logits":
        return output.logits[0, 0].float().log_softmax(-1).cpu()  # type: ignore[no-any-return]
    if isinstance(head, Tagger):
        first = next((place for place in row.words if place >= 0), 0)
        return head.scores(output, batch)[0, first].cpu()
    return (head.standard(output, batch) if isinstance(head, Regressor) else head.scores(output, batch)[0]).cpu()


def record(prompt: Prompt) -> list[Canary]:
    """The canaries of a prompt, for its card."""
    found = []
    for text, values in zip(SENTENCES, outputs(prompt), strict=True):
        best = values.topk(min(KEPT, len(values)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found.append(Canary(input=text, outputs={i: round(v, 6) for i, v in pairs}))
    return found


def compare(prompt: Prompt, recorded: list[Canary]) -> Findings:
    """How far a prompt is from what was recorded, and how much it does at all; NaN where an output is NaN."""
    now, bare = outputs(prompt), outputs(without_prompt(prompt))
    gaps = [
        (now[k, i] - value).abs().item() if 0 <= i < now.shape[1] else math.inf
        for k, canary in enumerate(recorded)
        for i, value in canary.outputs.items()
    ]
    tolerance = TOLERANCE.get(prompt.backbone.dtype, COARSE)
    return Findings(torch.tensor(gaps).max().item(), (now - bare).abs().max().item(), tolerance)


def check(prompt: Prompt, recorded: list[Canary], where: str) -> None:
    """Raise `ArtifactError` where the prompt does nothing here, or something else than when it was made."""
    if tuple(canary.input for canary in recorded) != SENTENCES or not all(canary.outputs for canary in recorded):
        expected = f"the {len(SENTENCES)} of this version, with their outputs"
        raise ArtifactError("SP-E310", "a card with other canaries", expected, "update softprompt", where=where)
    found = compare(prompt, recorded)
    if found.effect < 1e-6:
        raise ArtifactError(
            "SP-E321",
            f"a prompt that changes nothing ({len(recorded)} canaries equal the bare model)",
            "other answers with the prompt than without",
            "check that the method supports this backbone, or train again",
            where=where,
        )
    if not found.gap <= found.tolerance:
        raise ArtifactError(
            "SP-E322",
            f"canaries off by {found.gap:.3g} in log-probability",
            f"at most {found.tolerance:g}: the outputs recorded when the prompt was made",
            "use the backbone, tokenizer and versions of its card (`softprompt show`)",
            where=where,
        )
