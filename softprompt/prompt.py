"""A prompt in use: a method, a head and a template, bound to a frozen backbone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.backbones import Backbone
from softprompt.collate import collate, pack
from softprompt.core import IGNORE, Batch, Example, Injection, Output, Row, move
from softprompt.data import TaskKind
from softprompt.errors import DataError, near
from softprompt.heads import Classifier, Head, LanguageModel, Regressor, Tagger, Verbalizer, columns
from softprompt.lessons import lesson_loss, with_lesson
from softprompt.methods import Group, Method
from softprompt.template import Template


@dataclass(frozen=True)
class Task:
    """What is asked of the backbone: the kind of answer and the names it may have."""

    kind: TaskKind
    labels: tuple[str, ...] = ()  # class names or tags, in the order of the head's outputs
    new_tokens: int = 64  # most tokens of a generated answer


@dataclass(frozen=True)
class Prediction:
    """One answer: a class name, a number, a text, or a tag for every word."""

    answer: str | float | tuple[str, ...]
    scores: dict[str, float] = field(default_factory=dict)  # probability by class, for classification


class Prompt(nn.Module):
    """Everything that turns examples into answers. Its trainable parameters are those of the method and the head."""

    def __init__(self, backbone: Backbone, method: Method, head: Head, template: Any, task: Task) -> None:
        super().__init__()
        self.__dict__["backbone"] = backbone  # not a submodule: it is frozen, shared, and never saved
        self.method, self.head = method.to(backbone.device), head.to(backbone.device)
        self.template: Template = template
        self.task = task
        self.index = {label: i for i, label in enumerate(task.labels)}
        self.packs = False  # True: `loss` runs a batch as one row, where the backbone can (softprompt.engine)
        self.fronts = False  # True: `loss` runs what all rows begin with once, where the backbone can
        self.parts = False  # True: a batch of training is run in parts of about the same length (softprompt.engine)
        self.fewest = 2  # rows of a batch that runs as one row: one has nothing to share, unless others stand beside it

    backbone: Backbone

    @property
    def alone(self) -> "Prompt":
        """The same prompt on the frozen backbone, without what may be trained beside it (`softprompt.joint`)."""
        return self

    def groups(self) -> list[Group]:
        """What is trained, by learning rate; the head has a rate of its own."""
        return self.method.groups()

    def row(self, example: Example, *, labelled: bool = True) -> Row:
        """One encoded example; without `labelled`, the label is not looked at.

        Raises `DataError` for labels that the task does not know and for text that leaves no room.
        """
        if isinstance(self.head, Verbalizer):
            known = self.class_of(example) if labelled else 0  # any word marks the place of the answer
            row = self.asked(example, self.head.words[known])
            return replace(row, target=known) if labelled else row
        if isinstance(self.head, LanguageModel):
            if labelled:
                return self.template.encode(example, self.written_out(example))
            # A text may fill the context up, but an answer needs some of it too.
            return self.template.encode(example, room=min(self.task.new_tokens, self.template.limit // 4))
        row = self.template.encode(example)
        if isinstance(self.head, Tagger):
            self.check_words(example, row)
            return replace(row, labels=self.tags(example, row) if labelled else [])
        row = replace(row, labels=[])
        if not labelled:
            return row
        return replace(row, target=self.number(example) if isinstance(self.head, Regressor) else self.class_of(example))

    def asked(self, example: Example, word: list[int]) -> Row:
        """An example with the tokens of a class word as answer; its text is cut alike for every word."""
        assert isinstance(self.head, Verbalizer)
        longest = max(len(ids) for ids in self.head.every)
        return self.template.encode(example, word, close=False, room=longest)

    def written_out(self, example: Example) -> list[int]:
        """The token ids of an example's answer text."""
        label = example.label if isinstance(example.label, str) else ""
        answer = self.template.continue_with(label)
        if not answer or not label.strip():
            raise DataError(
                "SP-E120", f"answer {example.label!r}"[:120], "a text", "add it or remove the row", where=example.where
            )
        return answer

    def class_of(self, example: Example) -> int:
        """The index of an example's label."""
        label = str(example.label)
        if label not in self.index:
            known = list(self.task.labels)
            raise DataError(
                "SP-E124",
                f"label {label[:80]!r}{near(label, known)}",
                f"one of {', '.join(known[:20])}",
                "mend the label, or list it in task.labels",
                where=example.where,
            )
        return self.index[label]

    def number(self, example: Example) -> float:
        """The target of an example, for regression."""
        try:
            value = float(example.label)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            found = f"target {example.label!r}"[:120]
            raise DataError("SP-E128", found, "a finite number", "mend the row", where=example.where)
        return value

    def check_words(self, example: Example, row: Row) -> None:
        """Raise `DataError` where a text to be tagged is not split into words."""
        if not row.words:
            found, do = "a text that is not split into words", 'give a list of words, as in ["A", "word"]'
            raise DataError("SP-E122", found, "words to tag", do, where=example.where)

    def tags(self, example: Example, row: Row) -> list[int]:
        """A tag at the first token of every word that was not cut off, IGNORE elsewhere."""
        labels = [IGNORE] * len(row.ids)
        given = example.label if isinstance(example.label, tuple) else ()
        if len(given) != len(row.words):
            raise DataError(
                "SP-E127",
                f"{len(given)} tags for {len(row.words)} words",
                "one tag a word",
                "mend the sentence",
                where=example.where,
            )
        for place, tag in zip(row.words, given, strict=True):
            if place >= 0:
                labels[place] = self.class_of(replace(example, label=tag))
        return labels

    def batch(self, rows: Sequence[Row], side: str = "right") -> Batch:
        """Rows as one batch on the backbone's device."""
        batch = collate(list(rows), self.template.filler, side)  # type: ignore[arg-type]
        if self.packs or self.fronts:
            packing = pack(batch, self.fewest, shares=self.backbone.spec.kind == "causal")
            batch = replace(batch, packing=packing and replace(packing, fronted=not self.packs))
        return move(batch, self.backbone.device)

    def inject(self, batch: Batch) -> Injection:
        """What the method adds to a batch."""
        if batch.pixels is None:
            text = self.backbone.tokens(batch.input_ids)
        else:  # images have no token embeddings to look at
            text = batch.pixels.new_zeros(*batch.input_ids.shape, self.backbone.spec.hidden)
        return self.method(batch, text)  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> Output:
        """The part of the backbone's output that the head reads."""
        return self.answer(batch, self.inject(batch))

    def answer(self, batch: Batch, injection: Injection) -> Output:
        """As `forward`, with an injection that was made before."""
        wanted = columns(batch) if self.head.reads == "logits" else None
        if injection.lesson is not None:
            wanted = with_lesson(batch, injection.lesson, wanted)
        output: Output = self.backbone(batch, injection, columns=wanted)
        return output

    def outcome(self, batch: Batch, injection: Injection) -> tuple[Output, Batch]:
        """As `answer`, from one row where the batch is packed; and the batch as the head has to see it then."""
        if batch.packing is not None and batch.packing.fronted and not self.backbone.unfronted(batch, injection):
            wanted = columns(batch) if self.head.reads == "logits" else None
            return self.backbone.behind(batch, injection, wanted), batch
        if batch.packing is None or self.backbone.unpackable(batch, injection):
            return self.answer(batch, injection), batch
        logits = self.head.reads == "logits"
        seen = replace(batch, labels=batch.packing.labels) if logits else batch  # every label is a row of its own
        return self.backbone.packed(batch, injection, logits=logits), seen

    def loss(self, batch: Batch, injection: Injection | None = None) -> Tensor:
        """The summed loss [] of a batch; divide by `head.count`. An injection that was made before is used as it is."""
        return self.judge(batch, injection)[0]

    def judge(self, batch: Batch, injection: Injection | None = None) -> tuple[Tensor, Output, Batch]:
        """The summed loss [], and what it was read from."""
        injection = self.inject(batch) if injection is None else injection
        output, seen = self.outcome(batch, injection)
        return self.weigh(batch, injection, output, seen), output, seen

    def weigh(self, batch: Batch, injection: Injection, output: Output, seen: Batch) -> Tensor:
        """The summed loss [] of an outcome, with what the method adds to it."""
        loss = self.head.loss(output, seen)
        if injection.lesson is not None:
            loss = loss + lesson_loss(output, batch, injection.lesson)
        penalty = injection.penalty
        return loss if penalty is None else loss + penalty * self.head.count(batch)

    @torch.inference_mode()
    def predict(self, examples: Sequence[Example], *, batch_size: int = 32, **generation: Any) -> list[Prediction]:
        """An answer for every example, in their order; longest batches first inside, so memory fails early.

        `generation` (beams, temperature, top_p, seed...) reaches `softprompt.generate.generate` for text answers.
        """
        was_training = self.training
        self.eval()
        try:
            return self._predict(examples, batch_size, generation)
        finally:
            self.train(was_training)

    def _predict(self, examples: Sequence[Example], batch_size: int, generation: dict[str, Any]) -> list[Prediction]:
        rows = [self.row(example, labelled=False) for example in examples]
        answers: list[Prediction | None] = [None] * len(rows)
        for chosen in by_length(rows, batch_size):
            picked = [rows[i] for i in chosen]
            if isinstance(self.head, LanguageModel) and not isinstance(self.head, Verbalizer):
                made = self.written(picked, chosen, generation)
            else:
                made = self.read([examples[i] for i in chosen], picked)
            for i, answer in zip(chosen, made, strict=True):
                answers[i] = answer
        return [answer for answer in answers if answer is not None]

    def written(self, rows: list[Row], numbers: list[int], generation: dict[str, Any]) -> list[Prediction]:
        """Generated answers; `numbers` are the places of the rows among all."""
        from softprompt.generate import generate  # floor 5 uses this floor; only text answers need it here

        settings: dict[str, Any] = {"max_new_tokens": self.task.new_tokens, "numbers": numbers} | generation
        texts = generate(self, rows, **settings)
        return [Prediction(text) for text in texts]

    def read(self, examples: Sequence[Example], rows: list[Row]) -> list[Prediction]:
        """Answers of heads that score."""
        if isinstance(self.head, Verbalizer) and not self.head.one_pass:
            return self.named(self.ranked(examples))
        batch = self.batch(rows)
        return self.told(self(batch), batch, rows)

    def told(self, output: Output, batch: Batch, rows: Sequence[Row]) -> list[Prediction]:
        """The answers in an output, for heads that read all classes from one."""
        if isinstance(self.head, Regressor):
            return [Prediction(value) for value in self.head.numbers(output, batch).tolist()]
        if isinstance(self.head, Tagger):
            return [
                self.tagged(best, row)
                for best, row in zip(self.head.scores(output, batch).argmax(-1), rows, strict=True)
            ]
        assert isinstance(self.head, Classifier | Verbalizer)
        return self.named(self.head.scores(output, batch))

    def ranked(self, examples: Sequence[Example]) -> Tensor:
        """Log-probabilities of the classes [B, C] by the log-probability of each class's whole answer."""
        assert isinstance(self.head, Verbalizer)
        scores = []
        for word in self.head.every:
            batch = self.batch([self.asked(example, word) for example in examples])
            scores.append(self.head.sequence_scores(self(batch), batch))
        return self.head.wording(torch.stack(scores, 1))  # type: ignore[no-any-return]

    def named(self, scores: Tensor) -> list[Prediction]:
        """Class names from log-probabilities [B, C]."""
        best, chances = scores.argmax(-1).tolist(), scores.exp().tolist()
        labels = self.task.labels
        return [
            Prediction(labels[i], dict(zip(labels, row, strict=True))) for i, row in zip(best, chances, strict=True)
        ]

    def tagged(self, best: Tensor, row: Row) -> Prediction:
        """Tags of the words of one row; words that were cut off are outside."""
        outside = "O" if "O" in self.index else self.task.labels[0]
        return Prediction(tuple(outside if i < 0 else self.task.labels[int(best[i])] for i in row.words))


class Bare(Method):
    """A method that adds nothing: the backbone alone."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection()


def without_prompt(prompt: Prompt) -> Prompt:
    """The same question to the bare backbone: the template without its slots, nothing injected."""
    return Prompt(prompt.alone.backbone, Bare(), prompt.head.bare(), prompt.template.without_soft(), prompt.task)


def by_length(rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of about the same length, longest first."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]
