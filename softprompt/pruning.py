"""Which vectors of a trained prompt, and which pieces of them, are worth keeping: the search of XPrompt.

Ma et al. 2022, arXiv:2210.04457, section 4: (i) train a prompt; (ii) score every vector, then every piece of the
vectors that are left, by E_x |dL(x)/d mask|, and remove the lowest; (iii) put the rest back to where (i) left it and
train again. The share to remove is chosen on dev, first of vectors, then of pieces.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Example, Injection
from softprompt.errors import RecipeError
from softprompt.files import write_atomically
from softprompt.pieces import PIECE, parse
from softprompt.plan import Plan
from softprompt.prompt import Prompt, by_length
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import InitSection, MethodSection
from softprompt.stages import Left, conclude, left, stage
from softprompt.training import Result, reopen

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # the paper's
PIECES = 16  # the paper's


@dataclass(frozen=True)
class Candidate:
    """One mask that was tried."""

    level: str  # "whole" (the run itself), "tokens" or "pieces"
    ratio: float  # share of the vectors, or of the pieces of those that were left, that was removed
    mask: Tensor  # [P, pieces] bool, True where a piece is kept
    left: Left

    @property
    def vectors(self) -> int:
        """Vectors of which anything is left."""
        return int(self.mask.any(1).sum())

    def as_dict(self) -> dict[str, Any]:
        """The candidate as plain values, with its score on dev."""
        share = self.mask.float().mean().item()
        facts = {"level": self.level, "ratio": self.ratio, "vectors": self.vectors, "kept": round(share, 6)}
        return facts | {"dev": self.left.dev, "folder": self.left.folder.name}


@dataclass(frozen=True)
class Pruned(Result):
    """The prompt that was best on dev, with its test scores, and everything that was tried."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate


