"""A request as rows of the backbone, and rows' outputs as its answer: the same for every way of running them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from softprompt.core import IGNORE, Batch, Example, Output, Row
from softprompt.errors import DataError
from softprompt.heads import Classifier, Head, Regressor, Tagger, Verbalizer, pooled
from softprompt.prompt import Prediction, Prompt
from softprompt.serve.contract import Kind, Request, Scored, ServeError
from softprompt.serve.engine.trouble import not_finite


def kind_of(head: Head) -> Kind:
    """What a head answers."""
    if isinstance(head, Classifier | Verbalizer):
        return "label"
    return "tags" if isinstance(head, Tagger) else "number" if isinstance(head, Regressor) else "write"


def ranked(prompt: Prompt, kind: Kind) -> bool:
    """Whether an answer takes a row for every class, because class words have several tokens."""
    return kind == "label" and isinstance(prompt.head, Verbalizer) and not prompt.head.one_pass


def rows_of(prompt: Prompt, request: Request) -> list[Row]:
    """The rows of a request: one, or one a class. Raises `ServeError` or `DataError` for what cannot be answered."""
    check_kind(prompt, request)
    check_fields(prompt, request)
    example = Example(dict(request.fields))
    if request.kind == "embedding":
        row = prompt.template.encode(example)
        return [replace(row, labels=[], decoder=None)]
    if ranked(prompt, request.kind):
        assert isinstance(prompt.head, Verbalizer)
        return [prompt.asked(example, word) for word in prompt.head.every]
    return [prompt.row(example, labelled=False)]


def check_kind(prompt: Prompt, request: Request) -> None:
    """Raise `ServeError` where the task answers something else than is asked."""
    answers = kind_of(prompt.head)
    if request.kind not in (answers, "embedding"):
        raise ServeError(
            "SP-E704",
            f"a request of kind {request.kind!r} for task {request.task!r}",
            f"{answers!r} or 'embedding', which this task answers",
            f"ask for {answers!r}",
            trouble="invalid_request",
        )


def check_fields(prompt: Prompt, request: Request) -> None:
    """Raise `DataError` for fields that the template does not read: ignored input is an error."""
    fields = prompt.template.fields
    for name, value in request.fields.items():
        if name not in fields:
            raise DataError("SP-E112", f"field {name[:80]!r}", f"only {', '.join(fields)}", "leave it out")
        if not isinstance(value, str) and not (isinstance(value, tuple) and all(isinstance(v, str) for v in value)):
            raise DataError("SP-E122", f"{type(value).__name__} in {name!r}", "text or words", "write text")


def reads_hidden(prompt: Prompt, kind: Kind) -> bool:
    """Whether an answer is read from states rather than from logits."""
    return kind == "embedding" or prompt.head.reads == "hidden"


def labelled(row: Row) -> list[int]:
    """The columns of a row (of its decoder, where there is one) at which its answer is predicted."""
    return [i for i, label in enumerate((row.decoder or row).labels) if label != IGNORE]


def scored(prompt: Prompt, kind: Kind, rows: Sequence[Row], outputs: Sequence[Tensor]) -> Scored:
    """The answer to a request from the output of each of its rows: states [T, S], or logits [J, V] where labels are.

    Raises `ServeError` where an output is not finite, because argmax would make an answer of it.
    """
    for output in outputs:
        finite(output)
    if kind == "label" and isinstance(prompt.head, Verbalizer) and prompt.head.one_pass and rows[0].decoder is None:
        # One row with one label: what is asked of its only logits needs no batch.
        return as_scored(prompt.named(prompt.head.chances(outputs[0][:1]))[0], kind)
    batches = [prompt.batch([row]) for row in rows]
    if kind == "embedding":
        states = pooled(Output(hidden=outputs[0][None]), batches[0], "mean")[0]
        return Scored(embedding=tuple(states.tolist()))
    made = [output_of(prompt, row, output) for row, output in zip(rows, outputs, strict=True)]
    if ranked(prompt, kind):
        answer = prompt.named(by_rank(prompt, made, batches))[0]
    else:
        answer = prompt.told(made[0], batches[0], rows)[0]
    return as_scored(answer, kind)


def by_rank(prompt: Prompt, outputs: Sequence[Output], batches: Sequence[Batch]) -> Tensor:
    """Log-probabilities of the classes [1, C], as `Prompt.ranked` makes them."""
    assert isinstance(prompt.head, Verbalizer)
    each = [prompt.head.sequence_scores(o, batch) for o, batch in zip(outputs, batches, strict=True)]
    return prompt.head.wording(torch.stack(each, 1))  # type: ignore[no-any-return]


def output_of(prompt: Prompt, row: Row, output: Tensor) -> Output:
    """What a head reads, of one row."""
    if prompt.head.reads == "hidden":
        return Output(hidden=output[None])
    return Output(logits=output[None], columns=torch.tensor(labelled(row), device=output.device))


def as_scored(answer: Prediction, kind: Kind) -> Scored:
    """A prediction as a piece of the contract."""
    if kind == "tags":
        assert isinstance(answer.answer, tuple)
        return Scored(tags=answer.answer)
    if kind == "number":
        return Scored(number=float(answer.answer))  # type: ignore[arg-type]
    return Scored(label=str(answer.answer), probabilities=answer.scores)


def finite(output: Tensor) -> None:
    """Raise `ServeError` where a row came out as NaN or infinity."""
    if not bool(output.isfinite().all()):
        raise not_finite()
