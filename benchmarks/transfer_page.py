"""What `transfer.py` measured, as Markdown: heat map, best of the top k, does similarity predict gain, distillation."""

import numpy as np
from runs import Run, versions
from scipy.stats import spearmanr, t

from softprompt.metrics import Score, over_seeds, paired

TEACHERS = {"distill": "fifty vectors", "distill full": "the tuned model"}  # by the kind of a run


def sound(run: Run) -> dict[str, Run]:
    """The prompts of a cell that did not break off, without scratch."""
    return {name: one for name, one in run["prompts"].items() if name != "scratch" and "test" in one}


def gain(run: Run, name: str) -> float:
    """How far a prompt from a source is ahead of scratch, on test."""
    return float(run["prompts"][name]["test"] - run["prompts"]["scratch"]["test"])


def heat(cells: list[Run]) -> list[str]:
    """The mean gain of every source for every target, in points, with ± over seeds where there are several."""
    sources = list(dict.fromkeys(name for run in cells for name in sound(run)))
    lines = [f"| target | scratch | {' | '.join(sources)} |", f"|{' --- |' * (len(sources) + 2)}"]
    for task in dict.fromkeys(run["task"] for run in cells):
        own = [run for run in cells if run["task"] == task]
        first = f"{100 * sum(run['prompts']['scratch']['test'] for run in own) / len(own):.1f}"
        marks_ = [[gain(run, name) for run in own if name in sound(run)] for name in sources]
        lines.append(f"| {task} | {first} | {' | '.join(around(values) if values else '-' for values in marks_)} |")
    return lines


def around(values: list[float]) -> str:
    """A mean in points, with Student's 95 % half-width from two values on."""
    mean = 100 * sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ±{half(values):.1f}"


def half(values: list[float]) -> float:
    """The half-width in points."""
    return float(100 * t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def top(run: Run, k: int) -> str:
    """The best on dev among the k sources that are most similar."""
    ranked = sorted(sound(run), key=lambda name: -run["prompts"][name]["per_token"])
    return max(ranked[:k], key=lambda name: tuple(run["prompts"][name]["dev"]))


def best_of(cells: list[Run]) -> list[str]:
    """Best of the top k by similarity against scratch, over targets and seeds: mean gain with ±, and wins by test."""
    most = min(len(sound(run)) for run in cells)
    lines = ["| k | gain over scratch | cells that gain | cells that lose |", "| --- | --- | --- | --- |"]
    for k in sorted({1, 2, 3, 5, most} & set(range(1, most + 1))):
        names = [top(run, k) for run in cells]
        values = [gain(run, name) for run, name in zip(cells, names, strict=True)]
        tests = [against(run, name) for run, name in zip(cells, names, strict=True)]
        wins, losses = (sum(p < 0.05 and sign * gap > 0 for gap, p in tests) for sign in (1, -1))
        lines.append(f"| {k} | {around(values)} | {wins} of {len(cells)} | {losses} of {len(cells)} |")
    return lines


def against(run: Run, name: str) -> tuple[float, float]:
    """The paired test of a prompt against scratch in one cell: difference and p."""
    first, second = ([float(mark) for mark in run["prompts"][who]["right"]] for who in (name, "scratch"))
    made = paired(first, second)
    return made.difference, made.p


def predicts(cells: list[Run]) -> str:
    """Spearman's rank correlation of similarity and gain within a target, and its interval over targets."""
    found = []
    for task in dict.fromkeys(run["task"] for run in cells):
        own = [run for run in cells if run["task"] == task]
        names = sorted(set.intersection(*(set(sound(run)) for run in own)))
        near = [sum(run["prompts"][name]["per_token"] for run in own) / len(own) for name in names]
        gains = [sum(gain(run, name) for run in own) / len(own) for name in names]
        found.append(float(spearmanr(near, gains).statistic))
    found = [value for value in found if value == value]
    if len(found) < 2:
        return "Too few targets for a rank correlation of similarity and gain."
    draws = np.random.default_rng(0).choice(found, (10_000, len(found))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    said = "predicts gain" if low > 0 else "predicts loss" if high < 0 else "does not predict gain here"
    means = f"{np.mean(found):+.2f}, 95 % interval {low:+.2f} to {high:+.2f} over {len(found)} targets"
    return f"Rank correlation of similarity and gain: {means}: similarity {said}."


def short(runs: list[Run], teacher: str) -> list[str]:
    """The teacher, five vectors that were distilled, five alone."""
    lines = [f"| task | {teacher} | 5 distilled | 5 alone | distilled ahead | seeds |", f"|{' --- |' * 6}"]
    for task in dict.fromkeys(run["task"] for run in runs):
        own = [run for run in runs if run["task"] == task]
        means = [
            over_seeds([Score.from_dict(run[which]) for run in own]) for which in ("teacher", "distilled", "alone")
        ]
        ahead = around([run["paired"]["difference"] for run in own])
        shown = " | ".join(f"{100 * mean.value:.1f} ±{100 * mean.error:.1f}" for mean in means)
        lines.append(f"| {task} | {shown} | {ahead} | {len(own)} |")
    return lines


def page(runs: list[Run]) -> str:
    """Everything that was measured, as Markdown; the newest protocol of every kind."""
    blocks = []
    cells = [run for run in runs if run["kind"] == "cell"]
    if cells:
        last = {
            name: cells[-1][name]
            for name in ("backbone", "steps", "epochs", "test", "sources", "source_rows", "source_steps")
        }
        cells = [run for run in cells if all(run[name] == value for name, value in last.items())]
        seeds = len({run["seed"] for run in cells})
        blocks.append(
            f"`benchmarks/transfer.py`, {seeds} seeds, {last['steps']} steps or {last['epochs']} epochs, whichever is "
            f"more; test on up to {last['test']} examples; sources: {last['source_rows']:,} examples, "
            f"{last['source_steps']} steps. {versions(cells)}. "
            "Points of accuracy over scratch, ± over seeds."
        )
        for shots in sorted({run["shots"] for run in cells}):
            own = [run for run in cells if run["shots"] == shots]
            blocks += [f"**{shots} examples per class**", "\n".join(heat(own))]
            blocks += ["Best on dev of the k most similar sources:", "\n".join(best_of(own)), predicts(own)]
    for kind, teacher in TEACHERS.items():
        shorter = [run for run in runs if run["kind"] == kind]
        if shorter:
            last = {name: shorter[-1][name] for name in ("backbone", "test", "source_rows", "source_steps")}
            shorter = [run for run in shorter if all(run[name] == value for name, value in last.items())]
            blocks += [
                f"**{teacher.capitalize()} into five vectors**, accuracy in %:",
                "\n".join(short(shorter, teacher)),
            ]
    return "\n\n".join(blocks)
