"""Several prompts of one task over one backbone: every example stands once for each prompt in one batch, and they vote.

Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691, section 6:
N prompts are an ensemble of N models that share all but kilobytes, asked in one forward, joined by majority vote.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.core import Batch, Example, Output, Row
from softprompt.errors import RecipeError
from softprompt.heads import Classifier, Head, LanguageModel, Regressor, Tagger, Verbalizer, columns
from softprompt.mixed import Layout, Part, mix, rows_of
from softprompt.prompt import Prediction, Prompt, by_length

Vote = Literal["majority", "mean"]


@dataclass(frozen=True)
class Question:
    """What one prompt asks of the backbone for some examples: one row for each, or one for each class of each."""

    prompt: Prompt
    rows: list[Row]
    part: Part

    @classmethod
    def of(cls, prompt: Prompt, rows: list[Row]) -> "Question":
        """The question of rows that this prompt encoded."""
        batch = prompt.batch(rows)
        return cls(prompt, rows, (batch, prompt.inject(batch)))


Answer = tuple[Output, Batch]  # a part of a mixed output, and the rows that it belongs to


class Ensemble:
    """Prompts that answer together. `predict` is that of a `Prompt`, and `task` says what is answered.

    `vote` joins classes and tags: `majority` (as in the paper; ties go to the class with the higher mean probability)
    or `mean` (of the probabilities). Numbers are always joined by their mean, written texts by the majority of equal
    ones, ties by their mean log-probability under all members. Without `vote`, majority where there is one to be had.

    Raises `RecipeError` SP-E270 for prompts that do not belong together, SP-E271 for a vote that cannot be taken.
    """

    def __init__(self, prompts: Sequence[Prompt], *, vote: Vote | None = None) -> None:
        check(prompts)
        self.prompts = tuple(prompts)
        self.backbone, self.task = prompts[0].backbone, prompts[0].task
        self.vote = choose_vote(vote, self.task.kind)

    def __len__(self) -> int:
        return len(self.prompts)

    def predict(self, examples: Sequence[Example], *, batch_size: int = 32, **generation: Any) -> list[Prediction]:
        """An answer for every example, in their order; `scores` are shares of votes, or mean probabilities.

        `batch_size` counts rows: an example takes one for every prompt. `generation` is as in `Prompt.predict`.
        """
        return self.answer(examples, batch_size=batch_size, **generation)[1]

    @torch.inference_mode()
    def answer(
        self, examples: Sequence[Example], *, batch_size: int = 32, **generation: Any
    ) -> tuple[list[list[Prediction]], list[Prediction]]:
        """The answers of every member and those of the ensemble, from the same forwards."""
        with answering(self.prompts):
            if self.task.kind == "generation":
                written = [p.predict(examples, batch_size=batch_size, **generation) for p in self.prompts]
                texts = [[str(made.answer) for made in own] for own in zip(*written, strict=True)]
                return written, [self.chosen(e, own) for e, own in zip(examples, texts, strict=True)]
            opinions = self.opinions(examples, batch_size)
        alone = [[self.told(one, one) for one in member] for member in opinions]
        return alone, [self.joined(torch.stack(votes)) for votes in zip(*opinions, strict=True)]

    def opinions(self, examples: Sequence[Example], batch_size: int) -> list[list[Tensor]]:
        """What each member says of each example: probabilities [words, C] (one word where it is a class), or [].

        Examples of like length go together, longest first, as many as `batch_size` rows hold.
        """
        lengths = [self.prompts[0].row(example, labelled=False) for example in examples]
        each = sum(len(asked(prompt, example)) for prompt in self.prompts for example in examples[:1])
        found: list[dict[int, Tensor]] = [{} for _ in self.prompts]
        for chosen in by_length(lengths, max(1, batch_size // max(1, each))):
            picked = [examples[i] for i in chosen]
            questions = [Question.of(p, [row for e in picked for row in asked(p, e)]) for p in self.prompts]
            for question, answer, own in zip(questions, self.ask(questions), found, strict=True):
                own.update(zip(chosen, self.read(question, *answer), strict=True))
        return [[own[i] for i in range(len(examples))] for own in found]

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answer to each question; one forward for all whose rows can stand in one batch."""
        answers: dict[int, Answer] = {}
        for group in groups(questions):
            batch, injection = mix([questions[i].part for i in group])
            wanted = columns(batch) if questions[group[0]].prompt.head.reads == "logits" else None
            output = self.backbone(batch, injection, columns=wanted)
            begin = 0
            for i in group:
                end = begin + len(questions[i].rows)
                answers[i] = part_of(output, begin, end), rows_of(batch, begin, end)
                begin = end
        return [answers[i] for i in range(len(questions))]

    def read(self, question: Question, output: Output, batch: Batch) -> list[Tensor]:
        """Opinions out of an answer, one for every example, with classes in the order of `task.labels`."""
        prompt, head = question.prompt, question.prompt.head
        if isinstance(head, Regressor):
            return list(head.numbers(output, batch))
        order = [prompt.index[label] for label in self.task.labels]
        if isinstance(head, Tagger):
            outside = prompt.index.get("O", 0)
            chances = head.scores(output, batch).exp()
            return [of_words(one, row, outside)[:, order] for one, row in zip(chances, question.rows, strict=True)]
        return list(class_scores(head, output, batch).exp()[:, None, order])

    def joined(self, votes: Tensor) -> Prediction:
        """The answer of the ensemble out of what its N members say, [N, words, C], or [N] numbers."""
        mean = votes.double().mean(0)
        if self.task.kind == "regression" or self.vote == "mean":
            return self.told(mean, mean)
        counts = F.one_hot(votes.argmax(-1), votes.shape[-1]).sum(0)  # [words, C]
        most = counts == counts.max(-1, keepdim=True).values
        return self.told(mean.masked_fill(~most, -1.0), counts / len(votes))

    def told(self, best: Tensor, shares: Tensor) -> Prediction:
        """A prediction: the class, or tags, of the highest in `best` [words, C]; or the number itself."""
        if self.task.kind == "regression":
            return Prediction(best.item())
        labels = self.task.labels
        names = [labels[i] for i in best.argmax(-1).tolist()]
        if self.task.kind == "tagging":
            return Prediction(tuple(names))
        return Prediction(names[0], dict(zip(labels, shares[0].tolist(), strict=True)))

    def chosen(self, example: Example, texts: Sequence[str]) -> Prediction:
        """The text that most members wrote; of several, the likeliest under all members."""
        counts = Counter(texts)
        best = [text for text, count in counts.items() if count == max(counts.values())]
        return Prediction(best[0] if len(best) == 1 else max(best, key=lambda text: self.likelihood(example, text)))

    def likelihood(self, example: Example, text: str) -> float:
        """The mean log-probability of a whole answer under all members; an empty answer is none and loses every tie."""
        if not text.strip():
            return float("-inf")
        told = replace(example, label=text)
        questions = [Question.of(prompt, [prompt.row(told)]) for prompt in self.prompts]
        total = 0.0
        for question, answer in zip(questions, self.ask(questions), strict=True):
            assert isinstance(question.prompt.head, LanguageModel)
            total += question.prompt.head.sequence_scores(*answer).item()
        return total / len(self)


