"""One request over the wire through the `openai` package, and what may go wrong with it by name."""

import os
from json import JSONDecodeError
from typing import Any, Literal

from softprompt.errors import RecipeError, SoftpromptError

Finished = Literal["stop", "length"]
NO_KEY = "no-key"  # the package insists on one
AGAIN = (408, 409, 425, 429)  # refusals that may be none the next time, beside every 5xx


class Failed(Exception):
    """One attempt that brought no answer: why, how long to wait, and whether the server may have charged for it."""

    def __init__(self, why: str, wait: float | None = None, charged: bool = False) -> None:
        super().__init__(why[:200])
        self.wait, self.charged = wait, charged


def connect(base_url: str, variable: str | None, timeout: float) -> Any:
    """The SDK's client of an endpoint, which repeats nothing by itself: every attempt is ours to pay.

    `variable` of the environment holds the key. Raises `RecipeError` SP-E730 without the package, SP-E731 without key.
    """
    try:
        import openai
    except ImportError as error:
        do = "pip install 'softprompt[llm]'"
        raise RecipeError("SP-E730", "no package openai", "the only client of language models", do) from error
    key = os.environ.get(variable, "") if variable else NO_KEY
    if not key:
        found, do = f"nothing in the environment variable {variable}", "put the API key there"
        raise RecipeError("SP-E731", found, "an API key", do)
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=timeout)


def send(sdk: Any, body: dict[str, Any], where: str) -> tuple[str, int | None, int | None, Finished]:
    """The text of an answer, the tokens in and out as far as the server counts them, and how the text ended.

    Raises `Failed` for what may be better next time, `SoftpromptError` SP-E733 for what will not.
    """
    import openai

    try:
        return read(sdk.chat.completions.create(**body))
    except openai.APITimeoutError as error:
        raise Failed("no answer in time", charged=True) from error
    except openai.APIConnectionError as error:
        raise Failed(f"no connection ({error.__cause__ or error})", charged=True) from error
    except openai.APIStatusError as error:
        if error.status_code in AGAIN or error.status_code >= 500:
            raise Failed(f"status {error.status_code}", retry_after(error.response.headers)) from error
        said = str(error.message).replace(sdk.api_key, "***")  # some servers repeat the key that they refuse
        found = f"status {error.status_code}: {said}"[:300]
        raise SoftpromptError("SP-E733", found, "an answer", remedy(said, body), where=where) from error
    except (openai.APIError, JSONDecodeError, UnicodeDecodeError) as error:
        raise Failed(f"a malformed answer ({error})", charged=True) from error


def remedy(said: str, body: dict[str, Any]) -> str:
    """What to do about a refusal, as far as its words tell which part of the request it is about."""
    if "temperature" in said.lower() and "temperature" in body:
        return "leave the temperature out: tempered=false (graphrag tune: --no-temperature); answers then vary"
    return "check address, model and key; seeded=false where the server takes no seed"


def retry_after(headers: Any) -> float | None:
    """The seconds that a server asks to wait; None where it names none (a date is not read)."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def read(made: Any) -> tuple[str, int | None, int | None, Finished]:
    """The first choice of a completion; raises `Failed` where it is none, or has no text."""
    choices = getattr(made, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        raise Failed("a malformed answer (no choice)", charged=True)
    text, cut = choices[0].message.content, choices[0].finish_reason == "length"
    if not isinstance(text, str) and not cut:
        raise Failed("a malformed answer (no text)", charged=True)
    text = (text or "").encode("utf-8", "replace").decode("utf-8")  # JSON may hold half a character
    usage = getattr(made, "usage", None)
    return text, counted(usage, "prompt_tokens"), counted(usage, "completion_tokens"), "length" if cut else "stop"


def counted(usage: Any, name: str) -> int | None:
    """A number of tokens; None where the server says none, or what is no number of tokens."""
    found = getattr(usage, name, None)
    return found if isinstance(found, int) and found >= 0 else None
