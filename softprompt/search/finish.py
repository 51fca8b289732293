"""What a search leaves: the prompt as text and as an artifact, and its test scores beside what it has to beat."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softprompt import baselines
from softprompt.artifact import Artifact
from softprompt.evaluate import references, score, scores
from softprompt.files import write_atomically
from softprompt.metrics import Score, find_metric
from softprompt.metrics.compare import Difference, paired
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import Recipe
from softprompt.run import Listener
from softprompt.search.candidates import Candidates, Ids
from softprompt.search.loop import Search
from softprompt.sections import InitSection, MethodSection
from softprompt.untrained import build

LEVEL = 0.05  # the p below which a difference counts as one


@dataclass(frozen=True)
class Found:
    """The best prompt of a search: its text, its ids, the backbone asked with it, and the report."""

    text: str
    ids: Ids
    prompt: Prompt
    report: dict[str, Any]
    folder: Path
    artifact: Path | None  # None where vectors cannot stand for the text with this tokenizer


def finish(
    search: Search, others: dict[str, Search], candidates: Candidates, plan: Plan, folder: Path, listen: Listener
) -> Found:
    """Score the best prompt on test beside its start, no prompt, and what `others` found at equal cost; write it."""
    prompts = {"the start": search.history[0]["ids"], "no prompt": ()} | {n: one.best for n, one in others.items()}
    mine, answers = tested(candidates, search.best, plan)
    beside: dict[str, Score] = {}
    compared: dict[str, dict[str, float]] = {}
    for name, ids in prompts.items():
        beside[name], theirs = tested(candidates, tuple(ids), plan)
        compared[name] = differing(plan, answers, theirs)._asdict()
        listen({"event": "baseline", "name": name, "score": beside[name]})
    metric = plan.recipe.task.metric
    if plan.kind == "classification":
        beside["majority"] = score(plan.kind, metric, baselines.majority(plan, plan.test), plan.test)
        compared["majority"] = differing(plan, answers, baselines.majority(plan, plan.test))._asdict()
    report = {
        "metric": metric,
        "scores": [one.as_dict() for one in mine_first(candidates, search.best, plan, mine)],
        "baselines": {name: one.as_dict() for name, one in beside.items()},
        "compared": compared,
        "verdict": verdict(compared),
        "text": candidates.text(search.best),
        "ids": list(search.best),
        "start": candidates.text(tuple(search.history[0]["ids"])),
        "texts": {name: candidates.text(one.best) for name, one in others.items()},
        "steps": search.step,
        "passes": vars(search.ledger),
        "passes_of_others": {name: vars(one.ledger) for name, one in others.items()},
        "dev": search.history,
    }
    artifact = write(search.best, candidates, plan, folder, report, listen)
    prompt = candidates.worded(search.best)
    return Found(candidates.text(search.best), search.best, prompt, report, folder, artifact)


def mine_first(candidates: Candidates, ids: Ids, plan: Plan, first: Score) -> list[Score]:
    """Every metric of the task for a prompt, the deciding one first."""
    predictions = candidates.worded(ids).predict(plan.test)
    return [first, *scores(candidates.worded(ids), plan.test, plan.recipe.task.metric, predictions)[1:]]


def tested(candidates: Candidates, ids: Ids, plan: Plan) -> tuple[Score, list[Any]]:
    """The deciding metric of a prompt on test, and its answers."""
    answers = [prediction.answer for prediction in candidates.worded(ids).predict(plan.test)]
    return score(plan.kind, plan.recipe.task.metric, answers, plan.test), answers


def differing(plan: Plan, mine: Sequence[Any], theirs: Sequence[Any]) -> Difference:
    """How much more often the first answers are right, tested in pairs; of texts, by the metric example by example."""
    wanted = references(plan.kind, plan.test)
    if plan.kind == "classification":
        right = [[float(a == b) for a, b in zip(answers, wanted, strict=True)] for answers in (mine, theirs)]
        return paired(right[0], right[1])
    metric = find_metric(plan.recipe.task.metric)
    sign = 1 if metric.higher_is_better else -1
    values = [
        [sign * metric([a], [b], draws=2).value for a, b in zip(answers, wanted, strict=True)]
        for answers in (mine, theirs)
    ]
    return paired(values[0], values[1])


def verdict(compared: dict[str, dict[str, float]]) -> str:
    """What the paired tests say, in one sentence."""
    ahead = [name for name, one in compared.items() if one["difference"] > 0 and one["p"] < LEVEL]
    rest = [name for name in compared if name not in ahead]
    if not ahead:
        return f"no significant gain (paired tests at p < {LEVEL})"
    gain = f"significantly better than {', '.join(ahead)} (paired tests at p < {LEVEL})"
    return f"{gain}; no significant gain over {', '.join(rest)}" if rest else gain


def write(
    ids: Ids, candidates: Candidates, plan: Plan, folder: Path, report: dict[str, Any], listen: Listener
) -> Path | None:
    """prompt.txt, recipe.yaml, report.json and, where vectors can stand for the text, prompt.safetensors.

    The recipe trains a soft prompt that starts from the text; untrained, that prompt is the text, and the artifact.
    """
    made = started(plan.recipe, ids, candidates.text(ids))
    write_atomically(folder / "prompt.txt", report["text"].encode())
    write_atomically(folder / "recipe.yaml", made.rooted().to_yaml(full=True).encode())
    path: Path | None = None
    if candidates.exact(ids, [*plan.dev, *plan.test]):
        path = folder / "prompt.safetensors"
        untrained = build(Plan(**vars(plan) | {"recipe": made}), candidates.prompt.backbone).eval()
        check_vectors(untrained, ids)
        facts = {name: value for name, value in report.items() if name != "dev"}
        Artifact.of(untrained, made.shared(), facts).save(path)
    else:
        text = "no prompt.safetensors: beside vectors, the tokenizer reads the text of some examples in another way"
        listen({"event": "note", "text": text})
    write_atomically(folder / "report.json", json.dumps(report, indent=1).encode())
    return path


def started(recipe: Recipe, ids: Ids, text: str) -> Recipe:
    """The recipe of a soft prompt that starts from a text."""
    update = {"method": MethodSection(length=len(ids)), "init": InitSection(kind="text", text=text)}
    return recipe.model_copy(update=update)


def check_vectors(prompt: Prompt, ids: Ids) -> None:
    """Raise `ValueError` where a prompt's vectors are not the embeddings of these tokens."""
    table = prompt.backbone.tokens(torch.tensor([ids], device=prompt.backbone.device))[0]
    if not torch.equal(prompt.state_dict()["method.prompt"].to(table), table):
        raise ValueError("vectors that are not those of the text")
