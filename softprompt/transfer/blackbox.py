"""A prompt for a backbone that only answers: CMA-ES over a few dozen numbers, a whole population in one pass.

Xu et al. 2023 (CTPT), arXiv:2310.14614, reconstructed (`methods.ctpt`); the search is that of black-box tuning (Sun et
al. 2022, arXiv:2201.03514): a population of prompts, their losses on the few examples that there are, and an evolution
strategy (Hansen 2016, arXiv:1604.00772; package `cma`) that proposes the next ones. All examples are asked every time,
else it would be the luck of a batch that is optimised. No gradient is computed.
"""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Batch, Injection
from softprompt.engine import choose
from softprompt.errors import RecipeError, SoftpromptError, TrainingError
from softprompt.evaluate import dev_score
from softprompt.files import write_atomically
from softprompt.plan import Plan, make_plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.sections import MethodSection
from softprompt.sweep.together import Part, losses, passes
from softprompt.training import computed, open_backbone, set_threads
from softprompt.transfer.controls import Measured, measured
from softprompt.transfer.rounds import Tensors, claim, go
from softprompt.transfer.sources import Source, adopt, cautions, copied, distinct
from softprompt.untrained import build


@dataclass(frozen=True)
class Found:
    """The best prompt on dev, what it is worth beside its controls, and how often the backbone was asked."""

    path: Path
    measured: Measured  # one control is the same search without sources
    asked: int  # rows that went through the backbone while searching, for the control as well

    @property
    def sentence(self) -> str:
        """What came of it, in one sentence."""
        if self.measured.helps:
            return "the found prompt helps: it is ahead of every control, beyond the ±"
        return "no gain: the found prompt is not ahead of every control beyond the ±"

    def as_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "prompt": str(self.path),
            "rows_asked": self.asked,
            "helps": self.measured.helps,
            "answer": self.sentence,
        } | self.measured.as_dict()


def evolve(
    recipe: Recipe,
    sources: Sequence[Source],
    folder: str | Path,
    *,
    generations: int = 100,
    population: int = 20,
    spread: float = 0.3,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
) -> Found:
    """Search a prompt that attends to `sources`; the best mean of a population on dev goes to `folder`.

    Beside it, in `folder/alone`, the same search on the same budget goes without sources: what they are worth.
    `spread` is the first step size, in units of z. A stopped one goes on. Raises `SoftpromptError` SP-E711 for a head
    that has to be trained, SP-E718 without the package `cma`, `RecipeError` SP-E719 for a step that is
    none, and what a recipe with `init.sources` raises.
    """
    if not (math.isfinite(spread) and spread > 0):
        raise RecipeError(
            "SP-E719", f"a first step of {spread}", "a finite size above 0", "leave --spread out, for 0.3"
        )
    place = Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    distinct(sources)
    plan = make_plan(crossed(adopt(recipe, sources, backbone), sources, place), backbone)
    for text in cautions(plan, sources):
        listen({"event": "note", "text": text})
    settings = {"generations": generations, "population": population, "spread": spread}
    prompt = build(plan, backbone).eval()
    before = measured(prompt, plan, {})  # so that a head that must be trained is refused before hours go by
    claim(place, {"target": plan}, backbone, settings)
    control = build(without(plan), backbone).eval()
    for one, where in ((prompt, place), (control, place / "alone")):
        if one is control:
            listen({"event": "note", "text": "now the control: the same search without sources"})
        work = Search(one, plan, generations, population, spread)
        go(work, where, generations, plan.recipe.train.save_seconds, listen)
        work.put(work.best)
    found = measured(prompt, plan, {"search without sources": control})
    path = place / "prompt.safetensors"
    facts = {"metric": plan.recipe.task.metric, "blackbox": settings | {"dev_loss_before": before.loss}}
    parents = tuple(Path(name).name for name in plan.recipe.init.sources)
    Artifact.of(prompt, plan.recipe.shared(), facts, parents).save(path)
    made = Found(path, found, 2 * generations * population * len(plan.train))
    write_atomically(place / "blackbox.json", json.dumps(made.as_dict(), indent=1).encode())
    return made


def crossed(recipe: Recipe, sources: Sequence[Source], place: Path) -> Recipe:
    """The recipe with this method over copies of the sources."""
    own = recipe.method
    paths = tuple(str(copied(source, place / "sources")) for source in sources)
    init = recipe.init.model_copy(update={"sources": paths})
    method = MethodSection(name="ctpt", length=own.length, options=own.options)
    return recipe.model_copy(update={"method": method, "init": init})


def without(plan: Plan) -> Plan:
    """The plan of the control: the same search, and no prompts to attend to."""
    init = plan.recipe.init.model_copy(update={"sources": ()})
    return replace(plan, recipe=plan.recipe.model_copy(update={"init": init}))


