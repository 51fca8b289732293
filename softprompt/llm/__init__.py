"""Prompts written by language models: any server that speaks OpenAI's chat API may write them, and be asked by them.

`write` makes one for the task of a recipe, with the splits, the metric and the tests of a soft prompt, so that both can
be compared.
"""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from softprompt.errors import RecipeError, TrainingError, near
from softprompt.files import write_atomically
from softprompt.llm.budget import Budget
from softprompt.llm.endpoint import Cache, Client, Endpoint
from softprompt.llm.estimate import Estimate, estimate
from softprompt.llm.finish import Written, finish
from softprompt.llm.judge import Judge
from softprompt.llm.leak import Guard
from softprompt.llm.log import Log
from softprompt.llm.loop import choose, keep, seek
from softprompt.llm.strategy import Board, Strategy
from softprompt.llm.task import Place, Task, read_task
from softprompt.llm.writer import Writer
from softprompt.recipe import Recipe

STRATEGIES = {
    "opro": "opro.Opro",
    "ape": "ape.Ape",
    "evoprompt-ga": "evoprompt.Genetic",
    "evoprompt-de": "evoprompt.Differential",
    "exemplars": "exemplars.Exemplars",
    "gepa": "gepa.Gepa",
}
STARTS = {"classification": "Which of the answers below fits this text?", "generation": "Read this and answer."}


def write(
    recipe: Recipe,
    folder: str | Path,
    *,
    strategy: str,
    asked: Endpoint,
    writer: Endpoint | None = None,
    calls: int,
    tokens: int | None = None,
    cost: float | None = None,
    start: str | None = None,
    count: int | None = None,
    dev: int = 100,
    test: int | None = None,
    place: Place = "user",
    seed: int = 0,
    listen: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Written:
    """Write a prompt for the task of a recipe with at most `calls` requests to both endpoints together.

    `asked` answers the task, `writer` writes prompts; `start` is the first prompt, `count` how many a step makes, `dev`
    and `test` the most examples of these parts. A run that was killed goes on when it is called again. Raises
    `RecipeError` for tasks, strategies, endpoints and budgets that do not fit, `TrainingError` where the folder holds
    another run, `SoftpromptError` where an endpoint does not answer.
    """
    kind = strategy_of(strategy)
    check(kind, strategy, asked, writer, cost)
    task = read_task(recipe, place=place, dev=dev, test=test, seed=seed)
    begun, place_of, known = begin_with(task, start), Path(folder), guard(task)
    settings = {"strategy": strategy, "calls": calls, "tokens": tokens, "cost": cost, "start": begun, "count": count}
    settings |= {"dev": dev, "test": test, "place": place, "seed": seed, "asked": asked.model_dump()}
    settings["writer"] = None if writer is None or not kind.writes else writer.model_dump()
    facts = settings | {"recipe": recipe.rooted().model_dump(mode="json"), "data": task.sha256}

    def ready(log: Log) -> tuple[Board, Strategy]:
        budget, cache = Budget(calls, tokens, cost, log.past), Cache(log.past)
        client = Client(asked, budget, cache, log, "task")
        hand = None if settings["writer"] is None or writer is None else Client(writer, budget, cache, log, "writer")
        board = Board(task, Judge(task, client), Writer(hand, known), seed, listen)
        made = kind(board, count)
        keep(board, made, begun)
        return board, made

    ready(Log())  # before there is a folder: a run without its key or its budget leaves none behind
    claim(place_of, facts)
    log = Log(place_of / "events.jsonl")
    try:
        board, made = ready(log)
        result = finish(board, choose(board, seek(board, made, begun)), recipe, place_of)
    finally:
        log.close()
    listen({"event": "done", "report": result.report})
    return result


def resume(folder: str | Path, *, listen: Callable[[dict[str, Any]], None] = lambda event: None) -> Written:
    """Go on with a run that stopped; raises `TrainingError` where the folder holds none."""
    path = Path(folder) / "write.json"
    if not path.exists():
        raise TrainingError("SP-E511", f"no run in {folder}", "a folder made by `softprompt write`", "check the path")
    facts = json.loads(path.read_text(encoding="utf-8"))
    recipe, _ = Recipe.model_validate(facts.pop("recipe")), facts.pop("data")
    ends = {name: facts[name] and Endpoint.model_validate(facts[name]) for name in ("asked", "writer")}
    return write(recipe, folder, listen=listen, **facts | ends)


def priced(
    recipe: Recipe, *, strategy: str, asked: Endpoint, writer: Endpoint | None, calls: int, **settings: Any
) -> Estimate:
    """What such a run would take; asks nothing. `settings` are those of `write`."""
    kind = strategy_of(strategy)
    check(kind, strategy, asked, writer, settings.get("cost"))
    known = {name: settings[name] for name in ("place", "dev", "test", "seed") if name in settings}
    task = read_task(recipe, **known)
    share = int(kind.writes) / (int(kind.writes) + len(task.race))
    return estimate(task, begin_with(task, settings.get("start")), calls, asked, writer if kind.writes else None, share)


def strategy_of(name: str) -> type[Strategy]:
    """The class of a strategy; raises `RecipeError` for one that does not exist."""
    if name not in STRATEGIES:
        found = f"strategy {name!r}{near(name, list(STRATEGIES))}"
        raise RecipeError("SP-E740", found, f"one of {', '.join(STRATEGIES)}", "choose one with --strategy")
    module, _, kind = STRATEGIES[name].partition(".")
    found_kind: type[Strategy] = getattr(import_module(f"{__name__}.{module}"), kind)
    return found_kind


def check(kind: type[Strategy], name: str, asked: Endpoint, writer: Endpoint | None, cost: float | None) -> None:
    """Raise `RecipeError` where an endpoint is missing, or a limit of cost without prices."""
    if kind.writes and writer is None:
        do = "give --optimizer-url and --optimizer-model"
        raise RecipeError("SP-E732", "no endpoint that writes prompts", f"one, which {name} needs", do)
    ends = [asked, *([writer] if writer is not None and kind.writes else [])]
    if cost is not None and any(end.price_in is None or end.price_out is None for end in ends):
        found, do = "a limit of cost without prices", "give the prices of both endpoints, or no --cost"
        raise RecipeError("SP-E732", found, "what a million tokens cost", do)


def begin_with(task: Task, start: str | None) -> str:
    """The seed prompt, by default a plain question; raises `RecipeError` SP-E741 for one without text."""
    if start is not None and not start.strip():
        raise RecipeError("SP-E741", "a seed prompt without text", "a prompt", "mend --start, or leave it out")
    return STARTS[task.kind] if start is None else start


def guard(task: Task) -> Guard:
    """Knows the texts of every part."""
    return Guard(task.shown(example) for example in (*task.train, *task.race, *task.fresh, *task.test))


def claim(place: Path, facts: dict[str, Any]) -> None:
    """Write down what is done here; raises `TrainingError` where something else is."""
    path = place / "write.json"
    plain = json.loads(json.dumps(facts))
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != plain:
            do = "use another folder, with --run"
            raise TrainingError("SP-E514", "another run", "an empty folder, or this run", do, where=str(place))
        return
    if any((place / name).exists() for name in ("recipe.yaml", "sweep.json", "search.json")):
        raise TrainingError("SP-E510", f"a run in {place}", "a new folder", "use another folder, with --run")
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plain, indent=1, ensure_ascii=False).encode())


__all__ = ["STRATEGIES", "Client", "Endpoint", "Written", "priced", "resume", "write"]
