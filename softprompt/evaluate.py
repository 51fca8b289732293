"""How good a prompt is: every metric with ± and n, and beside it what it has to beat."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from softprompt import baselines
from softprompt.core import Example
from softprompt.data import TaskKind
from softprompt.heads import LanguageModel, Verbalizer
from softprompt.metrics import Score, find_metric, reported_metrics
from softprompt.plan import Plan
from softprompt.prompt import Prediction, Prompt, by_length

if TYPE_CHECKING:
    from softprompt.comparators import Comparator
    from softprompt.ensemble import Ensemble


@dataclass(frozen=True)
class Report:
    """The numbers of a run, on examples that were used for nothing else."""

    scores: list[Score]  # the deciding metric first
    baselines: dict[str, Score]  # the same metric for what the prompt has to beat
    metric: str
    parameters: int  # trained numbers
    seconds: float = 0.0  # training, evaluation and baselines of this process
    dev: list[dict[str, Any]] = field(default_factory=list)  # the history of dev scores
    trained: "dict[str, tuple[Score, Comparator]]" = field(default_factory=dict)  # what else was trained on the plan

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values. Keys that begin with `seconds` are the only ones that differ in a repetition."""
        beside = {name: score.as_dict() | made.facts() for name, (score, made) in self.trained.items()}
        clock = {name: round(made.seconds, 1) for name, (_, made) in self.trained.items()}
        return {
            "metric": self.metric,
            "scores": [score.as_dict() for score in self.scores],
            "baselines": {name: score.as_dict() for name, score in self.baselines.items()},
            "parameters": self.parameters,
            "seconds": round(self.seconds, 1),
            "dev": self.dev,
        } | ({"comparators": beside, "seconds_of_comparators": clock} if beside else {})


def references(kind: TaskKind, examples: Sequence[Example]) -> list[Any]:
    """The right answers, as the metrics want them."""
    if kind == "regression":
        return [float(str(example.label)) for example in examples]
    return [example.label for example in examples]


def score(kind: TaskKind, metric: str, answers: Sequence[Any], examples: Sequence[Example], **options: Any) -> Score:
    """One metric of answers [N] to examples [N], with its interval."""
    return find_metric(metric)(answers, references(kind, examples), **options)


def scores(
    prompt: "Prompt | Ensemble", examples: Sequence[Example], first: str, predictions: Sequence[Prediction]
) -> list[Score]:
    """Every metric of the task, the deciding one first."""
    kind = prompt.task.kind
    counts = Counter(str(example.label) for example in examples)
    labels = prompt.task.labels or tuple(sorted(counts))
    reported = reported_metrics(kind, labels, [counts[label] for label in labels])
    names = [first, *(name for name in reported if name != first)]
    answers = [prediction.answer for prediction in predictions]
    return [score(kind, name, answers, examples) for name in names]


@torch.inference_mode()
def mean_loss(prompt: Prompt, examples: Sequence[Example], batch_size: int) -> float:
    """The loss per label over examples, as in training."""
    prompt.eval()
    rows = [prompt.row(example) for example in examples]
    total, count = 0.0, 0
    for chosen in by_length(rows, batch_size):
        batch = prompt.batch([rows[i] for i in chosen])
        total += prompt.loss(batch).item()
        count += prompt.head.count(batch)
    return total / max(1, count)


@torch.inference_mode()
def judged(prompt: Prompt, examples: Sequence[Example], batch_size: int) -> tuple[float, list[Prediction]]:
    """The loss per label and the answers; of one pass, where the logits of one answer score every class."""
    if isinstance(prompt.head, Verbalizer) and not prompt.head.one_pass:
        return mean_loss(prompt, examples, batch_size), prompt.predict(examples, batch_size=batch_size)
    prompt.eval()
    rows = [prompt.row(example) for example in examples]
    answers: dict[int, Prediction] = {}
    total, count = 0.0, 0
    for chosen in by_length(rows, batch_size):
        picked = [rows[i] for i in chosen]
        batch = prompt.batch(picked)
        loss, output, seen = prompt.judge(batch)
        total += loss.item()
        count += prompt.head.count(batch)
        answers |= zip(chosen, prompt.told(output, seen, picked), strict=True)
    return total / max(1, count), [answers[i] for i in range(len(rows))]


