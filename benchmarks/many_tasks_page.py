"""What `many_tasks.py` measured, as Markdown: starts learned on many tasks, and prompts moved to another backbone."""

import numpy as np
from runs import Run, versions
from scipy.stats import t
from transfer_page import around

STARTS = ("pretrain", "reptile", "fomaml", "mpt scratch", "multitask")
SHOWN = {"fomaml": "first-order MAML", "mpt scratch": "mpt, from scratch", "multitask": "mpt, from multitask"}
CONTROLS = ("mean of the pairs", "untrained prompt", "bare model")


def newest(runs: list[Run], kind: str, names: tuple[str, ...]) -> list[Run]:
    """The runs of a kind that have the protocol of the last one."""
    own = [run for run in runs if run["kind"] == kind]
    return [run for run in own if all(run[name] == own[-1][name] for name in names)]


def gains(cells: list[Run], start: str, against: str = "scratch") -> list[float]:
    """How far a start is ahead on test, cell by cell; without the cells where it, or the other, broke off."""
    both = [(run["prompts"].get(start, {}), run["prompts"][against]) for run in cells if against in run["prompts"]]
    return [float(own["test"] - other["test"]) for own, other in both if "test" in own and "test" in other]


def over_targets(cells: list[Run], start: str, against: str = "scratch") -> list[float]:
    """The mean gain over targets of every seed that has them all."""
    targets = {run["task"] for run in cells}
    seeds = sorted({run["seed"] for run in cells})
    found = [gains([run for run in cells if run["seed"] == seed], start, against) for seed in seeds]
    return [sum(own) / len(own) for own in found if len(own) == len(targets)]


def table(cells: list[Run]) -> list[str]:
    """A line for each target and one for all: the score from scratch, the mean gain of every start, ± over seeds."""
    starts = [name for name in STARTS if any(name in run["prompts"] for run in cells)]
    pair = ("multitask", "mpt scratch")
    heads = [SHOWN.get(name, name) for name in starts] + (["multitask over mpt"] if set(pair) <= set(starts) else [])
    lines = [f"| target | scratch | {' | '.join(heads)} |", f"|{' --- |' * (len(heads) + 2)}"]
    asked = [(name,) for name in starts] + ([pair] if len(heads) > len(starts) else [])
    for task in (*dict.fromkeys(run["task"] for run in cells), None):
        own = [run for run in cells if task in (run["task"], None)]
        found = [over_targets(own, *one) if task is None else gains(own, *one) for one in asked]
        scores = [run["prompts"]["scratch"]["test"] for run in own if "test" in run["prompts"]["scratch"]]
        first = f"{100 * sum(scores) / len(scores):.1f}" if scores else "-"
        shown = [around(values) if values else "-" for values in found]
        lines.append(f"| {task or '**all**'} | {first} | {' | '.join(shown)} |")
    return lines


def costs(starts: list[Run]) -> str:
    """What it took to learn the starts."""
    found = []
    for name in dict.fromkeys(run["start"] for run in starts):
        own = [run["cpu_s"] for run in starts if run["start"] == name]
        found.append(f"{SHOWN.get(name, name).removeprefix('mpt, from ')} {sum(own) / len(own):.0f}")
    return f"CPU seconds to learn a start, the mean over targets: {', '.join(found)}."


def plainly(values: list[float], digits: int, scale: float = 1.0) -> str:
    """A mean with Student's 95 % half-width over seeds, from two values on."""
    mean = scale * sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    error = scale * t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.{digits}f} ±{error:.{digits}f}"


def losses(run: Run) -> dict[str, float]:
    """The loss of the moved prompt, its controls and the one trained there; at home, words are of other tokens."""
    found = {"moved": run["moved"]["dev_loss"]} | run["moved"]["controls"]
    return {name: float(value) for name, value in found.items()} | {"trained": run["beside"]["trained"]["loss"]}


def accuracies(run: Run) -> dict[str, float]:
    """The accuracy of the same, of the majority, and of the prompt on the backbone that it came from."""
    found = {name: float(one["value"]) for name, one in run["moved"]["dev_scores"].items()}
    found["moved"] = found.pop("prompt")
    return found | {name: one["accuracy"] for name, one in run["beside"].items()}


def projected(runs: list[Run]) -> list[str]:
    """Two lines a task, loss and accuracy of the moved prompt beside its controls, and whether it helps."""
    names = ("moved", *CONTROLS, "majority", "trained", "at home")
    heads = ("moved", *CONTROLS, "majority", "trained on tiny", "at home on nano")
    lines = [f"| target | | {' | '.join(heads)} | explained | helps |"]
    lines.append(f"|{' --- |' * (len(heads) + 4)}")
    for task in dict.fromkeys(run["task"] for run in runs):
        own = [run for run in runs if run["task"] == task]
        explained = plainly([run["moved"]["explained"] for run in own], 2)
        helps = f"{sum(run['moved']['helps'] for run in own)} of {len(own)}"
        for what, read, digits, scale in (("loss", losses, 2, 1.0), ("accuracy", accuracies, 1, 100.0)):
            found = [read(run) for run in own]
            shown = [
                plainly([one[name] for one in found], digits, scale) if all(name in one for one in found) else "-"
                for name in names
            ]
            last = f"{explained} | {helps}" if what == "loss" else " | "
            lines.append(f"| {task if what == 'loss' else ''} | {what} | {' | '.join(shown)} | {last} |")
    return lines


def page(runs: list[Run]) -> str:
    """Everything that was measured; the newest protocol of both kinds."""
    blocks = []
    protocol = ("backbone", "sources", "source_rows", "budget")
    cells = newest(runs, "cell", (*protocol, "starts", "steps", "epochs", "test"))
    if cells:
        last, seeds = cells[-1], len({run["seed"] for run in cells})
        blocks.append(
            f"**Starts learned on many tasks.** `benchmarks/many_tasks.py`, {seeds} seeds, {last['steps']} steps or "
            f"{last['epochs']} epochs, whichever is more; test on up to {last['test']} examples; a start: "
            f"{last['budget']} steps of 16 examples on {', '.join(last['sources'])} (up to {last['source_rows']} "
            f"examples each) without the target's own task. {versions(cells)}. Points of accuracy over scratch, ± over "
            "seeds; a start is learned once, so the ± is not over starts."
        )
        for shots in sorted({run["shots"] for run in cells}):
            own = [run for run in cells if run["shots"] == shots]
            blocks += [f"{shots} examples per class:", "\n".join(table(own))]
        starts = [run for run in runs if run["kind"] == "start" and all(run[name] == last[name] for name in protocol)]
        blocks += [costs(starts)] if starts else []
    moved = newest(runs, "project", ("backbone", "small", "sources", "source_rows", "source_steps", "test"))
    if moved:
        last = moved[-1]
        blocks.append(
            f"**From `softprompt/nano` to `softprompt/tiny`.** Prompts of {', '.join(last['sources'])} on both (up to "
            f"{last['source_rows']:,} examples, {last['source_steps']} steps), the target's left out, teach the map. "
            f"Asked about up to {last['test']} test examples, mean ± over {len({run['seed'] for run in moved})} seeds:"
        )
        blocks.append("\n".join(projected(moved)))
    return "\n\n".join(blocks)