def prune(
    run: str | Path,
    *,
    ratios: Sequence[float] = RATIOS,
    pieces: int = PIECES,
    folder: str | Path | None = None,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Pruned:
    """Prune the prompt of a finished run and train what is left again, at every ratio; keep what is best on dev.

    The stages, the prompt and report.json go to `folder` (`RUN/pruned` if not given). A call that was stopped is
    repeated: what is done is read, and the stage at hand goes on. The run itself is a candidate, so that nothing is
    pruned where that would be worse. With `pieces=1` only whole vectors are pruned. Raises `TrainingError` for a run
    that has not ended, and `RecipeError` for a prompt that is not plain vectors and for ratios outside 0 to 1.
    """
    whole = left(run)
    plan, backbone = reopen(run, backbone)
    place = Path(folder or Path(run) / "pruned")
    search = Search(plan, Artifact.load(whole.artifact), backbone, place, pieces, listen)
    search.check(ratios)
    everything = torch.ones(len(search.vectors), pieces, dtype=torch.bool)
    found = [Candidate("whole", 0.0, everything, whole)]
    for level in ("tokens", "pieces") if pieces > 1 else ("tokens",):
        found += search.tried(level, best(found).mask, ratios)
    chosen = best(found)
    result = conclude(chosen.left, place, backbone=backbone, listen=listen)
    tried = [candidate.as_dict() | {"chosen": candidate is chosen} for candidate in found]
    report = result.report.as_dict() | {"candidates": tried}
    write_atomically(place / "report.json", json.dumps(report, indent=1).encode())
    return Pruned(result.prompt, result.artifact, result.report, tuple(found), chosen)


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that is best on dev; of equals the one that keeps least."""
    return max(candidates, key=lambda found: (tuple(found.left.best["key"]), -int(found.mask.sum())))


@dataclass(frozen=True)
class Search:
    """A trained prompt and where its candidates go."""

    plan: Plan
    artifact: Artifact
    backbone: Backbone
    folder: Path
    pieces: int
    listen: Listener

    @property
    def vectors(self) -> Tensor:
        """The trained vectors [P, H]."""
        return self.artifact.tensors["method.prompt"]

    def check(self, ratios: Sequence[float]) -> None:
        """Raise `RecipeError` for what cannot be pruned, and for ratios or pieces that make no sense."""
        stored = sorted(self.artifact.method_tensors())
        if stored != ["prompt"]:
            found, do = f"{', '.join(stored)} in {self.artifact.where}", "prune a run of prompt_tuning"
            raise RecipeError("SP-E231", found, "a prompt of plain vectors", do)
        if not ratios or not all(0 < ratio < 1 for ratio in ratios):
            raise RecipeError("SP-E204", f"ratios {list(ratios)}", "numbers between 0 and 1", "change the ratios")
        hidden = self.vectors.shape[1]
        if self.pieces < 1 or hidden % self.pieces:
            found, expected = f"pieces = {self.pieces}", f"a number that divides {hidden}"
            raise RecipeError("SP-E204", found, expected, "change the pieces")

    def tried(self, level: str, mask: Tensor, ratios: Sequence[float]) -> list[Candidate]:
        """What a level leaves of `mask` [P, pieces] at every ratio, trained again; equal masks are trained once."""
        size = 2 * self.plan.recipe.train.batch_size
        units = self.pieces if level == "pieces" else 1
        scores = importance(self.rewound(mask), self.plan.train, units, size)
        found: list[Candidate] = []
        for ratio in ratios:
            made = narrowed(mask, strongest(scores, ratio))
            if any(made.equal(other) for other in [mask, *(candidate.mask for candidate in found)]):
                continue
            candidate = Candidate(level, ratio, made, self.retrained(made))
            found.append(candidate)
            text = (
                f"{level} pruned by {ratio:g}: {candidate.vectors} vectors, {int(made.sum())} of {made.numel()} pieces"
            )
            dev = ", ".join(f"{name} {value:.4f}" for name, value in candidate.left.dev.items())
            self.listen({"event": "note", "text": f"{text}; dev {dev}"})
        return found

    def rewound(self, mask: Tensor) -> Prompt:
        """What is left of the trained prompt under a mask [P, pieces]: its values, and slots for it alone."""
        rows = mask.any(1)  # a vector without a piece is not there: zeros would still be attended to
        card = self.artifact.card
        template = card.template.model_copy(update={"text": shorter(card.template.text, rows.tolist())})
        method = card.method.model_copy(update={"length": int(rows.sum())})
        tensors = self.artifact.tensors | {"method.prompt": masked(self.vectors, mask)[rows]}
        made = Artifact(tensors, card.model_copy(update={"template": template, "method": method}))
        with torch.random.fork_rng(devices=[]):  # weights begin at random before they are loaded
            prompt = made.assemble(self.backbone)
        prompt.load_state_dict(tensors)
        return prompt.eval()

    def retrained(self, mask: Tensor) -> Left:
        """The stage that starts from the rewound prompt and trains it as the run was trained."""
        prompt = self.rewound(mask)
        kept = mask[mask.any(1)]
        whole = kept.all()  # then the number of vectors says everything
        place = self.folder / (f"tokens-{len(kept)}" if whole else f"tokens-{len(kept)}-pieces-{int(kept.sum())}")
        start = place / "start.safetensors"
        place.mkdir(parents=True, exist_ok=True)
        recipe = self.plan.recipe
        Artifact.of(prompt, recipe.shared(), {}, (Path(self.artifact.where).name,)).save(start)
        words = "" if whole else " ".join("".join(str(int(digit)) for digit in row) for row in kept)
        changed = changes(recipe, prompt.template.text, len(kept), {"pieces": self.pieces, "keep": words}, start)
        return stage(changed, place, backbone=self.backbone, listen=self.listen)


def changes(recipe: Recipe, template: str, length: int, options: dict[str, Any], start: Path) -> Recipe:
    """The recipe of a run, for what is left of its prompt: all else stays, rate and seed included."""
    return recipe.model_copy(
        update={
            "task": recipe.task.model_copy(update={"template": template}),
            "method": MethodSection(name="xprompt", length=length, options=options),
            "init": InitSection(kind="prompt", source=str(start)),
        }
    )


def importance(prompt: Prompt, examples: Sequence[Example], pieces: int, batch_size: int = 32) -> Tensor:
    """How much the loss depends on every piece [P, pieces] of a plain prompt: the mean over examples of |dL(x)/d mask|.

    No mask is needed: dL/d mask_i at 1 is the inner product of dL/dp_i and p_i. The absolute value is taken for each
    example before the mean, because gradients of different sign cancel in that of a batch; every row gets vectors of
    its own, so that one backward pass yields the gradients of all rows apart.
    """
    prompt.eval()
    vectors = prompt.state_dict()["method.prompt"]  # [P, H]
    total = torch.zeros(len(vectors), pieces, dtype=torch.float64)
    rows = [prompt.row(example) for example in examples]
    for chosen in by_length(rows, batch_size):
        batch = prompt.batch([rows[i] for i in chosen])
        own = vectors.expand(len(batch), -1, -1).clone().requires_grad_()  # [B, P, H]
        loss = prompt.head.loss(prompt.answer(batch, Injection(embeds=own)), batch)
        (slope,) = torch.autograd.grad(loss, own)
        product = (slope * own.detach()).unflatten(2, (pieces, -1)).sum(-1)  # [B, P, pieces]
        total += product.abs().double().sum(0).cpu()
    return total / len(rows)


def strongest(scores: Tensor, ratio: float) -> Tensor:
    """Which units to keep, in the shape of `scores`: all but that share of the lowest, and always one."""
    flat = scores.flatten()
    count = min(round(ratio * len(flat)), len(flat) - 1)
    keep = torch.ones_like(flat, dtype=torch.bool)
    keep[flat.argsort(descending=True, stable=True)[len(flat) - count :]] = False
    return keep.view_as(scores)


def narrowed(mask: Tensor, keep: Tensor) -> Tensor:
    """The mask [P, pieces] without what `keep` [vectors left, pieces or 1] leaves out of it."""
    made = mask.clone()
    made[mask.any(1)] &= keep
    return made


def masked(vectors: Tensor, mask: Tensor) -> Tensor:
    """Vectors [P, H] with zeros in the pieces that a mask [P, pieces] leaves out."""
    return vectors * mask.repeat_interleave(vectors.shape[1] // mask.shape[1], 1)


def shorter(template: str, keep: Sequence[bool]) -> str:
    """A template with slots for the vectors that are kept, each where it stood."""
    rest = list(keep)
    parts: list[str] = []
    end = 0
    for match in PIECE.finditer(template):
        parts.append(template[end : match.start()])
        end = match.end()
        count = slots_of(match.group(0), len(keep))
        kept, rest = sum(rest[:count]), rest[count:]
        parts.append((f"{{soft:{kept}}}" if kept else "") if count else match.group(0))
    return "".join([*parts, template[end:]])


def slots_of(marker: str, length: int) -> int:
    """How many slots a marker such as `{soft:3}` stands for; 0 for anything else."""
    return 0 if marker in ("{{", "}}") else sum(piece.count for piece in parse(marker, length))


__all__ = ["Candidate", "Pruned", "Search", "importance", "prune"]