def dev_score(prompt: Prompt, plan: Plan) -> dict[str, Any]:
    """The metric and the loss on dev, and the key that decides which state is best.

    Writing answers is slow, so generation is judged by its loss; everything else by the metric, ties by the loss.
    """
    size = 2 * plan.recipe.train.batch_size
    if isinstance(prompt.head, LanguageModel) and not isinstance(prompt.head, Verbalizer):
        loss = mean_loss(prompt, plan.dev, size)
        return {"loss": loss, "key": [-loss]}
    metric = plan.recipe.task.metric
    loss, predictions = judged(prompt, plan.dev, size)
    answers = [prediction.answer for prediction in predictions]
    found = score(plan.kind, metric, answers, plan.dev, draws=2).value
    signed = found if find_metric(metric).higher_is_better else -found
    return {"loss": loss, metric: found, "key": [signed, -loss]}


def evaluate(
    prompt: Prompt,
    plan: Plan,
    *,
    untrained: dict[str, Tensor],
    history: list[dict[str, Any]],
    listen: Callable[[dict[str, Any]], None],
) -> Report:
    """Test scores of a trained prompt, of its baselines, and of what `train.compare` names, which is trained here.

    `untrained` are the prompt's tensors before the first step.
    """
    metric, test = plan.recipe.task.metric, plan.test
    found = scores(prompt, test, metric, prompt.predict(test))
    trained = {name: value.detach().cpu().clone() for name, value in prompt.state_dict().items()}
    beside: dict[str, Score] = {}
    compared: dict[str, Callable[[], list[Any] | None]] = {
        "majority": lambda: baselines.majority(plan, test),
        "zero-shot": lambda: baselines.zero_shot(prompt, test),
        "untrained prompt": lambda: as_before(prompt, untrained, test),
        "linear probe": lambda: baselines.probe(prompt, plan, test),
    }
    for name, answer in compared.items():
        answers = answer()
        if answers is not None:
            beside[name] = score(plan.kind, metric, answers, test)
            listen({"event": "baseline", "name": name, "score": beside[name]})
    prompt.load_state_dict(trained)
    more = dict(compare(prompt, plan, listen)) if plan.recipe.train.compare else {}
    return Report(
        scores=found,
        baselines=beside,
        metric=metric,
        parameters=sum(weight.numel() for weight in prompt.parameters()),
        dev=[{key: value for key, value in event.items() if key not in ("event", "key")} for event in history],
        trained=more,
    )


def compare(
    prompt: Prompt, plan: Plan, listen: Callable[[dict[str, Any]], None]
) -> "Iterator[tuple[str, tuple[Score, Comparator]]]":
    """Train each comparator of the recipe over a copy of the prompt's backbone: its name, test score and cost."""
    from softprompt.comparators import NAMES, fine_tune  # which trains, and so comes here for dev scores

    for kind in plan.recipe.train.compare:
        listen({"event": "note", "text": f"now {NAMES[kind]}, on the same plan"})
        made = fine_tune(plan, prompt.backbone, kind=kind)
        found = score(plan.kind, plan.recipe.task.metric, made.answers, plan.test)
        listen({"event": "baseline", "name": NAMES[kind], "score": found})
        yield NAMES[kind], (found, made)


def as_before(prompt: Prompt, untrained: dict[str, Tensor], examples: Sequence[Example]) -> list[Any]:
    """Answers of the prompt as it was before the first step."""
    prompt.load_state_dict(untrained)
    return [prediction.answer for prediction in prompt.predict(examples)]