class Search:
    """An evolution strategy over z, and the state on dev that was best.

    What was proposed follows from the seed and from the losses so far; so the losses are its state, and it is put back
    by telling them again, which asks the backbone nothing.
    """

    def __init__(self, prompt: Prompt, plan: Plan, generations: int, population: int, spread: float) -> None:
        self.prompt, self.plan = prompt, plan
        self.method: Any = prompt.method
        self.z = dict(prompt.method.named_parameters())["z"]
        self.generations, self.population, self.spread = generations, population, spread
        self.told: list[Tensor] = []  # losses [population] of every generation
        self.best, self.key = self.z.detach().cpu().clone(), torch.full((2,), -torch.inf, dtype=torch.float64)
        self.strategy = self.begin()
        rows = [prompt.row(example) for example in plan.train]
        size = plan.recipe.train.batch_size
        choose(
            prompt, rows[:size], plan.recipe.train.engine, lambda event: None
        )  # one row of many, where that is exact
        self.batches = [prompt.batch(rows[at : at + size]) for at in range(0, len(rows), size)]

    def begin(self) -> Any:
        """A new strategy, with random numbers of its own."""
        try:
            with warnings.catch_warnings():  # it warns where matplotlib is absent
                warnings.simplefilter("ignore")
                import cma
        except ImportError as error:
            do = "pip install 'softprompt[blackbox]'"
            raise SoftpromptError("SP-E718", "no package cma", "one that searches without gradients", do) from error
        rng = np.random.default_rng(self.plan.recipe.train.seed)
        options = {
            "popsize": self.population,
            "verbose": -9,
            "seed": np.nan,
            "randn": lambda *shape: rng.standard_normal(shape),
        }
        return cma.CMAEvolutionStrategy(np.zeros(self.z.numel()), self.spread, options)

    def tensors(self) -> Tensors:
        """All losses, and the best state on dev."""
        return {"told": torch.stack(self.told), "best": self.best, "key": self.key}

    def restore(self, tensors: Tensors) -> None:
        """Tell a new strategy what the last one was told."""
        self.strategy = self.begin()
        self.told = list(tensors["told"])
        self.best, self.key = tensors["best"], tensors["key"]
        for values in self.told:
            self.strategy.tell(self.strategy.ask(), values.tolist())

    def round(self, number: int) -> dict[str, Any]:
        """One generation; now and then the mean is scored on dev."""
        proposed = self.strategy.ask()
        values, tokens = self.score([torch.tensor(z, dtype=torch.float32) for z in proposed])
        if not bool(values.isfinite().all()):
            found, do = f"losses {values.tolist()[:4]} in generation {number + 1}", "a smaller --spread, or float32"
            raise TrainingError("SP-E520", found, "finite numbers", do)
        self.strategy.tell(proposed, values.tolist())
        self.told.append(values)
        if (number + 1) % max(1, self.generations // 10) == 0 or number + 1 == self.generations:
            self.judge(torch.tensor(self.strategy.result.xfavorite, dtype=torch.float32))
        return {"loss": float(values.mean()), "prompts": len(proposed), "tokens": tokens}

    def judge(self, mean: Tensor) -> None:
        """Keep a state if it is the best on dev so far."""
        self.put(mean)
        key = torch.tensor([*dev_score(self.prompt, self.plan)["key"], 0.0][:2], dtype=torch.float64)
        if tuple(key.tolist()) > tuple(self.key.tolist()):
            self.best, self.key = mean, key

    @torch.no_grad()
    def put(self, z: Tensor) -> None:
        """Let the prompt be that of a z."""
        self.z.copy_(z)

    @torch.no_grad()
    def score(self, proposed: Sequence[Tensor]) -> tuple[Tensor, int]:
        """The mean loss [population], float64, of every z on all examples, and the tokens that it took."""
        given: list[Injection] = []
        for z in proposed:
            self.put(z)
            given.append(Injection(embeds=self.method.product()[None]))
        total = torch.zeros(len(given), dtype=torch.float64)
        count = sum(self.prompt.head.count(batch) for batch in self.batches)
        for batch in self.batches:
            total += self.together(batch, given)
        return total / max(1, count), len(given) * sum(computed(batch) for batch in self.batches)

    def together(self, batch: Batch, given: Sequence[Injection]) -> Tensor:
        """The summed loss [population] of one batch, of all prompts in as few forwards as they fit."""
        parts = [Part(self.prompt, batch, injection) for injection in given]
        found = torch.zeros(len(parts), dtype=torch.float64)
        for group in passes(parts):
            found[group] = torch.stack(losses([parts[i] for i in group])).double().cpu()
        return found


__all__ = ["Found", "Search", "evolve"]
