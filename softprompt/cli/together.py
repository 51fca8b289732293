"""`softprompt ensemble`: several prompts of one task, asked in one forward, and what their vote is worth."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.options import AsJson, BatchSize, Model
from softprompt.cli.output import document, note, say, table
from softprompt.cli.summary import number
from softprompt.cli.use import Written, deciding, deliver

if TYPE_CHECKING:
    from softprompt.core import Example
    from softprompt.ensemble import Ensemble
    from softprompt.prompt import Prediction

BEST = "best member (chosen on these examples: not an honest number)"


def ensemble(
    prompts: Annotated[list[str], typer.Argument(help="Two prompt files or more.", metavar="PROMPT...")],
    data: Annotated[str, typer.Option(help="Labelled data; with --no-score, texts to answer.", metavar="DATA")],
    vote: Annotated[
        str | None, typer.Option(help="majority or mean (of probabilities); majority if not given.", metavar="VOTE")
    ] = None,
    score: Annotated[bool, typer.Option(help="Score the answers; without, labels are not needed.")] = True,
    model: Model = None,
    output: Written = None,
    batch_size: BatchSize = 32,
    as_json: AsJson = False,
) -> None:
    """Answer with several prompts at once, by vote."""
    from softprompt.cli.load import labelled, load, open_model, unlabelled
    from softprompt.ensemble import Ensemble

    artifacts = [load(path) for path in prompts]
    read = (labelled if score else unlabelled)(artifacts[0], data)
    backbone = open_model(artifacts[0], model)
    joint = Ensemble([artifact.bind(backbone) for artifact in artifacts], vote=vote)  # type: ignore[arg-type]
    for text in read.notes:
        note(text)
    members, answers = joint.answer(read.examples, batch_size=batch_size)
    if output or not score:
        deliver(answers, output, as_json and not score)
    if not score:
        return
    report: dict[str, Any] = {"prompts": prompts, "data": data, "vote": joint.vote}
    report |= compared(joint, read.examples, members, answers, deciding(artifacts[0], read.examples))
    if as_json:
        document(report)
    else:
        show(report, f"{data}, {len(read.examples)} examples")


def compared(
    joint: "Ensemble",
    examples: "list[Example]",
    members: "list[list[Prediction]]",
    answers: "list[Prediction]",
    metric: str,
) -> dict[str, Any]:
    """Every member, their mean, the best of them on these examples, and the ensemble, by the deciding metric.

    The ± of the mean is the larger of two: over examples, and, from three members on, over members.
    """
    from softprompt.evaluate import score, scores
    from softprompt.metrics import find_metric, over_seeds

    alone = [score(joint.task.kind, metric, [p.answer for p in own], examples) for own in members]
    mean = over_seeds(alone)
    over_examples = sum(one.error for one in alone) / len(alone)
    error = max(over_examples, mean.error if len(alone) > 2 else 0.0)
    best = (max if find_metric(metric).higher_is_better else min)(alone, key=lambda one: one.value)
    return {
        "metric": metric,
        "scores": [one.as_dict() for one in scores(joint, examples, metric, answers)],
        "members": [one.as_dict() for one in alone],
        "mean_member": mean.as_dict() | {"error": error},
        "best_member": best.as_dict() | {"member": alone.index(best), "chosen_on": "these examples"},
    }


def show(report: dict[str, Any], title: str) -> None:
    """The report as a table, and what the vote is worth in one sentence."""
    first, *others = report["scores"]
    rows = [[f"ensemble of {len(report['members'])}, by {report['vote']}", number(first)]]
    rows += [[path, number(one)] for path, one in zip(report["prompts"], report["members"], strict=True)]
    rows += [["mean member", number(report["mean_member"])], [BEST, number(report["best_member"])]]
    table([title, first["name"]], rows)
    if others:
        say("also: " + ", ".join(f"{score['name']} {score['value']:.3f} ±{score['error']:.3f}" for score in others))
    gaps = [first["value"] - report[name]["value"] for name in ("mean_member", "best_member")]
    say(f"the vote is {gaps[0]:+.3f} from the mean member and {gaps[1]:+.3f} from the best one")
