"""`softprompt demo`: several tasks on one frozen backbone, in minutes."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import AsJson
from softprompt.cli.output import document, duration, next_steps, note, say, size, table
from softprompt.cli.progress import Progress

if TYPE_CHECKING:
    from softprompt.backbones import Backbone
    from softprompt.demo.run import Trained
    from softprompt.prompt import Prediction


def demo(
    run: Annotated[str | None, typer.Option(help="Folder for the prompts.  [default: runs/demo-N]")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Train each task for so few steps, for a try.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train prompts for five small tasks on one model and use them."""
    from softprompt.backbones import load_backbone
    from softprompt.demo import run as shown

    folder = Path(run) if run else new_folder()
    began = time.monotonic()
    note("loading one frozen backbone: softprompt/tiny, 6.9 million numbers, none of which will change")
    backbone = load_backbone(shown.MODEL)
    settings = [] if steps is None else [f"train.steps={steps}"]
    trained = []
    for task in shown.TASKS:
        note(f"training a prompt for {task}")
        with Progress(brief=True) as progress:
            trained.append(shown.train_task(task, backbone, folder, progress, settings))
    prompts = shown.load_all(trained, backbone)
    asked = [(task, texts[i]) for i in range(2) for task, texts in shown.MIXED.items()]
    answers = shown.answer_together(prompts, asked)
    written = [(task, text, answer.answer) for task, text, answer in shown.write(prompts)]
    served = ask_server(folder, backbone, asked, answers)
    if as_json:
        whole = facts(trained, asked, answers) | {"written": [dict(zip(KEYS, row, strict=True)) for row in written]}
        document(whole | {"served": served, "seconds": round(time.monotonic() - began, 1)})
        return
    table(HEADER, [row(one) for one in trained])
    say(f"\n{len(trained)} prompt files bound to the one backbone; one mixed batch, one forward:")
    table(
        ["task", "text", "answer"],
        [(task, text, spoken(text, answer)) for (task, text), answer in zip(asked, answers, strict=True)],
    )
    if written:
        say("\nand one that writes:")
        table(["task", "attributes", "text"], [(task, text, str(answer)) for task, text, answer in written])
    say(f"\n{served['said']}")
    say(f"\nall of it took {duration(time.monotonic() - began)}; the prompts are in {folder}")
    example = shlex.quote(str(trained[0].path))
    next_steps(
        shlex.join(["softprompt", "serve", "--prompts", str(folder)]),
        f"echo 'Where do storks spend the winter?' | softprompt predict {example}",
        f"softprompt show {example}",
        "softprompt train YOUR.csv --method prefix",
    )


def ask_server(
    folder: Path, backbone: "Backbone", asked: list[tuple[str, str]], answers: "list[Prediction]"
) -> dict[str, Any]:
    """The same batch through a server and OpenAI's client: where, and how many answers are those of the batch."""
    from softprompt.demo import served

    note("starting a server and asking it through the official openai client")
    try:
        address, got = served.ask(folder, backbone, asked)
    except ModuleNotFoundError as error:
        said = f"not served, because there is no package {error.name}: pip install 'softprompt[serve,llm]'"
        return {"address": None, "same": None, "said": said}
    expected = [" ".join(a.answer) if isinstance(a.answer, tuple) else str(a.answer) for a in answers]
    same = sum(one == other for one, other in zip(got, expected, strict=True))
    said = (
        f"a server at {address}, asked through the openai client: {same} of {len(got)} answers are those of the batch"
    )
    return {"address": address, "same": same, "said": said}


KEYS = ("task", "text", "answer")
HEADER = ["task", "metric", "zero-shot", "prompt", "probe / majority", "trained numbers", "file", "time"]


def row(one: "Trained") -> list[str]:
    """One task in the table."""
    first, beside = one.report.scores[0], one.report.baselines
    zero = f"{beside['zero-shot'].value:.3f}" if "zero-shot" in beside else "-"
    probe = f"{beside['linear probe'].value:.3f}" if "linear probe" in beside else "-"
    rest = [f"{probe} / {beside['majority'].value:.3f}", f"{one.report.parameters:,}", size(one.bytes)]
    return [one.task, first.name, zero, f"{first.value:.3f} ±{first.error:.3f}", *rest, duration(one.seconds)]


def facts(trained: "list[Trained]", asked: list[tuple[str, str]], answers: "list[Prediction]") -> dict[str, Any]:
    """The demo as plain values."""
    tasks = [
        one.report.as_dict() | {"task": one.task, "prompt": str(one.path), "bytes": one.bytes, "seconds": one.seconds}
        for one in trained
    ]
    pairs = zip(asked, answers, strict=True)
    return {"tasks": tasks, "mixed": [{"task": t, "text": text, "answer": a.answer} for (t, text), a in pairs]}


def spoken(text: str, answer: "Prediction") -> str:
    """An answer for people: a class name, or the words of every span with their tag."""
    if not isinstance(answer.answer, tuple):
        return str(answer.answer)
    words = [f"{word}/{tag}" for word, tag in zip(text.split(), answer.answer, strict=True) if tag != "O"]
    return " ".join(words) or "nothing tagged"


def new_folder() -> Path:
    """`runs/demo-N` with the first N that is free: nothing is ever overwritten."""
    number = 1
    while (path := Path("runs") / f"demo-{number}").exists():
        number += 1
    return path
