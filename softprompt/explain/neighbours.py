"""Which rows of the embedding table stand nearest to prompt vectors: cosine and norm, beside the table's own norms.

What a nearest word says is little: Khashabi et al. 2022, arXiv:2112.08348 (see `words.control`). So two numbers stand
beside every cosine: how far the vector's norm is from those of the table, and the cosine that chance alone yields.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.backbones import Backbone

DIRECTIONS = 64  # random directions that the cosine of chance is measured with


@dataclass(frozen=True)
class Table:
    """The embedding table as the model reads it, [V, H] float32, and the words of its rows."""

    rows: Tensor
    tokenizer: Any

    @cached_property
    def directions(self) -> Tensor:
        """The rows with norm 1, [V, H]."""
        return F.normalize(self.rows, dim=1)

    def word(self, token: int) -> str:
        """How a token reads; its name in the vocabulary where that would be nothing."""
        text: str = self.tokenizer.decode([token])
        readable = text.strip() and "\ufffd" not in text  # part of a character has a name, but no text
        return text if readable else str(self.tokenizer.convert_ids_to_tokens(token))

    def nearest(self, vectors: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The largest cosines [P, count] of vectors [P, H], and the ids of their rows [P, count]."""
        near = (F.normalize(vectors, dim=1) @ self.directions.T).topk(min(count, len(self.rows)))
        return near.values, near.indices

    @property
    def norms(self) -> dict[str, float]:
        """Least, 5 %, median, 95 % and largest norm of the rows."""
        norms = self.rows.norm(dim=1)
        shares = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0])
        names = ("least", "low", "median", "high", "most")
        return dict(zip(names, (norms.sort().values[((len(norms) - 1) * shares).round().long()]).tolist(), strict=True))

    @property
    def chance(self) -> float:
        """The mean cosine to the nearest row of a random direction: what a vector without meaning has."""
        drawn = torch.randn(DIRECTIONS, self.rows.shape[1], generator=torch.Generator().manual_seed(0))
        return self.nearest(drawn)[0].mean().item()


@torch.no_grad()
def table(backbone: Backbone) -> Table:
    """The table of a text backbone; rows without a token of the tokenizer are left out."""
    size = min(backbone.model.get_input_embeddings().weight.shape[0], len(backbone.tokenizer))
    ids = torch.arange(size, device=backbone.device)[None]
    return Table(backbone.tokens(ids)[0].float().cpu(), backbone.tokenizer)


def neighbours(vectors: Tensor, words: Table, count: int = 5) -> list[dict[str, Any]]:
    """For each vector [P, H]: its norm and its `count` nearest rows with their cosines."""
    cosines, ids = words.nearest(vectors, count)
    norms = vectors.norm(dim=1).tolist()
    return [
        {
            "vector": i,
            "norm": norms[i],
            "nearest": [
                {"id": token, "word": words.word(token), "cosine": cosine}
                for token, cosine in zip(ids[i].tolist(), cosines[i].tolist(), strict=True)
            ],
        }
        for i in range(len(vectors))
    ]
