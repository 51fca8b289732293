"""From a backbone's output to a loss and to answers: verbalizer, language model, classifier, regressor, tagger.

A head never shifts labels: the template aligned them. Losses are sums with their count beside them, so that gradient
accumulation over batches of different size is exact.
"""

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from softprompt.core import IGNORE, TEXT, Batch, Output
from softprompt.wording import Wording

Pool = Literal["mean", "cls", "last"]


class Head(nn.Module):
    """What reads a backbone's output. `reads` says which part; trained heads have parameters of their own."""

    name: ClassVar[str]
    reads: ClassVar[Literal["hidden", "logits"]]

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The summed loss [] over everything that `count` counts."""
        raise TypeError(f"{type(self).__name__} must say what it loses")

    def count(self, batch: Batch) -> int:
        """How many labels of a batch carry a loss; one a row unless a head says otherwise."""
        return len(batch)

    def bare(self) -> "Head":
        """The head without what training changes in how words are read; by default itself."""
        return self

    def options(self) -> dict[str, Any]:
        """The arguments that would build this head again, for the card of an artifact."""
        return {}


def columns(batch: Batch) -> Tensor:
    """Positions [J] at which some row has a label: the only ones where logits are computed."""
    labels = supervised(batch).labels
    assert labels is not None
    return (labels != IGNORE).any(0).nonzero()[:, 0]


def supervised(batch: Batch) -> Batch:
    """The side that carries token labels: the decoder where there is one."""
    return batch if batch.decoder is None else batch.decoder


def aligned(output: Output, batch: Batch) -> Tensor:
    """Labels [B, J] at the columns of the logits."""
    labels = supervised(batch).labels
    assert labels is not None
    assert output.columns is not None
    return labels[:, output.columns]


class LanguageModel(Head):
    """Cross-entropy over the answer's tokens and nothing else."""

    name = "lm"
    reads = "logits"

    @override
    def loss(self, output: Output, batch: Batch) -> Tensor:
        assert output.logits is not None
        return F.cross_entropy(
            output.logits.float().flatten(0, 1), aligned(output, batch).flatten(), ignore_index=IGNORE, reduction="sum"
        )

    @override
    def count(self, batch: Batch) -> int:
        labels = supervised(batch).labels
        assert labels is not None
        return int((labels != IGNORE).sum())

    def sequence_scores(self, output: Output, batch: Batch) -> Tensor:
        """Log-probability [B] of each row's whole answer."""
        assert output.logits is not None
        labels = aligned(output, batch)
        logs = output.logits.float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        return logs.masked_fill(labels == IGNORE, 0.0).sum(1)


class Verbalizer(LanguageModel):
    """Classes as words: `words[c]` are the token ids of class c's own word; `wording` are options of `Wording`.

    One token a class: softmax over the class words at the answer. Several: trained like Lester et al., as a language
    model on the right words, and classified by the log-probability of each class's whole answer (rank classification).
    Encoders fill a single mask, so there the score of a class is the mean of its tokens' logits.
    """

    name = "verbalizer"

    def __init__(self, words: list[list[int]], *, fill: bool = False, **wording: Any) -> None:
        super().__init__()
        self.words, self.fill = words, fill
        self.wording = Wording(len(words), **wording)
        every = self.every
        if not words or not all(every):
            raise ValueError("every class needs a word of one token or more")
        longest = max(len(word) for word in every)
        ids = torch.tensor([word + [0] * (longest - len(word)) for word in every])
        keep = torch.tensor([[True] * len(word) + [False] * (longest - len(word)) for word in every])
        self.register_buffer("ids", ids, persistent=False)  # [E, W]
        self.register_buffer("keep", keep, persistent=False)  # [E, W]

    @property
    def every(self) -> list[list[int]]:
        """All words, E of them: one of each class, then what further words classes have."""
        return [*self.words, *(word for own in self.wording.more for word in own)]

    @property
    def one_pass(self) -> bool:
        """True where one forward scores every class."""
        return self.fill or all(len(word) == 1 for word in self.every)

    @override
    def bare(self) -> "Verbalizer":
        if self.wording.change is None:
            return self
        given = {name: value for name, value in self.options().items() if name != "rows"}
        return Verbalizer(**given).to(self.get_buffer("ids").device)

    def scores(self, output: Output, batch: Batch) -> Tensor:
        """Log-probabilities of the classes [B, C] from the logits at each row's answer."""
        assert output.logits is not None
        answer = (aligned(output, batch) != IGNORE).int().argmax(1)  # [B], index into the columns
        return self.chances(output.logits[torch.arange(len(answer), device=answer.device), answer])

    def chances(self, logits: Tensor) -> Tensor:
        """The same from the logits [B, V] at the answers."""
        logits = logits.float()
        ids, keep = self.get_buffer("ids"), self.get_buffer("keep")
        per_token = logits[:, ids].masked_fill(~keep, 0.0)  # [B, E, W]
        scores = per_token.sum(-1) / keep.sum(-1)
        if self.wording.change is not None:
            scores = scores + self.wording.moved(logits)[:, self.wording.get_buffer("owner")]
        return self.wording(scores)  # type: ignore[no-any-return]

    @override
    def loss(self, output: Output, batch: Batch) -> Tensor:
        if not self.one_pass:
            return super().loss(output, batch)
        assert batch.target is not None
        return F.nll_loss(self.scores(output, batch), batch.target, reduction="sum")

    @override
    def count(self, batch: Batch) -> int:
        return len(batch) if self.one_pass else super().count(batch)

    @override
    def options(self) -> dict[str, Any]:
        return {"words": self.words, "fill": self.fill} | self.wording.options()


