"""Answers in OpenAI's shapes."""

from dataclasses import dataclass, field
from typing import Any

from softprompt.serve.contract import Reason, Token, Usage


def usage_of(usage: Usage) -> dict[str, Any]:
    """The `usage` of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


@dataclass
class Completion:
    """The shape of /v1/completions."""

    logprobs: int | None = None
    ends: dict[int, int] = field(default_factory=dict)  # characters that each choice has so far

    whole, chunk, prefix = "text_completion", "text_completion", "cmpl-"

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Nothing comes before the text."""
        return []

    def full(self, index: int, text: str, tokens: list[Token], reason: Reason) -> dict[str, Any]:
        """One choice."""
        return {"index": index, "text": text, "logprobs": self.chances(index, tokens), "finish_reason": reason}

    def part(self, index: int, text: str, tokens: tuple[Token, ...]) -> dict[str, Any]:
        """One choice, as far as it goes."""
        return {"index": index, "text": text, "logprobs": self.chances(index, tokens), "finish_reason": None}

    def end(self, index: int, reason: Reason) -> dict[str, Any]:
        """One choice, complete."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}

    def chances(self, index: int, tokens: Any) -> dict[str, Any] | None:
        """Log-probabilities as four lists."""
        if self.logprobs is None:
            return None
        offsets, at = [], self.ends.get(index, 0)
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        self.ends[index] = at
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens] if self.logprobs else None,
            "text_offset": offsets,
        }


@dataclass
class Chat:
    """The shape of /v1/chat/completions."""

    logprobs: int | None = None

    whole, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def opening(self, index: int) -> list[dict[str, Any]]:
        """Who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def full(self, index: int, text: str, tokens: list[Token], reason: Reason) -> dict[str, Any]:
        """One choice."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self.chances(tokens), "finish_reason": reason}

    def part(self, index: int, text: str, tokens: tuple[Token, ...]) -> dict[str, Any]:
        """One choice, as far as it goes."""
        return {"index": index, "delta": {"content": text}, "logprobs": self.chances(tokens), "finish_reason": None}

    def end(self, index: int, reason: Reason) -> dict[str, Any]:
        """One choice, complete."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def chances(self, tokens: Any) -> dict[str, Any] | None:
        """Log-probabilities, an object a token."""
        if self.logprobs is None:
            return None
        content = [
            told(token.text, token.logprob) | {"top_logprobs": [told(text, chance) for text, chance in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}


def told(text: str, logprob: float) -> dict[str, Any]:
    """One token of a chat."""
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
