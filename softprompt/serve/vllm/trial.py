"""Whether vLLM's model is the backbone: asked of every prompt before it serves."""

import asyncio
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softprompt import canary
from softprompt.errors import ArtifactError
from softprompt.serve.engine.registry import Entry
from softprompt.serve.vllm.asked import embedded

PROBE = {"max_tokens": 1, "temperature": 0.0, "logprobs": canary.KEPT, "ignore_eos": True, "detokenize": False}


def check_answers(entry: Entry, likeliest: Callable[[list[Tensor]], list[dict[int, Any]]]) -> None:
    """Raise `ArtifactError` SP-E849 where vLLM does not give the canaries the backbone's log-probabilities.

    `likeliest` asks vLLM for the best tokens after some rows [T, H].
    """
    right, most = canary.outputs(entry.prompt), canary.TOLERANCE.get(entry.prompt.backbone.dtype, canary.COARSE)
    found = likeliest([embedded(entry, row) for row in canary.rows(entry.prompt)])
    gaps = [abs(chance.logprob - right[k, i].item()) for k, best in enumerate(found) for i, chance in best.items()]
    gap = torch.tensor(gaps).max().item()  # NaN stays NaN
    if not gap <= most:
        raise ArtifactError(
            "SP-E849",
            f"canaries that vLLM answers {gap:.3g} off in log-probability",
            f"at most {most:g} from the backbone's own",
            "serve it with the built-in engine: softprompt serve",
            where=entry.info.name,
        )


async def likeliest(
    engine: Any, sampling: Callable[..., Any], number: Callable[[], str], asked: list[Tensor]
) -> list[dict[int, Any]]:
    """The likeliest tokens after some rows, as vLLM has them, each with its `Logprob`; `number` makes ids."""

    async def one(given: Tensor) -> dict[int, Any]:
        stream = engine.generate({"prompt_embeds": given}, sampling(**PROBE), number())
        said = [output.outputs[0] async for output in stream if output.outputs[0].token_ids]
        found: dict[int, Any] = said[0].logprobs[0]
        return found

    return await asyncio.gather(*map(one, asked))