class Classifier(Head):
    """A trained linear layer over one pooled state a row."""

    name = "classifier"
    reads = "hidden"

    def __init__(self, states: int, classes: int, *, pool: Pool = "mean") -> None:
        super().__init__()
        self.classes, self.pool = classes, known_pool(pool)
        self.linear = nn.Linear(states, classes)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def scores(self, output: Output, batch: Batch) -> Tensor:
        """Log-probabilities of the classes [B, C]."""
        return self.linear(pooled(output, batch, self.pool)).log_softmax(-1)  # type: ignore[no-any-return]

    @override
    def loss(self, output: Output, batch: Batch) -> Tensor:
        assert batch.target is not None
        return F.nll_loss(self.scores(output, batch), batch.target, reduction="sum")

    @override
    def options(self) -> dict[str, Any]:
        return {"classes": self.classes, "pool": self.pool}


class Regressor(Head):
    """A trained linear layer to one number; trained on standardised targets, squared error."""

    name = "regressor"
    reads = "hidden"

    def __init__(self, states: int, *, mean: float = 0.0, scale: float = 1.0, pool: Pool = "mean") -> None:
        super().__init__()
        self.mean, self.scale, self.pool = mean, scale, known_pool(pool)
        self.linear = nn.Linear(states, 1)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def standard(self, output: Output, batch: Batch) -> Tensor:
        """Predictions [B] in standard deviations of the training targets."""
        return self.linear(pooled(output, batch, self.pool))[:, 0]  # type: ignore[no-any-return]

    def numbers(self, output: Output, batch: Batch) -> Tensor:
        """Predictions [B] in the units of the targets, float64: far from zero, float32 would round them together."""
        return self.standard(output, batch).double() * self.scale + self.mean

    @override
    def loss(self, output: Output, batch: Batch) -> Tensor:
        assert batch.target is not None
        wanted = ((batch.target.double() - self.mean) / self.scale).float()
        return (self.standard(output, batch) - wanted).square().sum()

    @override
    def options(self) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale, "pool": self.pool}


class Tagger(Head):
    """A trained linear layer over the first token of every word."""

    name = "tagger"
    reads = "hidden"

    def __init__(self, states: int, tags: int) -> None:
        super().__init__()
        self.tags = tags
        self.linear = nn.Linear(states, tags)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def scores(self, output: Output, batch: Batch) -> Tensor:
        """Log-probabilities of the tags [B, T, C]."""
        assert output.hidden is not None
        return self.linear(output.hidden.float()).log_softmax(-1)  # type: ignore[no-any-return]

    @override
    def loss(self, output: Output, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return F.nll_loss(
            self.scores(output, batch).flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE, reduction="sum"
        )

    @override
    def count(self, batch: Batch) -> int:
        assert batch.labels is not None
        return int((batch.labels != IGNORE).sum())

    @override
    def options(self) -> dict[str, Any]:
        return {"tags": self.tags}


def known_pool(pool: Pool) -> Pool:
    """The pooling itself; raises `ValueError` for any other word."""
    if pool not in get_args(Pool):
        raise ValueError(f"pool {pool!r} is none of {', '.join(get_args(Pool))}")
    return pool


def pooled(output: Output, batch: Batch, pool: Pool) -> Tensor:
    """One state [B, H] a row: the mean over text tokens, the first text token, or the last one.

    Prompt positions are never pooled: peers that pool position 0 read the first prompt vector instead of [CLS].
    """
    assert output.hidden is not None
    hidden = output.hidden.float()
    if batch.pixels is not None:  # [CLS, prompt, patches]
        hidden = torch.cat([hidden[:, :1], hidden[:, 1 + batch.vectors :]], 1)
        return hidden.mean(1) if pool == "mean" else hidden[:, 0 if pool == "cls" else -1]
    text = batch.mask & (batch.slots == TEXT)
    if pool == "mean":
        return (hidden * text[..., None]).sum(1) / text.sum(1, keepdim=True).clamp(min=1)
    place = torch.arange(text.shape[1], device=text.device)
    index = torch.where(text, place, text.shape[1]).min(1).values if pool == "cls" else (text * place).max(1).values
    return hidden[torch.arange(len(hidden), device=hidden.device), index.clamp(max=text.shape[1] - 1)]
