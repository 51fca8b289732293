"""Prompts that are text, searched by gradient and by edits: `search` finds one, scores it, and keeps it as a prompt.

A text prompt is what a soft prompt begins as (`init.text`): so it is kept as an ordinary artifact, every command takes
it, and the recipe beside it trains a soft prompt that starts from it.
"""

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import torch

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.choices import spoken
from softprompt.errors import RecipeError, TrainingError, near
from softprompt.files import write_atomically
from softprompt.pieces import parse
from softprompt.plan import Plan, make_plan
from softprompt.recipe import Recipe, make_recipe
from softprompt.run import Listener
from softprompt.search.candidates import Candidates, Ids
from softprompt.search.finish import Found, finish
from softprompt.search.loop import Search, Settings, seek
from softprompt.search.operator import Operator
from softprompt.search.score import Ledger, Scorer, check_head
from softprompt.search.words import label_words
from softprompt.sections import InitSection, MethodSection
from softprompt.training import open_backbone, set_threads
from softprompt.untrained import build

STRATEGIES = ("autoprompt", "gcg", "grips", "pez", "random", "rlprompt")
BUDGET = 20_000  # passes over one text
LENGTH = 5  # tokens of a prompt, as RLPrompt's (arXiv:2205.12548)
NAMED = 6  # classes that an instruction names


def search(
    recipe: Recipe,
    folder: str | Path,
    *,
    strategy: str,
    budget: int = BUDGET,
    length: int = LENGTH,
    start: str | None = None,
    find_words: bool = False,
    compare: bool = True,
    backbone: Backbone | None = None,
    listen: Listener = lambda event: None,
    **settings: int,
) -> Found:
    """Search a text prompt of `length` tokens for the task of a recipe, with at most `budget` passes over a text.

    `start` is a text or the file of a plain soft prompt, which is projected to its nearest tokens; `find_words` lets
    label words be searched first (AutoPrompt), paid from the budget; `compare` runs random search at equal cost.
    `settings` are `seed`, `count` (candidates a step), `examples` and `dev` (on which they are scored). A search that
    was stopped goes on when it is called again. Raises `RecipeError` for tasks, strategies and starts that do not fit,
    `TrainingError` where the folder holds something else.
    """
    kind, place = strategy_of(strategy), Path(folder)
    backbone = backbone or open_backbone(recipe)
    set_threads(recipe)
    plan = make_plan(adapted(recipe, length), backbone)
    plan = replace(plan, recipe=spaced(plan.recipe, recipe.task.template == "auto"))
    begun = start or recipe.init.text
    facts = {"strategy": strategy, "budget": budget, "start": begun, "find_words": find_words, "compare": compare}
    facts["settings"] = settings
    claim(place, facts, plan, backbone)
    prompt = build(plan, backbone).eval()
    check_head(prompt)
    candidates, paid = Candidates(prompt), 0
    if find_words:
        found = label_words(candidates, plan.train)
        listen({"event": "note", "text": "label words: " + ", ".join(f"{k}: {v}" for k, v in found.items())})
        task = plan.recipe.task.model_copy(update={"words": found})
        plan, paid = replace(plan, recipe=plan.recipe.model_copy(update={"task": task})), len(plan.train)
        candidates = Candidates(build(plan, backbone).eval())
    at = first(begun, candidates, plan, kind, backbone, settings.get("seed", 0))
    made = Settings(strategy, budget, at, **{"count": kind.count} | settings)
    listen({"event": "plan", "plan": plan, "prompt": prompt})
    best = seek(kind, Scorer(candidates, Ledger(budget, paid)), plan, made, place, listen)
    others: dict[str, Search] = {}
    if compare and strategy != "random":
        listen({"event": "note", "text": f"now random search, with {budget:,} passes too"})
        rival = strategy_of("random")
        others["random search"] = seek(
            rival,
            Scorer(candidates, Ledger(budget, paid)),
            plan,
            replace(made, strategy="random", count=rival.count),
            place / "random",
            listen,
        )
    result = finish(best, others, candidates, plan, place, listen)
    listen({"event": "done", "report": result.report, "path": result.artifact})
    return result


def resume(folder: str | Path, *, backbone: Backbone | None = None, listen: Listener = lambda event: None) -> Found:
    """Go on with a search that stopped; raises `TrainingError` where the folder holds none."""
    path = Path(folder) / "search.json"
    if not path.exists():
        do = "check the path"
        raise TrainingError("SP-E511", f"no search in {folder}", "a folder made by `softprompt search`", do)
    facts = json.loads(path.read_text(encoding="utf-8"))
    recipe = make_recipe(facts["recipe"], where=str(path))
    given = {name: facts[name] for name in ("strategy", "budget", "start", "find_words", "compare")}
    length = recipe.method.length
    return search(recipe, folder, length=length, backbone=backbone, listen=listen, **given, **facts["settings"])


