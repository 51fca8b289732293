"""What papers say of their methods, measured on the embedded backbone: each claim with its numbers and a verdict.

    python benchmarks/claims.py [--claims xprompt,residual,start,deep,dept] [--seeds 0,1,2] [--page]

Reads ../shared/data. Does the runs that benchmarks/results/claims.jsonl does not have yet for the weights and the
protocol at hand, so it can be stopped and repeated, and several may run side by side on different seeds. `--page`
writes the table of docs/results.md from that file. A difference holds where it is larger than its 95 % half-width, the
larger of two: over seeds (paired, Student's t, from three on) and over test examples. Runs that benchmarks/methods.py
has done already are taken from there. `--rows`, `--epochs`, `--test`, `--log` and `--methods-log` are for trying out.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import dept_time
import xprompt_order
from methods import LOG as METHODS
from methods import PAGE, protocol, trained
from results import DATA, ROOT
from runs import Run, done, facts, known, mean, note, numbers, put, split, versions
from tasks import TASKS, Task, recipe
from verdicts import Found, Verdict, chain, overall, points, verdict, welch

from softprompt import load_backbone
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import TINY
from softprompt.methods import find
from softprompt.plan import make_plan

LOG = ROOT / "benchmarks" / "results" / "claims.jsonl"
FACTORS = (0.1, 1, 10)  # times the rate that `lr: auto` chooses
STARTS = ("random", "vocabulary", "text")


@dataclass(frozen=True)
class Settings:
    """What all claims share: sizes that a trial run may change, and where runs of benchmarks/methods.py lie."""

    backbone: Backbone
    changed: dict[str, int]
    methods: Path

    def task(self, name: str) -> Task:
        return replace(TASKS[name], **self.changed)

    def run(self, name: str, method: str, seed: int, length: int = 0, **sections: Run) -> Run:
        """A run of a task; with nothing but defaults, the one that benchmarks/methods.py has done, where it has."""
        task = self.task(name)
        key = protocol(name, task, self.backbone) | {"method": method, "seed": seed}
        for run in [] if sections or length else done(self.methods):
            if all(run.get(k) == v for k, v in key.items()):
                return run
        with TemporaryDirectory() as folder:
            sections["method"] = {"name": method} | ({"length": length} if length else {})
            return trained(recipe(name, task, seed, Path(folder), **sections), self.backbone)

    def rate(self, name: str, seed: int) -> float:
        """What `lr: auto` chooses."""
        with TemporaryDirectory() as folder:
            return float(make_plan(recipe(name, self.task(name), seed, Path(folder)), self.backbone).recipe.optim.lr)


@dataclass(frozen=True)
class Claim:
    """Who says what, the runs that decide it ((variant, how to make it) of a seed), and the decision."""

    says: str
    runs: Callable[[Settings, int], Iterator[tuple[str, Callable[[], Run]]]]
    judge: Callable[[Found], list[Verdict]]


# --- XPrompt: importance orders vectors ---


def xprompt_runs(settings: Settings, seed: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    """All masks of a seed come from one run, so they are made together, by the first that is lacking."""
    task, made = settings.task("trec"), dict[str, Run]()

    def scored(variant: str) -> Run:
        if not made:
            began = time.process_time()
            made.update(xprompt_order.one(task, settings.backbone, seed))
            next(iter(made.values()))["cpu_s"] = round(time.process_time() - began, 1)
        return made[variant]

    for variant in [
        "whole",
        *(f"{m} {r:g} {w}" for m in xprompt_order.MASKS for r in xprompt_order.RATIOS for w in xprompt_order.MOMENTS),
    ]:
        yield variant, lambda variant=variant: scored(variant)


# --- Residual: less depends on rate and seed ---


def residual_runs(settings: Settings, seed: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    def at(method: str, factor: float) -> Run:
        if factor == 1:
            return settings.run("trec", method, seed)
        return settings.run("trec", method, seed, optim={"lr": settings.rate("trec", seed) * factor})

    for method in ("prompt_tuning", "residual"):
        for factor in FACTORS:
            yield f"{method} x{factor:g}", lambda m=method, f=factor: at(m, f)


def residual_judge(found: Found) -> list[Verdict]:
    """Brown and Forsythe 1974: mean distances from the median of all runs of a method, compared as Welch does."""
    sides = {
        m: [points(run) for f in FACTORS for run in found.get(f"{m} x{f:g}", [])] for m in ("prompt_tuning", "residual")
    }
    shown = "; ".join(
        f"{m}: " + ", ".join(f"x{f:g} {mean(found[f'{m} x{f:g}'])}" for f in FACTORS if found.get(f"{m} x{f:g}"))
        for m in sides
    )
    if any(len(values) < 2 * len(FACTORS) for values in sides.values()):
        return [Verdict(shown or "-", "not measured")]
    apart = [[abs(value - statistics.median(values)) for value in values] for values in sides.values()]
    value, error = welch(*apart)
    spreads = ", ".join(f"{m} {statistics.mean(one):.1f}" for m, one in zip(sides, apart, strict=True))
    told = f"mean distance of {len(apart[0])} runs from their median: {spreads} ({value:+.1f} ±{error:.1f}). {shown}"
    return [Verdict(told, overall([verdict(value, error)]))]


# --- where training begins ---


def start_runs(settings: Settings, seed: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    def begun(name: str, kind: str) -> Run:
        usual = kind == find("prompt_tuning").default_init
        return settings.run(name, "prompt_tuning", seed, **({} if usual else {"init": {"kind": kind}}))

    for name in ("trec", "e2e"):
        for kind in STARTS:
            yield f"{name} {kind}", lambda n=name, k=kind: begun(n, k)


def start_judge(found: Found) -> list[Verdict]:
    verdicts = []
    for name in ("trec", "e2e"):
        one = chain(found, [f"{name} {kind}" for kind in reversed(STARTS)], list(reversed(STARTS)))
        verdicts.append(replace(one, numbers=f"{name}: {one.numbers}"))
    return verdicts


# --- deep beats shallow ---


def deep_runs(settings: Settings, seed: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    spec = settings.backbone.spec
    many = 20 * 2 * spec.layers * spec.kv_heads * spec.head_dim // spec.hidden  # vectors with as many numbers
    for name in TASKS:
        yield f"{name} deep", lambda n=name: settings.run(n, "prefix", seed)
        yield f"{name} shallow", lambda n=name: settings.run(n, "prompt_tuning", seed)
        yield f"{name} shallow, as many numbers", lambda n=name: settings.run(n, "prompt_tuning", seed, many)


def deep_judge(found: Found) -> list[Verdict]:
    verdicts = []
    for name in TASKS:
        for other in ("shallow", "shallow, as many numbers"):
            one = chain(found, [f"{name} deep", f"{name} {other}"], ["deep", other])
            verdicts.append(replace(one, numbers=f"{name}: {one.numbers}"))
    return verdicts


# --- DePT: less time at equal parameters ---


def dept_runs(settings: Settings, seed: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    for length in dept_time.LENGTHS:
        yield f"{length} tokens", lambda n=length: dept_time.timed(n, seed)


CLAIMS = {
    "xprompt": Claim(
        "XPrompt: vectors kept by importance > at random > the least important; and > the whole prompt "
        "(Ma et al. 2022)",
        xprompt_runs,
        xprompt_order.judge,
    ),
    "residual": Claim(
        "Residual prompt tuning depends less on rate and seed than prompt tuning (Razdaibiedina et al. 2023)",
        residual_runs,
        residual_judge,
    ),
    "start": Claim(
        "Prompts that begin at vocabulary > at random (Lester et al. 2021); at a text > at vocabulary (Li and Liang "
        "2021, of prefixes)",
        start_runs,
        start_judge,
    ),
    "deep": Claim(
        "Deep (prefix) > shallow (prompt tuning) in small models (Li and Liang 2021; Liu et al. 2022)",
        deep_runs,
        deep_judge,
    ),
    "dept": Claim(
        "DePT takes less time than prompt tuning with as many parameters; the paper: about 20 % (Shi and Lipani 2024)",
        dept_runs,
        dept_time.judge,
    ),
}


def key_of(name: str, settings: Settings) -> Run:
    """What tells the runs of one protocol and of one set of weights from others."""
    sizes = {name: [(task := settings.task(name)).rows, task.epochs, task.test] for name in TASKS}
    return {"claim": name, "backbone": settings.backbone.fingerprint, "tasks": sizes}


def everything(chosen: argparse.Namespace, settings: Settings) -> None:
    """All runs that are lacking."""
    for seed in chosen.seeds:
        for name in chosen.claims:
            for variant, make in CLAIMS[name].runs(settings, seed):
                key = key_of(name, settings) | {"variant": variant, "seed": seed}
                if not known(chosen.log, key):
                    note(chosen.log, make() | facts(settings.backbone) | key)


def page(chosen: argparse.Namespace, settings: Settings) -> str:
    """The table: a line for every verdict."""
    lines, used = ["| claim | our numbers | verdict | command |", "| --- | --- | --- | --- |"], list[Run]()
    for name in chosen.claims:
        key, found = key_of(name, settings), defaultdict[str, list[Run]](list)
        for run in done(chosen.log):
            if all(run.get(k) == v for k, v in key.items()):
                found[run["variant"]].append(run)
                used.append(run)
        for i, one in enumerate(CLAIMS[name].judge({k: sorted(v, key=lambda r: r["seed"]) for k, v in found.items()})):
            first = (CLAIMS[name].says, f"`python benchmarks/claims.py --claims {name}`") if not i else ("", "")
            lines.append(f"| {first[0]} | {one.numbers} | {one.holds} | {first[1]} |")
    if not used:
        raise SystemExit(f"no runs of these weights and this protocol in {chosen.log}")
    seeds = sorted({run["seed"] for run in used})
    about = f"Weights {settings.backbone.fingerprint[:12]}, seeds {seeds}, {versions(used)}, {used[0]['machine']}."
    return "\n".join([about, "", *lines])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=split, default=list(CLAIMS))
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, help="training rows of every run")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--test", type=int, help="test rows of every run")
    parser.add_argument("--log", type=Path, default=LOG, help="another file of results")
    parser.add_argument("--methods-log", type=Path, default=METHODS, help="another file of benchmarks/methods.py")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--show", action="store_true", help="only print what the page would say")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    changed = {name: value for name in ("rows", "epochs", "test") if (value := getattr(chosen, name)) is not None}
    settings = Settings(load_backbone(TINY), changed, chosen.methods_log)
    if chosen.show:
        print(page(chosen, settings))
    elif chosen.page:
        put(PAGE, "claims", page(chosen, settings))
    elif DATA.exists():
        everything(chosen, settings)
    else:
        raise SystemExit(f"no real data: {DATA.relative_to(ROOT.parent)} is absent beside the repository")


if __name__ == "__main__":
    main()
