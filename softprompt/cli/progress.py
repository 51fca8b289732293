"""How a run goes, on standard error: one live line on a terminal, a line now and then elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from softprompt.cli.output import console, document, duration, escaped, next_steps, note, size

EVERY = 10.0  # seconds between plain lines
RECENT = 20  # steps over which the speed is averaged
Event = dict[str, Any]


class Progress:
    """A listener of `softprompt.train`, to be used in a `with`; afterwards it knows the plan and the last step."""

    def __init__(self, heading: str = "", *, brief: bool = False) -> None:
        self.heading = heading  # shown once the data are read and the run begins
        self.brief = brief  # without the recipe, dev scores and baselines
        self.screen = console(errors=True)
        self.plan: Any = None
        self.cost: dict[str, Any] = {}  # of the run, before its first step
        self.step = 0
        self.done = 0  # steps of this session
        self.began = self.printed = 0.0
        self.recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self.dev = ""
        self.line: Any = None  # the live line, on a terminal

    def __enter__(self) -> "Progress":
        if self.screen.is_terminal:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Live

            columns = (BarColumn(bar_width=16), TextColumn("{task.fields[text]}", markup=False))
            self.line = Live(*columns, console=self.screen, transient=True)
            self.line.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.line is not None:
            self.line.stop()

    def __call__(self, event: Event) -> None:
        """Show one event; events of later versions are passed over."""
        shown: dict[str, Callable[[Event], None]] = {
            "plan": self.on_plan,
            "cost": self.on_cost,
            "note": self.on_note,
            "step": self.on_step,
            "dev": self.on_dev,
            "baseline": self.on_baseline,
        }
        show = shown.get(event["event"])
        if show is not None:
            show(event)

    def print(self, text: str) -> None:
        """A line that stays, above the live one."""
        self.screen.print(escaped(text))

    def on_note(self, event: Event) -> None:
        """Something worth knowing."""
        self.print(event["text"])

    def on_plan(self, event: Event) -> None:
        """What was inferred, and the recipe that would repeat the run."""
        self.plan = plan = event["plan"]
        if self.brief:
            return
        for text in (self.heading, *plan.notes):
            self.print(text)
        self.print(f"recipe (repeats this run):\n{indented(plan.recipe.to_yaml())}")
        trained = sum(weight.numel() for weight in event["prompt"].parameters())
        self.print(f"training {trained:,} numbers for at most {plan.steps:,} steps; the backbone stays as it is")

    def on_cost(self, event: Event) -> None:
        """What the run will take, and what it would take with the prompt in every row."""
        self.cost = {name: value for name, value in event.items() if name not in ("event", "step")}
        if not self.brief:
            self.print(priced(self.cost))

    def on_step(self, event: Event) -> None:
        """Loss, rate, speed and time left."""
        now = time.monotonic()
        if not self.done:
            self.began = now - event["seconds"]
        self.step, self.done = event["step"], self.done + 1
        self.recent.append((event["tokens"], event["seconds"]))
        speed = sum(tokens for tokens, _ in self.recent) / max(1e-9, sum(seconds for _, seconds in self.recent))
        left = (now - self.began) / self.done * (event["total"] - self.step)
        text = (
            f"step {self.step}/{event['total']}  {self.moving(event)}  "
            f"{speed:,.0f} tokens/s  {duration(left)} left{self.dev}"
        )
        if self.line is not None:
            if not self.line.tasks:
                self.line.add_task("", total=event["total"], text=text)
            self.line.update(self.line.task_ids[0], completed=self.step, text=text)
        elif self.done == 1 or now - self.printed >= EVERY:
            self.printed = now
            self.print(text)

    def moving(self, event: Event) -> str:
        """What a step did."""
        return f"loss {event['loss']:.3f}  rate {event['lr']:.3g}"

    def on_dev(self, event: Event) -> None:
        """The score on the dev examples."""
        known = ("event", "step", "key", "best", "loss")
        facts = {name: value for name, value in event.items() if name not in known} | {"loss": event["loss"]}
        text = "  ".join(f"{name} {value:.3f}" for name, value in facts.items())
        if self.brief:
            self.dev = f"  dev {text}"
        else:
            self.print(f"step {event['step']}: dev {text}{'  (best so far)' if event['best'] else ''}")

    def on_baseline(self, event: Event) -> None:
        """What the prompt has to beat."""
        if self.line is not None and self.line.tasks:
            self.line.update(self.line.task_ids[0], text="comparing with what it has to beat")
        if not self.brief:
            self.print(f"{event['name']}: {event['score']}")


@contextmanager
def resumable(run: object, saved: str, *again: str, as_json: bool, progress: Progress | None = None) -> Iterator[None]:
    """Around work that may be told to stop: then say what is saved and the command that goes on, and pass it on."""
    from softprompt.run import Stopped

    try:
        yield
    except Stopped as stopped:
        step = {} if progress is None else {"step": progress.step}
        if as_json:
            document({"stopped": True, "run": str(run), **step, "exit_code": stopped.code})
        note(f"stopped{f' after step {progress.step}' if progress else ''}; {saved}")
        next_steps(*again)
        raise


def priced(cost: dict[str, Any]) -> str:
    """A cost as one line: the run as it is, and as PEFT lays it out."""
    more = {name: cost[f"peft_{name}"] / max(1, cost[name]) for name in ("epoch_tokens", "operations")}
    took = f"about {duration(cost['seconds'])}" if cost["seconds"] >= 1 else "less than a second"
    return (
        f"cost: at most {cost['steps']:,} steps; {cost['epoch_tokens']:,} tokens a pass over the data, "
        f"{worded(cost['operations'])} operations in all, {size(cost['kept_bytes'])} kept for the backward pass, "
        f"{took}; with the prompt and padding in every row, as PEFT has it: "
        f"{more['epoch_tokens']:.1f} times the tokens, {more['operations']:.1f} times the operations, "
        f"{size(cost['peft_kept_bytes'])} kept"
    )


def worded(count: float) -> str:
    """A large number in words: 65.0 million."""
    for unit, word in ((1e18, "quintillion"), (1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion")):
        if count >= unit:
            return f"{count / unit:,.1f} {word}"
    return f"{count / 1e6:.1f} million"


def indented(text: str) -> str:
    """Every line two spaces to the right."""
    return "\n".join(f"  {line}" for line in text.splitlines())
