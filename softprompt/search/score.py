"""The exact value of candidates on examples, and its slope: every pass over a text is counted before it runs.

Rows that run together are sorted by their tokens, so that what they begin with (the tokens before a swapped one, and
all text before the prompt) stands and runs once a batch, where the backbone can run a batch as one row
(`softprompt.packed`); a trial against padded rows decides. Where the prompt follows the text, a batch is what many
candidates make of one text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from softprompt.core import IGNORE, Batch, Example, Injection, Row
from softprompt.errors import RecipeError
from softprompt.heads import LanguageModel, Verbalizer, supervised
from softprompt.prompt import Prompt
from softprompt.search.candidates import Candidates, Ids

ROWS = 64  # rows of one forward
FEWEST = 8  # rows that begin alike, from which on they are a batch of their own
CLOSE = 1e-3  # how far a packed batch may be from a padded one, in nats


@dataclass
class Ledger:
    """Passes over one text: a forward counts 1, a backward to the embeddings another 1 (no weight has a gradient)."""

    limit: int
    forwards: int = 0
    backwards: int = 0
    tokens: int = 0  # run through the model in forwards that score
    plain: int = 0  # the same if every candidate were run alone, unpadded

    @property
    def spent(self) -> int:
        """Passes so far."""
        return self.forwards + self.backwards

    @property
    def left(self) -> int:
        """Passes that may still be made."""
        return self.limit - self.spent

    def spend(self, forwards: int, backwards: int = 0) -> None:
        """Count passes that are about to run; raises `ValueError` where they would exceed the limit."""
        if forwards + backwards > self.left:
            raise ValueError(f"{forwards + backwards} passes with {self.left} left")
        self.forwards += forwards
        self.backwards += backwards


@dataclass(frozen=True)
class Judged:
    """What a candidate does on n examples: the loss of each [n], and, for classes, their log-probabilities [n, C]."""

    loss: Tensor
    logs: Tensor | None = None
    target: Tensor | None = None  # [n], the right class

    @property
    def mean(self) -> float:
        """The mean loss."""
        return self.loss.double().mean().item()


class Scorer:
    """Scores candidates of a space and pays for it. Raises `RecipeError` for a head that has to be trained."""

    def __init__(self, candidates: Candidates, ledger: Ledger) -> None:
        self.candidates, self.ledger = candidates, ledger
        self.prompt: Prompt = candidates.prompt
        self.head = check_head(self.prompt)
        words = self.head.every if isinstance(self.head, Verbalizer) else []
        self.each = 1 if not words or self.one_pass else len(words)  # passes for one text
        self.packs: bool | None = None  # not tried yet

    @property
    def one_pass(self) -> bool:
        """Whether one forward scores every class."""
        return isinstance(self.head, Verbalizer) and self.head.one_pass

    @cached_property
    def table(self) -> Tensor:
        """The embeddings [V, H] of all tokens, as the model makes them."""
        rows = self.prompt.backbone.model.get_input_embeddings().weight.shape[0]
        return self.prompt.backbone.tokens(torch.arange(rows, device=self.prompt.backbone.device)[None])[0]

    def rows(self, ids: Ids, example: Example) -> list[Row]:
        """The rows that score one candidate on one example: one, or one a class."""
        if isinstance(self.head, Verbalizer) and not self.one_pass:
            asked = self.candidates.worded(ids)
            return [asked.asked(example, word) for word in self.head.every]
        return [self.candidates.row(ids, example)]

    @torch.inference_mode()
    def judge(self, many: Sequence[Ids], examples: Sequence[Example]) -> list[Judged]:
        """Every candidate on every example; costs their product, times the classes where each needs a pass."""
        self.ledger.spend(len(many) * len(examples) * self.each)
        rows = [row for ids in many for example in examples for row in self.rows(ids, example)]
        values = self.values(rows)
        return [self.judged(part, examples) for part in torch.split(values, len(examples) * self.each)]

    def values(self, rows: list[Row]) -> Tensor:
        """The class log-probabilities [R, C] or the log-probability of the answer [R] of rows, batch by batch."""
        found: dict[int, Tensor] = {}
        for chosen in together([row.ids for row in rows]):
            batch = self.batch([rows[i] for i in chosen])
            found |= zip(chosen, self.read(batch, Injection()), strict=True)
        return torch.stack([found[i] for i in range(len(rows))])

    def batch(self, rows: list[Row]) -> Batch:
        """A batch, as one row where that is exact and spares tokens."""
        packed = self.packed(rows) if self.packs is not False else None
        made = self.plain(rows) if packed is None else packed
        self.ledger.plain += sum(len(row.ids) for row in rows)
        self.ledger.tokens += (made if made.packing is None else made.packing).input_ids.numel()
        return made

    def plain(self, rows: list[Row]) -> Batch:
        """A padded batch."""
        self.prompt.packs = False
        return self.prompt.batch(rows)

    def packed(self, rows: list[Row]) -> Batch | None:
        """A batch as one row, tried against the padded one the first time; None where it cannot run so."""
        self.prompt.packs = True
        made = self.prompt.batch(rows)
        self.prompt.packs = False
        if made.packing is None or self.prompt.backbone.unpackable(made, Injection()):
            return None
        if self.packs is None:  # not counted: two batches of a whole search
            apart = (self.read(made, Injection()) - self.read(self.plain(rows), Injection())).abs().max()
            self.packs = bool(apart < CLOSE)
        return made if self.packs else None

    def read(self, batch: Batch, injection: Injection) -> Tensor:
        """The class log-probabilities [B, C] of heads that read them in one pass, or those of the answers [B]."""
        output, seen = self.prompt.outcome(batch, injection)
        if isinstance(self.head, Verbalizer) and self.head.one_pass:
            return self.head.scores(output, seen)
        logs = self.head.sequence_scores(output, seen)
        side = supervised(batch).labels
        assert side is not None
        counts = (side != IGNORE).sum(1)  # labels of each row; a packed batch has a row for each of them
        if batch.packing is not None:
            index = torch.arange(len(batch), device=logs.device).repeat_interleave(counts)
            logs = logs.new_zeros(len(batch)).index_add(0, index, logs)
        return logs if isinstance(self.head, Verbalizer) else logs / counts

    def judged(self, values: Tensor, examples: Sequence[Example]) -> Judged:
        """Losses of the values of one candidate."""
        if not isinstance(self.head, Verbalizer):
            return Judged(-values)
        logs = values if self.one_pass else self.head.wording(values.view(len(examples), -1))
        target = torch.tensor([self.prompt.class_of(example) for example in examples], device=logs.device)
        return Judged(-logs.gather(1, target[:, None])[:, 0], logs, target)

    def slope(self, ids: Ids, examples: Sequence[Example], vectors: Tensor | None = None) -> tuple[Tensor, float]:
        """The gradient [N, H] of the mean loss by the embeddings of the prompt's tokens, and that loss.

        `vectors` [N, H] stand in their place where given. Costs a forward and a backward for every text.
        """
        passes = len(examples) * self.each
        self.ledger.spend(passes, passes)
        own = (self.table[list(ids)] if vectors is None else vectors).detach().clone().requires_grad_()
        total, loss = torch.zeros_like(own), 0.0
        size = max(1, ROWS // self.each)
        for at in range(0, len(examples), size):
            part = examples[at : at + size]
            rows = [self.candidates.slotted(row, ids, e) for e in part for row in self.rows(ids, e)]
            values = self.read(self.plain(rows), Injection(embeds=own[None]))
            summed = self.judged(values, part).loss.sum()
            total += torch.autograd.grad(summed, own)[0]
            loss += summed.item()
        return total / len(examples), loss / len(examples)

    def promise(self, ids: Ids, examples: Sequence[Example]) -> Tensor:
        """How much the loss would fall [N, V], to first order, with token v in place t (HotFlip, arXiv:1712.06751).

        -inf for tokens that may not stand there, and for the one that does.
        """
        slope, _ = self.slope(ids, examples)
        table = self.table
        gain = (slope * table[list(ids)]).sum(1, keepdim=True) - slope @ table.T
        barred = torch.ones(gain.shape[1], dtype=torch.bool, device=gain.device)
        barred[self.candidates.allowed] = False
        gain = gain.float().masked_fill(barred, -torch.inf)
        gain[torch.arange(len(ids)), list(ids)] = -torch.inf
        return gain


def together(many: Sequence[list[int]]) -> Iterator[list[int]]:
    """Indices of rows of tokens in batches of at most `ROWS`, sorted by their tokens.

    `FEWEST` or more rows that share half of their tokens with the next are batches of their own, of about equal size.
    """
    order = sorted(range(len(many)), key=lambda i: many[i])
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and not alike(many[groups[-1][-1]], many[i]):
            groups.append([])
        groups[-1].append(i)
    rest: list[int] = []
    for group in groups:
        if len(group) < FEWEST:
            rest += group
        else:
            yield from portions(group)
    yield from portions(rest)


def alike(one: list[int], other: list[int]) -> bool:
    """Whether two rows begin with the same half."""
    half = -(-max(len(one), len(other)) // 2)
    return one[:half] == other[:half]


def portions(group: list[int]) -> Iterator[list[int]]:
    """The group in as few batches as can be, of about equal size."""
    count = -(-len(group) // ROWS)
    for n in range(count):
        yield group[n * len(group) // count : (n + 1) * len(group) // count]


def check_head(prompt: Prompt) -> LanguageModel:
    """The head of a prompt; raises `RecipeError` unless it reads the model's own words."""
    if not isinstance(prompt.head, LanguageModel):
        found = f"a {prompt.head.name} head, which would have to be trained"
        do = "set task.head=verbalizer, or train a soft prompt"
        raise RecipeError("SP-E630", found, "a head that reads words: a text prompt trains nothing", do)
    return prompt.head