def strategy_of(name: str) -> type[Operator]:
    """The operator of a strategy; raises `RecipeError` for one that does not exist."""
    if name not in STRATEGIES:
        found = f"strategy {name!r}{near(name, list(STRATEGIES))}"
        raise RecipeError("SP-E635", found, f"one of {', '.join(STRATEGIES)}", "choose one with --strategy")
    module = import_module(f"{__name__}.{name}")
    kinds = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Operator) and v is not Operator]
    kind: type[Operator] = kinds[0]
    return kind


def adapted(recipe: Recipe, length: int) -> Recipe:
    """The recipe of the task, for a plain prompt of `length` tokens whose slots are where the text will stand."""
    counts = [piece.count for piece in parse(recipe.task.template, length) if piece.kind == "soft"]
    if recipe.task.template != "auto" and len(counts) != 1:
        found, do = f"{len(counts)} places for the prompt in {recipe.task.template!r}", "write {soft} once"
        raise RecipeError("SP-E636", found, "one place", do)
    update = {
        "method": MethodSection(length=counts[0] if counts else length),
        "init": InitSection(kind="vocabulary"),
        "task": recipe.task.model_copy(update={"template": re.sub(r"\{soft:\d+\}", "{soft}", recipe.task.template)}),
    }
    return recipe.model_copy(update=update)


def spaced(recipe: Recipe, chosen: bool) -> Recipe:
    """The recipe with a space behind the prompt, in a template that was chosen for it: a word must not run on."""
    if not chosen:
        return recipe
    text = recipe.task.template.replace("{soft}", "{soft} ", 1)
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"template": text})})


def claim(place: Path, facts: dict[str, Any], plan: Plan, backbone: Backbone) -> None:
    """Write down what is searched here; raises `TrainingError` where something else is."""
    threads = {"threads": torch.get_num_threads()}
    whole = facts | {"recipe": plan.recipe.rooted().model_dump(mode="json"), "data": plan.sha256}
    whole |= {"backbone": backbone.fingerprint}
    path = place / "search.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        torch.set_num_threads(before.pop("threads"))  # sums over other blocks give other last bits
        if before != json.loads(json.dumps(whole)):
            do = "use another folder, with --run"
            raise TrainingError("SP-E514", "another search", "an empty folder, or this search", do, where=str(place))
        return
    if (place / "recipe.yaml").exists() or (place / "sweep.json").exists():
        raise TrainingError("SP-E510", f"a run in {place}", "a new folder", "use another folder, with --run")
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(whole | threads, indent=1).encode())


def first(
    begun: str | None, candidates: Candidates, plan: Plan, kind: type[Operator], backbone: Backbone, seed: int
) -> Ids:
    """The ids that a search begins at."""
    if begun and begun.endswith(".safetensors"):
        return projected(Artifact.load(begun), candidates, backbone)
    if begun:
        return candidates.read(begun)
    if kind.instruction:
        return candidates.read(instruction(plan))
    rng, length = Random(seed), plan.recipe.method.length
    for _ in range(1000):
        ids = tuple(rng.choice(candidates.allowed) for _ in range(length))
        if candidates.survivors([ids], plan.train[:16] + plan.dev):
            return ids
    raise RecipeError("SP-E633", "no start that survives decode and encode", "one", "give a text with --start")


def instruction(plan: Plan) -> str:
    """A plain question to edit, where none is given."""
    names = [plan.recipe.task.words.get(label, spoken(label)) for label in plan.labels[:NAMED]]
    return f"Which of these is it : {' , '.join(names)} ?" if names else "Read this and answer :"


def projected(artifact: Artifact, candidates: Candidates, backbone: Backbone) -> Ids:
    """The tokens nearest to the vectors of a plain soft prompt, as its explanation in words, or a start.

    Where they do not survive decode and encode, what is read back stands for them. Raises `RecipeError` for prompts
    that are more than vectors.
    """
    artifact.check_backbone(backbone)
    tensors = artifact.method_tensors()
    if tensors.keys() != {"prompt"}:
        found, do = f"{', '.join(sorted(tensors))} in {artifact.where}", "project a run of prompt_tuning"
        raise RecipeError("SP-E231", found, "a prompt of plain vectors", do)
    rows = torch.arange(backbone.model.get_input_embeddings().weight.shape[0], device=backbone.device)
    ids = candidates.nearest(tensors["prompt"], backbone.tokens(rows[None])[0])
    return candidates.read(candidates.text(ids))


__all__ = ["STRATEGIES", "Candidates", "Found", "Ledger", "Scorer", "Settings", "projected", "resume", "search"]
