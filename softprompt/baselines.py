"""What a trained prompt has to beat: the majority, the bare model asked in words, itself untrained, a linear probe."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.choices import spoken
from softprompt.core import Example, Injection, Row
from softprompt.heads import Classifier, LanguageModel, Regressor, Tagger, Verbalizer, pooled
from softprompt.metrics import majority_predictions
from softprompt.plan import Plan
from softprompt.prompt import Prompt, by_length, without_prompt

ROWS = 64  # rows of one forward


def majority(plan: Plan, examples: Sequence[Example]) -> list[Any]:
    """Answers that ignore the input, from the training labels alone."""
    words = [len(example.label) if isinstance(example.label, tuple) else 0 for example in examples]
    labels = [example.label for example in plan.train]
    answers: list[Any] = majority_predictions(plan.kind, labels, len(examples), words=words)
    return answers


def zero_shot(prompt: Prompt, examples: Sequence[Example]) -> list[Any] | None:
    """Answers of the bare backbone asked in words; None where it cannot be asked.

    With a head that reads words, the template without its slots is the question. For trained heads over an encoder, it
    is the class whose name has the state nearest to the text's (cosine of mean states).
    """
    if isinstance(prompt.head, LanguageModel):
        return [p.answer for p in without_prompt(prompt).predict(examples)]
    if not isinstance(prompt.head, Classifier) or prompt.backbone.spec.kind != "encoder":
        return None
    names = [Example({name: spoken(label) for name in prompt.template.fields}) for label in prompt.task.labels]
    similar = F.normalize(states(prompt, examples), dim=1) @ F.normalize(states(prompt, names), dim=1).T
    return [prompt.task.labels[i] for i in similar.argmax(1).tolist()]


def probe(prompt: Prompt, plan: Plan, examples: Sequence[Example]) -> list[Any] | None:
    """Answers of a logistic (or ridge) regression on the frozen states of the bare backbone; None for other heads."""
    if isinstance(prompt.head, Tagger | LanguageModel) and not isinstance(prompt.head, Verbalizer):
        return None
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, test = states(prompt, plan.train).numpy(), states(prompt, examples).numpy()
    if isinstance(prompt.head, Regressor):
        numbers = [float(str(example.label)) for example in plan.train]
        ridge = make_pipeline(StandardScaler(), RidgeCV([0.1, 1, 10, 100, 1000])).fit(train, numbers)
        return [float(x) for x in ridge.predict(test)]
    labels = [str(example.label) for example in plan.train]
    if len(set(labels)) == 1:  # nothing to tell apart
        return [labels[0]] * len(examples)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return [str(label) for label in model.fit(train, labels).predict(test)]


@torch.inference_mode()
def states(prompt: Prompt, examples: Sequence[Example]) -> Tensor:
    """Pooled hidden states [N, H] of the bare backbone, on the CPU: the last token for causal models, else the mean."""
    bare = without_prompt(prompt)
    rows = [plain(bare, example) for example in examples]
    pool = "last" if prompt.backbone.spec.kind == "causal" else "mean"
    found: list[Tensor | None] = [None] * len(rows)
    for chosen in by_length(rows, ROWS):
        batch = bare.batch([rows[i] for i in chosen])
        made = pooled(prompt.backbone(batch, Injection()), batch, pool).float().cpu()  # type: ignore[arg-type]
        for i, state in zip(chosen, made, strict=True):
            found[i] = state
    return torch.stack([state for state in found if state is not None])


def plain(bare: Prompt, example: Example) -> Row:
    """A row with the input alone: no answer, no label."""
    return replace(bare.template.encode(example), labels=[], decoder=None)
