"""A small engine that speaks as vLLM's `AsyncLLM` does: embeddings in, new tokens out, a stream that is left aborts."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import torch


@dataclass
class Params:
    """The fields of vLLM's `SamplingParams` that we set."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0
    logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    detokenize: bool = True
    seed: int | None = None


class Spoken:
    """Writes with a backbone of its own, one whole forward a token; `fails` breaks every answer after two tokens.

    Once it has died (`errored`, as vLLM calls it) it is silent, or with `tells` raises, as vLLM does where it can.
    """

    def __init__(self, frozen, pause=0.0, *, fails=False, ends=None, longest=10**6):
        self.model_config = SimpleNamespace(max_model_len=longest)
        self.frozen, self.pause, self.fails, self.ends = frozen, pause, fails, ends
        self.asked, self.aborted, self.closed = [], [], False
        self.errored, self.tells = False, False

    async def generate(self, prompt, params, request_id):
        given = prompt["prompt_embeds"]
        assert set(prompt) == {"prompt_embeds"}
        assert given.ndim == 2
        assert not any(request_id == known for known, _ in self.asked)
        assert params.ignore_eos
        assert not params.detokenize
        self.asked.append((request_id, params))
        chance = torch.Generator().manual_seed(params.seed) if params.temperature else None
        try:
            for place in range(params.max_tokens):
                await asyncio.sleep(self.pause)
                if self.errored:
                    await self.dead()
                if self.fails and place == 2:
                    raise RuntimeError("the worker died")
                token, chances = self.next(given, params, chance)
                end = "stop" if token in params.stop_token_ids else None
                end = end or ("length" if place + 1 == params.max_tokens else None)
                if self.ends and place == 2:
                    end = self.ends
                said = SimpleNamespace(token_ids=[token], finish_reason=end)
                said.logprobs = None if chances is None else [chances]
                yield SimpleNamespace(outputs=[said], finished=end is not None, num_cached_tokens=3)
                if end:
                    return
                word = self.frozen.model.get_input_embeddings()(torch.tensor([token])).detach()
                given = torch.cat([given, word])
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    async def dead(self):
        if self.tells:
            raise RuntimeError("EngineDeadError")
        await asyncio.Event().wait()

    @torch.no_grad()
    def next(self, given, params, chance):
        """A token, and the log-probabilities of it and of the likeliest."""
        logits = self.frozen.model(inputs_embeds=given[None]).logits[0, -1].float()
        logs = logits.log_softmax(-1)
        token = int(logits.argmax())
        if chance is not None:
            token = int(torch.multinomial((logits / params.temperature).softmax(-1), 1, generator=chance))
        if params.logprobs is None:
            return token, None
        order = logs.argsort(descending=True).tolist()
        wanted = dict.fromkeys([token, *order[: params.logprobs]])
        return token, {i: SimpleNamespace(logprob=float(logs[i]), rank=order.index(i) + 1) for i in wanted}

    def shutdown(self):
        self.closed = True
