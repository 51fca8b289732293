"""What a trained classifier answers: always the same, right only where it was trained, or by how a text is written."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from softprompt.core import Example
from softprompt.doctor.findings import DEEP, LOWER, Finding
from softprompt.doctor.trace import Trace
from softprompt.evaluate import score
from softprompt.metrics import paired
from softprompt.plan import Plan
from softprompt.prompt import Prompt

SAME = 0.97  # share of the commonest answer
HEART = 0.10  # train over dev score
FEW = (500, 32)  # training examples in all and a class
SHOWN, REWRITTEN = 128, 32  # examples that are answered again, and again in every other form
CERTAIN = 0.05 / 4  # p of a fall of the score, over four forms (Bonferroni)
FORMS: dict[str, Callable[[str], str]] = {
    "in lower case": str.lower,
    "in quotation marks": '"{}"'.format,
    'behind "Text:"': "Text: {}".format,
    "with a line break after it": "{}\n".format,
}


def examine(prompt: Prompt, plan: Plan, trace: Trace) -> Iterator[Finding]:
    """Everything that answers to dev and training examples show; nothing for tasks without classes."""
    if plan.kind != "classification":
        return
    dev, train = plan.dev[:SHOWN], plan.train[:SHOWN]
    answers = told(prompt, dev)
    same = [*constant(answers, dev), *stuck(plan, trace)][:1]
    yield from same
    if not same:
        yield from by_heart(rate(answers, dev), rate(told(prompt, train), train), plan)
        yield from forms(prompt, dev[:REWRITTEN], answers)


def constant(answers: Sequence[str], dev: Sequence[Example]) -> Iterator[Finding]:
    """Nearly all answers are one class."""
    label, count = Counter(answers).most_common(1)[0]
    usual = Counter(str(e.label) for e in dev).most_common(1)[0][1] / len(dev)
    if count > SAME * len(dev) and usual <= SAME:
        yield majority(f"{count} of {len(dev)} dev answers are {label[:40]!r}, the class of {usual:.0%}", "of answers")


def stuck(plan: Plan, trace: Trace) -> Iterator[Finding]:
    """More than half of the evaluations on dev, two at least, are exactly those of one answer to everything.

    The state that is kept is the best of all, so that its answers alone may look better than the run was.
    """
    metric = plan.recipe.task.metric
    found = [event[metric] for event in trace.dev if metric in event]
    for label in plan.labels if len(found) > 1 else ():
        value = score(plan.kind, metric, [label] * len(plan.dev), plan.dev, draws=2).value
        count = sum(abs(one - value) < 1e-9 for one in found)
        if count > max(1, len(found) / 2):
            seen = (
                f"{count} of {len(found)} dev scores are {metric} {value:.3f}, that of always answering {label[:40]!r}"
            )
            yield majority(seen, "of answers, or half of the dev scores")


def majority(seen: str, of: str) -> Finding:
    """The finding of a prompt that says one thing."""
    remedies = (("init.kind=labels",), DEEP)
    return Finding("majority", "warning", seen, f"{SAME:.0%} {of}", settings=LOWER, remedies=remedies)


def by_heart(dev: float, train: float, plan: Plan) -> Iterator[Finding]:
    """Few examples, right in training and wrong on dev, beyond chance."""
    counts = min(SHOWN, len(plan.dev)), min(SHOWN, len(plan.train))
    doubt = 1.96 * (dev * (1 - dev) / counts[0] + train * (1 - train) / counts[1]) ** 0.5
    classes = len({str(example.label) for example in plan.train})
    if train - dev > max(HEART, doubt) and (len(plan.train) < FEW[0] or len(plan.train) < FEW[1] * classes):
        seen = f"{train:.0%} right on train, {dev:.0%} on dev, with {len(plan.train)} training examples"
        do = "softprompt store search   # for a prompt of a similar task, then --set init.source=NAME"
        shorter = (("method.length=5",), ("train.patience=3",))
        yield Finding("few-examples", "warning", seen, f"{HEART:.0%} and its ±", do=do, remedies=shorter)


def forms(prompt: Prompt, dev: Sequence[Example], answers: Sequence[str]) -> Iterator[Finding]:
    """The form of a text, other than in training, that costs most; worth knowing, not an illness.

    Deviation: texts are rewritten, not the template, which is stored in the prompt and cannot differ in use.
    """
    before = right(answers[: len(dev)], dev)
    found = {}
    for name, write in FORMS.items():
        after = told(prompt, [Example({k: rewritten(v, write) for k, v in e.fields.items()}, e.label) for e in dev])
        found[name] = paired(before, right(after, dev))
    worst = max(found, key=lambda name: found[name].difference)
    if found[worst].difference > 0 and found[worst].p < CERTAIN:
        lost = f"{100 * found[worst].difference:.0f} points"
        seen = f"{lost} fewer of {len(dev)} dev examples are right {worst} (p = {found[worst].p:.2g})"
        do = "softprompt show PROMPT   # the template: send texts as they were written in training"
        yield Finding("format", "info", seen, f"p < {CERTAIN:.2g}", do=do)


def rewritten(value: str | tuple[str, ...], write: Callable[[str], str]) -> str | tuple[str, ...]:
    """A field in another form; what is no text stays."""
    return write(value) if isinstance(value, str) else value


def told(prompt: Prompt, examples: Sequence[Example]) -> list[str]:
    """The answers to examples."""
    return [str(prediction.answer) for prediction in prompt.predict(examples)]


def right(answers: Sequence[str], examples: Sequence[Example]) -> list[float]:
    """1 for every answer that is the label, 0 for the others."""
    return [float(answer == str(example.label)) for answer, example in zip(answers, examples, strict=True)]


def rate(answers: Sequence[str], examples: Sequence[Example]) -> float:
    """The share of answers that are the label."""
    return sum(right(answers, examples)) / len(answers)
