"""The bench: 60 sick and 40 healthy runs, what the doctor says of them, and a table.

python -m tests.doctor.bench [--spawn N] [--share 1.0]
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from doctor.sick import FAULTS
from doctor.ward import Ward
from softprompt.doctor import Finding, alarming

METHODS = {
    ("nano", "mood"): ("prompt_tuning", "prefix", "residual", "p_tuning"),
    ("nano", "kind"): ("prompt_tuning", "prefix", "residual", "p_tuning"),
    ("llama", "random"): ("prompt_tuning", "prefix", "residual"),
    ("bert", "random"): ("prompt_tuning", "prefix", "dept"),
}
TIMES = {"nano": 2, "llama": 4, "bert": 4}
HEALTHY = [
    (base, task, method, number)
    for (base, task), methods in METHODS.items()
    for method in methods
    for number in range(TIMES[base])
]


@dataclass(frozen=True)
class Outcome:
    """What the doctor said of one subject; `fault` is empty for a healthy one."""

    name: str
    fault: str
    found: list[Finding]
    caught: bool  # sick: the fault was seen; healthy: nothing was
    first: bool  # sick: the first advice was right

    def __str__(self) -> str:
        said = ", ".join(f"{f.rule} ({f.seen})" for f in alarming(self.found)) or "nothing"
        return f"{'ok  ' if self.caught else 'MISS'} {self.name}: {said}"


def healthy(ward: Ward, base: str, task: str, method: str) -> list[Finding]:
    """A run that learns."""
    return ward.run(
        ward.recipe(base, f"method.name={method}", f"train.epochs={4 if base == 'nano' else 12}", task=task)
    )


def outcomes(ward: Ward, share: float = 1.0) -> Iterator[Outcome]:
    """Every subject in turn, or a `share` of them that has each fault at least once."""
    yield from ill(ward, share)
    yield from sound(ward, share)


def ill(ward: Ward, share: float) -> Iterator[Outcome]:
    """The sick ones."""
    for name, fault in FAULTS.items():
        for k in range(max(1, round(share * fault.times))):
            found = fault.inject(ward, k)
            rules = [finding.rule for finding in alarming(found)]
            caught = bool(fault.rules & set(rules))
            yield Outcome(f"{name} {k + 1}", name, found, caught, caught and rules[0] in fault.first)


def sound(ward: Ward, share: float) -> Iterator[Outcome]:
    """The healthy ones."""
    step = max(1, round(1 / share))
    for base, task, method, number in HEALTHY[::step]:
        found = healthy(ward, base, task, method)
        yield Outcome(f"{base} {task} {method} {number}", "", found, not alarming(found), first=False)


def table(done: list[Outcome]) -> str:
    """The confusion table, as Markdown."""
    lines = ["| fault | runs | seen | first advice right |", "| --- | --- | --- | --- |"]
    for fault in FAULTS:
        of = [one for one in done if one.fault == fault]
        lines.append(f"| {fault} | {len(of)} | {sum(o.caught for o in of)} | {sum(o.first for o in of)} |")
    sick, sound = [one for one in done if one.fault], [one for one in done if not one.fault]
    seen, first = sum(o.caught for o in sick), sum(o.first for o in sick)
    shares = [f"{n} ({n / max(1, len(sick)):.0%})" for n in (seen, first)]
    lines.append(f"| all sick runs | {len(sick)} | {shares[0]} | {shares[1]} |")
    alarms = [one for one in sound if not one.caught]
    lines.append(f"| healthy, with an alarm | {len(sound)} | {len(alarms)} | |")
    return "\n".join(lines)


SIDES = {"all": outcomes, "sick": ill, "healthy": sound}


def main() -> None:
    """Run the bench and print every subject and the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spawn", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", choices=[*SIDES], default="all")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ward, done = Ward(Path(folder), chosen.spawn), []
        for one in SIDES[chosen.only](ward, chosen.share):
            done.append(one)
            print(one, f"[{time.process_time():.1f} CPU s]", flush=True)
    print(f"\n{table(done)}\n\nlongest look: {max(ward.looks):.2f} CPU s")


if __name__ == "__main__":
    main()