def asked(prompt: Prompt, example: Example) -> list[Row]:
    """The rows that answer one example: one, or one for every class where words of several tokens are ranked."""
    head = prompt.head
    if isinstance(head, Verbalizer) and not head.one_pass:
        return [prompt.asked(example, word) for word in head.every]
    return [prompt.row(example, labelled=False)]


def class_scores(head: Head, output: Output, batch: Batch) -> Tensor:
    """Log-probabilities of the classes [examples, C], also where an example has one row for every class."""
    if isinstance(head, Verbalizer) and not head.one_pass:
        return head.wording(head.sequence_scores(output, batch).view(-1, len(head.every)))  # type: ignore[no-any-return]
    assert isinstance(head, Classifier | Verbalizer)
    return head.scores(output, batch)


def of_words(chances: Tensor, row: Row, outside: int) -> Tensor:
    """Probabilities [words, C] out of those of tokens [T, C]; words that were cut off are outside for certain."""
    cut = F.one_hot(torch.tensor(outside, device=chances.device), chances.shape[-1]).to(chances)
    return torch.stack([cut if place < 0 else chances[place] for place in row.words])


def groups(questions: Sequence[Question]) -> list[list[int]]:
    """Indices of questions that can be asked in one forward: all of them, but for mixtures that no mask can express."""
    layouts = [Layout.of(question.part) for question in questions]
    found: list[list[int]] = []
    for i, question in enumerate(questions):
        for group in found:
            reads = {questions[j].prompt.head.reads for j in group}
            if reads == {question.prompt.head.reads} and all(layouts[i].fits(layouts[j]) for j in group):
                group.append(i)
                break
        else:
            found.append([i])
    return found


def part_of(output: Output, begin: int, end: int) -> Output:
    """The rows from `begin` up to `end` of an output."""
    return Output(
        hidden=None if output.hidden is None else output.hidden[begin:end],
        logits=None if output.logits is None else output.logits[begin:end],
        columns=output.columns,
    )


@contextmanager
def answering(prompts: Sequence[Prompt]) -> Iterator[None]:
    """All prompts in eval mode, and as they were before afterwards."""
    before = [prompt.training for prompt in prompts]
    for prompt in prompts:
        prompt.eval()
    try:
        yield
    finally:
        for prompt, mode in zip(prompts, before, strict=True):
            prompt.train(mode)


def check(prompts: Sequence[Prompt]) -> None:
    """Raise `RecipeError` SP-E270 for prompts that do not answer the same question over the same backbone."""
    if len(prompts) < 2:
        raise apart(f"{len(prompts)} prompts", "two or more")
    first = prompts[0]
    for i, prompt in enumerate(prompts[1:], 2):
        for what, wanted, found in (
            ("task", first.task.kind, prompt.task.kind),
            ("labels", sorted(first.task.labels), sorted(prompt.task.labels)),
            ("columns", sorted(set(first.template.fields)), sorted(set(prompt.template.fields))),
        ):
            if wanted != found:
                raise apart(f"prompt {i} with {what} {found}"[:200], f"{wanted} as in the first"[:200])
        if prompt.backbone is not first.backbone:
            raise apart(f"prompt {i} on a backbone of its own", "one backbone that all prompts are bound to")


def apart(found: str, expected: str) -> RecipeError:
    """Prompts that are no ensemble."""
    return RecipeError("SP-E270", found, expected, "choose prompts of one task, bound to one backbone")


def choose_vote(vote: Vote | None, kind: str) -> Vote:
    """How answers are joined; raises `RecipeError` SP-E271 where this kind of answer cannot be joined so."""
    known: dict[str, tuple[Vote, ...]] = {"regression": ("mean",), "generation": ("majority",)}
    possible = known.get(kind, ("majority", "mean"))
    if vote is not None and vote not in possible:
        raise RecipeError("SP-E271", f"vote={vote} for {kind}", " or ".join(possible), "set vote, or leave it out")
    return vote or possible[0]
