"""SMoP: several short prompts, of which a router chooses one for every row.

Choi, Kim, Park, Mok, Lee 2023, "SMoP: Towards Efficient and Effective Prompt Tuning with Sparse Mixture-of-Prompts",
EMNLP 2023, section 3: g = softmax(W x), x the mean embedding of the input; the prompt is g_j P_j for the largest g_j.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.errors import Unsupported
from softprompt.methods.base import Group, Method


class SMoP(Method):
    """K prompts [K, P, H] and a router W [K, H]; a row reads the `top_k` likeliest prompts, scaled by their shares.

    `noise` is the spread of the factor 1 + e on the router's scores in training; `spread` says how far apart the
    prompts begin, in units of the embedding scale. The authors' code computes a balance loss and drops it: none here.
    """

    paper = 'Choi, Kim, Park, Mok, Lee 2023, "SMoP: ... Sparse Mixture-of-Prompts", EMNLP 2023'
    summary = "K short prompts, one of them chosen by a router for every row"

    def __init__(
        self,
        spec: Spec,
        start: Start,
        *,
        experts: int = 4,
        top_k: int = 1,
        noise: float = 1.0,
        spread: float = 0.1,
    ) -> None:
        super().__init__(spec, start)
        self.experts, self.top_k, self.noise, self.spread = experts, top_k, noise, spread
        self.router = Router(spec, experts, top_k, noise)
        # Deviation: the authors begin at N(0, 1) whatever the backbone, and an undecided router makes that K times
        # smaller. Here all prompts begin near the given vectors, so much larger that an undecided router yields those.
        apart = torch.randn(experts, *start.embeds.shape) * spread * spec.rms
        self.prompts = nn.Parameter((start.embeds + apart) * self.router.undecided)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        shares = self.router(mean_embedding(batch, text))
        return Injection(embeds=torch.einsum("bk,kph->bph", shares, self.prompts))

    @override
    def groups(self) -> list[Group]:
        return [Group([self.prompts], self.spec.rms * self.router.undecided), self.router.group()]

    @property
    @override
    def length(self) -> int:
        return self.prompts.shape[1]


class Router(nn.Module):
    """Shares [B, K] of K experts in a row: softmax(W x + b) of its mean embedding, zero but for the `top` largest.

    Raises `Unsupported` for images, which have no token embeddings to look at: every row would get the same expert.
    """

    def __init__(self, spec: Spec, experts: int, top: int, noise: float, center: Tensor | None = None) -> None:
        super().__init__()
        reads_text(spec)
        if not 1 <= top <= experts or noise < 0:
            raise ValueError(f"top_k={top} of experts={experts} with noise={noise}")
        self.experts, self.top, self.noise, self.rms = experts, top, noise, spec.rms
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(experts, spec.hidden)))
        self.bias = None if center is None else nn.Parameter(-(self.weight @ center.float() / spec.rms).detach())

    @property
    def undecided(self) -> float:
        """What a prompt that every expert holds must be multiplied by, so that equal shares K^-1 leave it as it is."""
        return self.experts / self.top

    def scores(self, mean: Tensor) -> Tensor:
        """Scores [B, K] of mean embeddings [B, H].

        The router sees embeddings at unit scale: those of rms 0.02 would hardly move it. It is written out, because
        mixed precision would round a matrix product, and a row on the border would train one expert and read another.
        """
        scores = (mean[:, None] / self.rms * self.weight).sum(-1)
        return scores if self.bias is None else scores + self.bias

    def forward(self, mean: Tensor) -> Tensor:
        """Shares [B, K]; they sum to 1 before the small ones are dropped, and are not divided by their sum after."""
        scores = self.scores(mean)
        if self.training and self.noise:
            scores = scores * (1 + self.noise * torch.randn_like(scores))
        shares = scores.softmax(-1)
        kept = shares.topk(self.top, -1).indices
        return torch.zeros_like(shares).scatter(-1, kept, shares.gather(-1, kept))

    def group(self) -> Group:
        """All parameters, in units of 1 / H.

        All H weights of a score move the same way, so in units of a network's weights one step would decide a router,
        and rows would all stay with the expert that it happened to favour.
        """
        return Group(list(self.parameters()), 1 / self.weight.shape[1])


def mean_embedding(batch: Batch, text: Tensor) -> Tensor:
    """The mean [B, H] of the frozen embeddings of what a row asks: no padding, no slots, no answer.

    An answer is in the row while it is taught and not yet there while it is written; routing by it would train experts
    for rows that never come.
    """
    asked = batch.question[..., None]
    return text.float().masked_fill(~asked, 0.0).sum(1) / asked.sum(1).clamp(min=1)


def reads_text(spec: Spec) -> None:
    """Raise `Unsupported` for a backbone of images, for methods that look at the embeddings of a text."""
    if spec.kind == "vision":
        raise Unsupported(
            "SP-E410", "a method that looks at the text", "a backbone that reads text", "use a method that does not"
        )
