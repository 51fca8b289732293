"""What vLLM is asked for one choice of an answer, and what its tokens mean here. Nothing in this file imports vLLM."""

import math
from typing import Any

import torch
from torch import Tensor

from softprompt.core import Row
from softprompt.errors import SoftpromptError
from softprompt.serve.contract import Reason, ServeError, Token
from softprompt.serve.engine.registry import Entry
from softprompt.serve.engine.trouble import not_finite
from softprompt.serve.engine.writer import Writer
from softprompt.serve.http.logs import failure

ENDS: dict[str | None, Reason | None] = {None: None, "stop": "stop", "length": "length"}  # vLLM's words for an end


def embedded(entry: Entry, row: Row) -> Tensor:
    """A row as vectors [T, H] on the CPU, those of the prompt among them."""
    assert entry.injection is not None
    with torch.no_grad():
        batch = entry.prompt.batch([row])
        whole: Tensor = entry.prompt.backbone.embed(batch, entry.injection)
        return whole[0].cpu().contiguous()


def wishes(writer: Writer) -> dict[str, Any]:
    """The arguments of vLLM's `SamplingParams` for one choice.

    Which tokens end an answer is said here, not by the files that vLLM finds beside the model (`ignore_eos`). Stop
    strings and text are not vLLM's: the writer reads its tokens, so both mean what they mean in the built-in engine.
    A choice has a seed of its own, since each is a request of its own. Below 0.01, vLLM takes 0.01 for a temperature.
    """
    settings = writer.settings
    found = {
        "max_tokens": writer.room,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "logprobs": writer.logprobs,
        "stop_token_ids": sorted(writer.ending.ids),
        "ignore_eos": True,
        "detokenize": False,
    }
    return found | ({"seed": writer.chance.initial_seed()} if settings.temperature > 0 else {})


def hear(writer: Writer, said: Any) -> Reason | None:
    """Take the new tokens of a `CompletionOutput`, up to the one that ends the answer; the reason, where it ends.

    Raises `ServeError` SP-E848 where vLLM ended it for a reason of its own, SP-E705 for numbers that are not finite.
    """
    for place, token in enumerate(said.token_ids):
        writer.ids.append(token)
        if writer.logprobs is not None:
            writer.pending.append(weighed(writer, token, said.logprobs[place]))
        if (reason := writer.reason()) is not None:
            return reason
    if said.finish_reason not in ENDS:
        raise broken(f"an answer that vLLM ended with {str(said.finish_reason)!r}")
    return ENDS[said.finish_reason]


def weighed(writer: Writer, token: int, chances: Any) -> Token:
    """A token with its log-probability and the likeliest beside it, from vLLM's `Logprob` by token."""
    most = writer.logprobs or 0
    best = sorted((pair for pair in chances.items() if pair[1].rank <= most), key=lambda pair: pair[1].rank)[:most]
    if not all(math.isfinite(chance.logprob) for chance in (chances[token], *(chance for _, chance in best))):
        raise not_finite()
    top = tuple((writer.spell(i), chance.logprob) for i, chance in best)
    return Token(token, writer.spell(token), chances[token].logprob, top)


def broken(found: str) -> ServeError:
    """The error for a request that vLLM did not answer; what it says stays in the log."""
    do = "send it again; where it stays so, see the server's log and start the server again"
    return ServeError("SP-E848", found, "an answer of vLLM", do, trouble="internal")


def dead() -> ServeError:
    """The error for everything that is asked of a vLLM whose processes have ended: it never comes back by itself."""
    do = "see what vLLM wrote in the server's log, and start the server again"
    return ServeError("SP-E842", "a vLLM that has ended", "one that lives", do, trouble="engine_failed")


def mended(error: BaseException, lives: bool) -> SoftpromptError:
    """An error of ours as it is; any other goes to the log, and this one to the client."""
    if not lives:
        return dead()
    if isinstance(error, SoftpromptError):
        return error
    failure(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
    return broken(f"a request that vLLM did not answer ({type(error).__name__})")
