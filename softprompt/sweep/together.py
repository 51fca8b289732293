"""Batches of several prompts in one forward: every row gets what its own prompt adds, and no prompt sees another.

No trained number is shared, so the gradient of a sum of losses is each prompt's own gradient. Packed rows of a causal
model stand one after the other in one row, each with its own front and prefix (`Backbone.together`); other batches are
padded to one batch (`softprompt.mixed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from softprompt.core import Batch, Injection, Output
from softprompt.heads import columns
from softprompt.mixed import Layout, mix
from softprompt.prompt import Prompt


@dataclass(frozen=True)
class Part:
    """A batch of one prompt, and what its method adds to it."""

    prompt: Prompt
    batch: Batch
    injection: Injection

    @property
    def packs(self) -> bool:
        """Whether the batch runs as one row."""
        return self.batch.packing is not None and not self.prompt.backbone.unpackable(self.batch, self.injection)

    @property
    def layer(self) -> int:
        """The layer that a packed row begins at: above 0 with states to start from."""
        below = None if self.batch.packing is None else self.batch.packing.below
        return 0 if below is None else below.layer

    def beside(self, other: "Part") -> bool:
        """Whether both can run in one forward: heads that read the same, and injections that a row can be kept from."""
        if self.prompt.head.reads != other.prompt.head.reads or self.packs != other.packs:
            return False
        if self.injection.lesson is not None or other.injection.lesson is not None:
            return False  # what is predicted beside the answers stands at other places of a joined batch
        if self.packs:
            return self.layer == other.layer
        return Layout.of((self.batch, self.injection)).fits(Layout.of((other.batch, other.injection)))


def passes(parts: Sequence[Part]) -> list[list[int]]:
    """Which parts run in one forward, as indices into `parts`: each joins the first ones that it fits."""
    groups: list[list[int]] = []
    for i, part in enumerate(parts):
        fitting = (group for group in groups if all(part.beside(parts[j]) for j in group))
        group = next(fitting, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def losses(parts: Sequence[Part]) -> list[torch.Tensor]:
    """The summed loss [] of every part, of one forward; they all fit (`Part.beside`)."""
    found = outcomes(parts)
    return [p.prompt.weigh(p.batch, p.injection, *outcome) for p, outcome in zip(parts, found, strict=True)]


def outcomes(parts: Sequence[Part]) -> list[tuple[Output, Batch]]:
    """What each head reads, and the batch as it has to see it then: `Prompt.outcome` of every part."""
    backbone, logits = parts[0].prompt.backbone, parts[0].prompt.head.reads == "logits"
    batches, injections = [part.batch for part in parts], [part.injection for part in parts]
    if parts[0].packs:
        labels = [batch.packing.labels if batch.packing and logits else batch.labels for batch in batches]
        seen = [replace(batch, labels=own) for batch, own in zip(batches, labels, strict=True)]
        return list(zip(backbone.together(batches, injections, logits=logits), seen, strict=True))
    if len(parts) == 1:
        return [(parts[0].prompt.answer(batches[0], injections[0]), batches[0])]
    joint, injection = mix(list(zip(batches, injections, strict=True)))
    output: Output = backbone(joint, injection, columns=columns(joint) if logits else None)
    return list(zip(divided(output, batches), batches, strict=True))


def divided(output: Output, batches: Sequence[Batch]) -> list[Output]:
    """The output of joined batches, batch by batch: its rows, its places, its columns of the logits."""
    rows = [len(batch) for batch in batches]
    if output.logits is None:
        assert output.hidden is not None
        hidden = zip(torch.split(output.hidden, rows), batches, strict=True)
        return [Output(hidden=own if b.pixels is not None else own[:, : b.input_ids.shape[1]]) for own, b in hidden]
    assert output.columns is not None
    made = []
    for logits, batch in zip(torch.split(output.logits, rows), batches, strict=True):
        own = columns(batch)
        made.append(Output(logits=logits[:, torch.searchsorted(output.columns, own)], columns=own))
    return made
