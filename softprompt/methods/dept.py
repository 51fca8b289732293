"""DePT: a short prompt, and a change of low rank to the embedding of the token at every position of the text.

Shi, Lipani 2024, "DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning", arXiv:2309.05173, section 2.2:
the model reads [P; E(x) + A B], A [S, R], B [R, H]. Not to be confused with `dpt`, where the prompt is the product.
"""

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.errors import DataError
from softprompt.methods.base import Group, Method, network_unit
from softprompt.methods.smop import reads_text

TOKENS = 256  # the paper's longest text


class DePT(Method):
    """A prompt `short` [P, H], and a table `places` @ `changes` ([S, R] @ [R, H]) whose row i is added to token i.

    `tokens` is S, the longest text there may be: the template of a run cuts longer ones. `pair_rate` is the learning
    rate of the pair relative to that of the prompt. Stored as it is trained: the factors are smaller than the table,
    R (S + H) against S H numbers. Raises `ValueError` for a rank that no such table has, `Unsupported` for images.
    """

    paper = 'Shi, Lipani 2024, "DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning", 2309.05173'
    summary = "P vectors, and a low-rank change of the input embeddings by position"

    def __init__(
        self, spec: Spec, start: Start, *, rank: int = 30, tokens: int = TOKENS, pair_rate: float = 0.1
    ) -> None:
        super().__init__(spec, start)
        reads_text(spec)
        if not 1 <= rank <= min(tokens, spec.hidden):
            raise ValueError(f"rank={rank}, which must be from 1 to {min(tokens, spec.hidden)} here")
        if not pair_rate > 0:
            raise ValueError(f"pair_rate={pair_rate}, which must be more than 0")
        self.rank, self.tokens, self.pair_rate = rank, tokens, pair_rate
        self.short = nn.Parameter(start.embeds.clone())
        # Deviation: A random and B zero in the authors' code, so that A stands still in the first step, and positions
        # that no training text reaches get noise once B has moved. Here the product is zero too, but both factors move
        # at once: the first row of B is what all positions have in common, and positions never seen get that alone.
        places, changes = torch.zeros(tokens, rank), torch.randn(rank, spec.hidden) * spec.rms
        places[:, 0], changes[0] = 1.0, 0.0
        self.places, self.changes = nn.Parameter(places), nn.Parameter(changes)

    @classmethod
    @override
    def most_tokens(cls, options: dict[str, Any]) -> int | None:
        return int(options.get("tokens", TOKENS))

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        """[1, P, H] vectors and an offset [B, T, H]; raises `DataError` for a text longer than the table.

        A token's position is its place among the tokens of its own question. Slots and padding do not count, so the
        side of the padding does not matter, and the tokens of an answer get nothing: they are written without the
        method being asked again. The authors' code adds rows to answers in training and none in generation.
        """
        asked = batch.question
        self.check(asked)
        table = self.places[: asked.shape[1]] @ self.changes
        position = (asked.cumsum(1) - 1).clamp(min=0)
        return Injection(embeds=self.short[None], offset=table[position].masked_fill(~asked[..., None], 0.0))

    def check(self, asked: Tensor) -> None:
        """Raise `DataError` where a row of `asked` [B, T] has more tokens than the table has rows."""
        if asked.shape[1] <= self.tokens:  # known without waiting for the device
            return
        longest = int(asked.sum(1).max())
        if longest > self.tokens:
            raise DataError(
                "SP-E134",
                f"a text of {longest} tokens",
                f"at most {self.tokens}, the rows of the method's table",
                f"set method.options.tokens higher, or cut texts with task.max_tokens={self.tokens + self.length}",
            )

    @override
    def groups(self) -> list[Group]:
        return [
            Group([self.short], self.spec.rms),
            Group([self.places], network_unit(self.rank) * self.pair_rate),
            Group([self.changes], self.spec.rms * self.pair_rate),
        ]

    @property
    @override
    def length(self) -> int:
        return len(self.short)
