"""Guard-rails: what a plan and its untrained prompt say before the first step.

Thresholds are those of the project's survey of training issues unless a comment says otherwise. Nothing is checked
here that reading data, building a prompt or loading a file refuses already: those errors become findings by
`findings.of_error`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from softprompt.core import IGNORE, Row
from softprompt.data import leakage
from softprompt.doctor.findings import Finding, alarming, milder, ranked
from softprompt.engine import few, measured, trial
from softprompt.errors import TrainingError
from softprompt.heads import Verbalizer
from softprompt.optim import factor
from softprompt.plan import Plan
from softprompt.prompt import Prompt

STILL, SHORT = 0.5, 3.0  # sizes of its own that a prompt must be able to go: below it stays, and hardly gets there
TRY = 50  # steps under which a run is a try: it may move too little, and is not stopped for it
LEAP = 5.0  # embeddings that one step may move
SCALE = (0.2, 5.0)  # of the start, in embeddings
CUT = 0.01  # share of texts that may be cut
SHARE = 0.25  # of the context, for the prompt
APART, RARE = 0.25, 0.001  # share of examples whose class would have to change, and how rarely chance does that
LEAST = 24  # examples to choose the best state by: the accuracy of fewer is known to ±20 points
SLOW = ("optim.lr=auto", "optim.warmup=0.06")


def guard(prompt: Prompt, plan: Plan, rows: list[Row], listen: Callable[[dict[str, Any]], None]) -> None:
    """Tell `listen` what is wrong with a run that is about to begin; raise `TrainingError` where it would be lost.

    `rows` are the encoded training examples. Cut texts are left to the note that encoding makes of them.
    """
    for finding in examine(prompt, plan, rows):
        if finding.severity == "error":
            raise TrainingError("SP-E530", f"{finding.rule}: {finding.seen}", finding.threshold, finding.command())
        if finding.severity == "warning" and finding.rule != "overflow":
            listen({"event": "note", "text": f"doctor: {finding}", "finding": finding.as_dict()})


def examine(prompt: Prompt, plan: Plan, rows: list[Row] | None = None) -> list[Finding]:
    """Everything that shows before the first step, the first to mend first. The prompt is left as it was."""
    rows = [prompt.row(example) for example in plan.train] if rows is None else rows
    found = [*labels(prompt, plan), *leaks(plan), *supervision(rows), *gradients(prompt, rows), *scale(prompt, rows)]
    found += [*rates(prompt, plan), *lengths(prompt, rows), *sizes(plan), *padding(prompt)]
    return ranked(found)


def labels(prompt: Prompt, plan: Plan) -> Iterator[Finding]:
    """Classes that cannot be learnt or told apart; what data checks refuse does not come here."""
    if plan.kind != "classification":
        return
    counts = Counter(str(example.label) for example in plan.train)
    check = "softprompt data check DATA"
    if len(counts) == 1:
        seen = f"all {len(plan.train)} training examples are of class {next(iter(counts))[:40]!r}"
        yield Finding("labels", "error", seen, "2 classes or more", do=check)
    absent = [label for label in plan.labels if label not in counts]
    if absent and len(counts) > 1:
        seen = f"{len(absent)} of {len(plan.labels)} classes have no training example, such as {absent[0][:40]!r}"
        yield Finding("labels", "warning", seen, "1 example a class or more", do=check)
    yield from shift(counts, Counter(str(example.label) for example in plan.dev))
    if isinstance(prompt.head, Verbalizer) and not prompt.head.one_pass:
        yield from shared_starts(prompt.head, plan)


def shift(train: Counter[str], dev: Counter[str]) -> Iterator[Finding]:
    """Added: classes that are much commoner on dev than in train, or less, as where missing labels were filled in."""
    totals = train.total(), dev.total()
    shares = {label: (train[label] / totals[0], dev[label] / totals[1]) for label in train | dev}
    apart = sum(abs(a - b) for a, b in shares.values()) / 2
    if len(train) < 2 or apart <= APART:
        return
    from scipy.stats import chi2_contingency

    p = float(chi2_contingency([[train[label] for label in shares], [dev[label] for label in shares]]).pvalue)
    if p < RARE:
        label = max(shares, key=lambda name: abs(shares[name][0] - shares[name][1]))
        seen = f"{label[:40]!r} is {shares[label][0]:.0%} of train and {shares[label][1]:.0%} of dev (p = {p:.1g})"
        do = "softprompt data check DATA   # and read some rows: are labels missing, or filled in?"
        yield Finding("shift", "warning", seen, f"{APART:.0%} of the examples and p < {RARE:g}", do=do)


def shared_starts(head: Verbalizer, plan: Plan) -> Iterator[Finding]:
    """Class words of several tokens, and those of them that begin alike."""
    starts = Counter(word[0] for word in head.words)
    alike = [label for label, word in zip(plan.labels, head.words, strict=True) if starts[word[0]] > 1]
    if not alike:
        longest = max(map(len, head.words))
        seen = f"class words of up to {longest} tokens: {len(head.words)} passes answer one batch"
        yield Finding("labels", "info", seen, "1 token a word", settings=("task.head=classifier",))
        return
    seen = f"{len(alike)} class words begin with the same token, among them those of {', '.join(alike)[:80]}"
    yield Finding("labels", "warning", seen, "another first token for each class", settings=("task.head=classifier",))


def leaks(plan: Plan) -> Iterator[Finding]:
    """Examples that are both trained and scored on, where the recipe allows it; elsewhere the plan was refused."""
    if not plan.recipe.data.allow_leakage:
        return
    for name, part in (("dev", plan.dev), ("test", plan.test)):
        count = len(leakage(plan.train, part))
        if count:
            seen = f"{count} of {len(part)} {name} examples are in train"
            yield Finding("leak", "warning", seen, "0", settings=("data.allow_leakage=false",))


def supervision(rows: list[Row]) -> Iterator[Finding]:
    """Rows that no loss is read from."""
    empty = sum(1 for row in rows if row.target is None and not supervised(row))
    if empty:
        seen = f"{empty} of {len(rows)} training rows have no answer left after cutting"
        other = ("task.truncate=tail",)
        yield Finding("no-answer", "error", seen, "0 rows", settings=("task.max_tokens=null",), remedies=(other,))


def supervised(row: Row) -> bool:
    """Whether a row has a token to predict."""
    return any(label != IGNORE for label in (row.decoder or row).labels)


def gradients(prompt: Prompt, rows: list[Row]) -> Iterator[Finding]:
    """A backbone that is not frozen, a prompt that the loss does not depend on, a first loss that is no number."""
    model: Any = prompt.backbone.model
    open_ = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if open_:
        seen = f"{open_:,} trainable numbers in the backbone"
        yield Finding("frozen", "error", seen, "0", do="backbone.model.requires_grad_(False)")
        return
    shown = [row for row in rows if row.target is not None or supervised(row)]
    if not shown:
        return
    with trial(prompt):
        loss, gradient = gradient_of(prompt, few(shown))
    if not (loss.isfinite().all() and gradient.isfinite().all()):
        seen = f"loss {loss.item()} and gradient {gradient.norm().item()} before the first step"
        yield Finding("not-finite", "error", seen, "finite numbers", settings=("backbone.dtype=float32",))
    elif not gradient.any():
        seen = f"a gradient of 0 for all {gradient.numel():,} trained numbers"
        yield Finding("frozen", "error", seen, "more than 0", do="softprompt methods --model M")


def gradient_of(prompt: Prompt, rows: list[Row]) -> tuple[Tensor, Tensor]:
    """Loss [] and gradient [trained numbers]; zero where the loss depends on none of them."""
    trained = [weight for weight in prompt.parameters() if weight.requires_grad]
    with torch.no_grad():
        loss = prompt.loss(prompt.batch(rows))
    try:
        return measured(prompt, rows, packs=False)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        return loss, torch.zeros(sum(weight.numel() for weight in trained))


def scale(prompt: Prompt, rows: list[Row]) -> Iterator[Finding]:
    """Vectors in the text that begin in another scale than words."""
    ratio = size_of(prompt, rows)
    if ratio is not None and not SCALE[0] <= ratio <= SCALE[1]:
        seen = f"the prompt begins at {ratio:.3g} times the size of this model's word vectors"
        yield Finding("init-scale", "warning", seen, "0.2 to 5", settings=("init.kind=vocabulary", "init.source=null"))


@torch.no_grad()
def size_of(prompt: Prompt, rows: list[Row]) -> float | None:
    """The rms of the vectors that stand in the text, in embeddings; None for methods without any."""
    with trial(prompt):
        prompt.eval()
        embeds = prompt.inject(prompt.batch(rows[:1])).embeds
    return None if embeds is None else embeds.float().square().mean().sqrt().item() / prompt.backbone.spec.rms


def travel(prompt: Prompt, plan: Plan) -> float:
    """How far an Adam step a step can take the prompt, in its own size or that of embeddings, whichever is larger."""
    section = plan.recipe.optim
    assert section.lr != "auto"
    total = section.lr * sum(factor(section, step, plan.steps) for step in range(plan.steps))
    ways = [0.0]
    for group in prompt.method.groups():
        weights = [weight.detach().float().flatten() for weight in group.parameters if weight.numel()]
        if weights:
            ways.append(total * group.unit / max(group.unit, torch.cat(weights).square().mean().sqrt().item()))
    return max(ways)


def rates(prompt: Prompt, plan: Plan) -> Iterator[Finding]:
    """Rates that move the prompt too little in a run, or too much in a step.

    Deviation: `clip` does not make a large rate safe, because Adam's step is about the rate however small the gradient
    was made; so the step alone is looked at.
    """
    lr, way = plan.recipe.optim.lr, travel(prompt, plan)
    assert lr != "auto"
    if lr > LEAP:
        seen = f"one step moves the prompt by up to {lr:.3g} times an embedding"
        yield Finding("will-explode", "warning", seen, f"{LEAP:g}", settings=SLOW, remedies=(("optim.lr=0.1",),))
    if way >= SHORT:
        return
    seen = f"rate {lr:.3g} for {plan.steps} steps can move the prompt by at most {way:.2g} times its own size"
    more = (f"train.steps={max(4 * plan.steps, 200)}", "optim.lr=auto")
    found = Finding("cannot-move", "error", seen, f"{STILL:g} (stops), {SHORT:g} (warns)", "", ("optim.lr=auto",))
    few_steps = plan.steps < TRY
    found = Finding(**vars(found) | {"settings": more, "remedies": ()}) if few_steps else found
    # A try of a few steps loses nothing, and a prompt that was trained before may be meant to stay near where it is.
    yield found if way < STILL and not few_steps and plan.recipe.init.kind != "prompt" else milder(found)


def lengths(prompt: Prompt, rows: list[Row]) -> Iterator[Finding]:
    """Texts that are cut, and a prompt that takes the place of text."""
    cut = sum(1 for row in rows if row.cut)
    limit: int | None = getattr(prompt.template, "limit", None)
    if cut:
        most, share = max(row.cut for row in rows), cut / len(rows)
        seen = f"{cut} of {len(rows)} training texts ({share:.0%}) are cut, by up to {most} tokens, to fit {limit}"
        settings = ("task.max_tokens=null",)
        other = (("task.truncate=head",), ("method.length=5",))
        severity: Any = "warning" if share > CUT else "info"
        yield Finding("overflow", severity, seen, f"{CUT:.0%} of the texts", settings=settings, remedies=other)
    if limit is not None and limit < 10**9 and prompt.method.length > SHARE * limit:
        seen = f"{prompt.method.length} prompt vectors in a context of {limit} tokens"
        shorter = (f"method.length={max(1, int(SHARE * limit / 2))}",)
        yield Finding("context-share", "warning", seen, f"{SHARE:.0%} of the context", settings=shorter)


def sizes(plan: Plan) -> Iterator[Finding]:
    """Too few examples to choose the best state by."""
    count = len(plan.dev)
    if count < LEAST:
        seen = f"{count} dev examples: an accuracy of 0.5 is known to ±{0.98 / count**0.5:.2f} there"
        yield Finding("small-eval", "warning", seen, f"{LEAST} examples", settings=("data.split=[0.6, 0.2, 0.2]",))


def padding(prompt: Prompt) -> Iterator[Finding]:
    """What stands for padding where the tokenizer names none."""
    tokenizer = prompt.backbone.tokenizer
    if prompt.backbone.spec.kind != "vision" and tokenizer is not None and tokenizer.pad_token_id is None:
        seen = "no pad token: id 0 stands there, masked in attention and loss"
        yield Finding("padding", "info", seen, "nothing to do", do="softprompt train RECIPE")


__all__ = ["alarming", "examine", "guard"]
