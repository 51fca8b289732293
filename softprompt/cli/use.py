"""`softprompt evaluate`, `predict` and `generate`: a trained prompt at work."""

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli import summary
from softprompt.cli.options import AsJson, BatchSize, Model, PromptFile
from softprompt.cli.output import document, next_steps, note, say
from softprompt.errors import RecipeError

if TYPE_CHECKING:
    from softprompt.artifact import Artifact
    from softprompt.cli.remote import Answered
    from softprompt.core import Example
    from softprompt.prompt import Prediction, Prompt

Source = Annotated[
    str, typer.Argument(help="Text (one a line), CSV, TSV, JSONL, Parquet...; standard input if not given.")
]
Written = Annotated[
    str | None, typer.Option("--output", "-o", help="Write answers here: JSON Lines for .jsonl, else one a line.")
]


def evaluate(
    prompt: PromptFile,
    data: Annotated[str, typer.Argument(help="Labelled data.", metavar="DATA")],
    model: Model = None,
    batch_size: BatchSize = 32,
    baselines: Annotated[bool, typer.Option(help="Also score the majority and the bare model.")] = True,
    int8: Annotated[bool, typer.Option("--int8", help="Round the model's weights to 8 bits first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score a prompt on labelled data, with ± and n."""
    from softprompt.cli.load import bound, labelled, load, weights
    from softprompt.evaluate import scores

    artifact = load(prompt)
    labelled_data = labelled(artifact, data)
    ready, examples = bound(artifact, model, int8=int8), labelled_data.examples
    remark(ready, examples, labelled_data.notes)
    metric = deciding(artifact, examples)
    found = scores(ready, examples, metric, ready.predict(examples, batch_size=batch_size))
    report = {
        "prompt": prompt,
        "data": data,
        "weights": "int8" if int8 else weights(artifact),
        "metric": metric,
        "scores": [score.as_dict() for score in found],
        "baselines": compared(ready, examples, metric) if baselines else {},
    }
    if as_json:
        document(report)
        return
    title = f"{data}, {len(examples)} examples" + (", weights rounded to int8" if int8 else "")
    summary.scores(report, title)
    next_steps(shlex.join(["softprompt", "predict", prompt, "FILE", *(["--model", model] if model else [])]))


def deciding(artifact: "Artifact", examples: "list[Example]") -> str:
    """The metric that the prompt was chosen by, or the one that fits its task."""
    from softprompt.metrics import find_metric, reported_metrics

    task = artifact.card.task
    counts = Counter(str(example.label) for example in examples)
    labels = task.labels or tuple(sorted(counts))
    known = artifact.card.report.get("metric")
    metric: str = known or reported_metrics(task.kind, labels, [counts[label] for label in labels])[0]
    find_metric(metric)  # a card is data from elsewhere: an unknown name is an error, not a crash
    return metric


def compared(prompt: "Prompt", examples: "list[Example]", metric: str) -> dict[str, Any]:
    """Scores of what needs no training data: the majority of these examples, and the bare model."""
    from softprompt.baselines import zero_shot
    from softprompt.evaluate import score
    from softprompt.metrics import majority_predictions

    kind = prompt.task.kind
    words = [len(example.label) if isinstance(example.label, tuple) else 0 for example in examples]
    answers: dict[str, list[Any] | None] = {
        "majority": majority_predictions(kind, [e.label for e in examples], len(examples), words=words),
        "zero-shot": zero_shot(prompt, examples),
    }
    return {name: score(kind, metric, a, examples).as_dict() for name, a in answers.items() if a is not None}


def predict(
    prompt: PromptFile,
    file: Source = "-",
    model: Model = None,
    output: Written = None,
    batch_size: BatchSize = 32,
    server: Annotated[str | None, typer.Option(help="Ask this server; PROMPT is then a name there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer every text of a file or of standard input."""
    if server is not None:
        from softprompt.cli import remote

        deliver(remote.predictions(server, prompt, file), output, as_json)
        return
    from softprompt.cli.load import bound, load, unlabelled

    artifact = load(prompt)
    data = unlabelled(artifact, file)
    ready = bound(artifact, model)
    remark(ready, data.examples, data.notes)
    deliver(ready.predict(data.examples, batch_size=batch_size), output, as_json)
    next_steps(shlex.join(["softprompt", "evaluate", prompt, "DATA", *(["--model", model] if model else [])]))


def generate(
    prompt: PromptFile,
    text: Annotated[str | None, typer.Argument(help="One text; standard input, one a line, if not given.")] = None,
    model: Model = None,
    most: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, help="Beam search with so many beams.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Sample; 0: the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample among so many tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the tokens of this probability.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End an answer at this text; repeatable.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling.")] = None,
    output: Written = None,
    as_json: AsJson = False,
) -> None:
    """Write an answer to a text or to every line of input."""
    from softprompt.cli.load import bound, load, one_text, unlabelled

    artifact = load(prompt)
    kind = artifact.card.task.kind
    if kind != "generation":
        raise RecipeError("SP-E254", f"a prompt for {kind}", "one for generation", f"softprompt predict {prompt}")
    examples = [one_text(artifact, text)] if text is not None else unlabelled(artifact, "-").examples
    ready = bound(artifact, model)
    remark(ready, examples, [])
    wishes = {
        "max_new_tokens": most,
        "beams": beams,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "stop": stop or None,
        "seed": seed,
    }
    chosen: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
    deliver(ready.predict(examples, **chosen), output, as_json)
    next_steps(shlex.join(["softprompt", "predict", prompt, "FILE", *(["--model", model] if model else [])]))


def remark(prompt: "Prompt", examples: "list[Example]", notes: list[str]) -> None:
    """Say how the data were read, and how many texts are too long."""
    for text in notes:
        note(text)
    cut = [row.cut for row in (prompt.row(example, labelled=False) for example in examples) if row.cut]
    if cut:
        note(f"{len(cut)} of {len(examples)} texts are too long and were cut, by {max(cut)} tokens at most")


def deliver(predictions: "list[Prediction] | list[Answered]", output: str | None, as_json: bool) -> None:
    r"""Answers into a file or onto standard output. In plain lines, a line break in an answer is written as \n."""
    answers = [{"answer": p.answer, **({"scores": p.scores} if p.scores else {})} for p in predictions]
    if output:
        from softprompt.files import write_atomically

        jsonl = output.lower().endswith((".jsonl", ".ndjson"))
        lines = [json.dumps(a, ensure_ascii=False) for a in answers] if jsonl else [line(p) for p in predictions]
        write_atomically(Path(output), "".join(f"{text}\n" for text in lines).encode())
        note(f"{len(answers)} answers in {output}")
    if as_json:
        document({"answers": answers})
    elif not output:
        for prediction in predictions:
            say(line(prediction))


def line(prediction: "Prediction | Answered") -> str:
    """An answer on one line; tags with spaces between them."""
    answer = prediction.answer
    text = " ".join(answer) if isinstance(answer, tuple) else f"{answer:.6g}" if isinstance(answer, float) else answer
    return text.replace("\n", "\\n")
