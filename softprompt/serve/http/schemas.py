"""What clients may send. Unknown keys are refused, and so are options of OpenAI's that would be ignored here."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from softprompt.serve.contract import Sampling

MODEL = 260  # characters of `name@version`
MANY = 64  # inputs of one request
CHOICES = 8
TEXT = 200_000  # characters of one text; what the prompt's context holds is checked in tokens

Name = Annotated[str, Field(min_length=1, max_length=MODEL, examples=["reviews", "reviews@3", "reviews@prod"])]
Text = Annotated[str, Field(max_length=TEXT)]
Columns = Annotated[dict[Annotated[str, Field(max_length=128)], Text], Field(max_length=32)]
Words = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=10_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Off = Literal[0, False] | None  # an option that is understood, and does nothing here


class Asked(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    model: Name
    user: Annotated[str, Field(max_length=512)] | None = None  # accepted and not looked at


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Writing(Asked):
    """Options that completions and chat share. Without them the likeliest token is written."""

    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Off = None
    frequency_penalty: Off = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def streaming(self) -> "Writing":
        """`stream_options` belong to a stream."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options without stream")
        return self

    def sampling(self, seed: int, logprobs: int | None) -> Sampling:
        """The same wishes as the engine wants them; `seed` is what a request without one draws."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        temperature = self.temperature or 0.0
        return Sampling(
            max_new_tokens=self.most,
            temperature=temperature,
            top_p=(self.top_p or 1.0) if temperature else 1.0,  # the likeliest token is in every share
            stop=tuple(stop),
            seed=seed if self.seed is None else self.seed,
            logprobs=logprobs,
            n=self.n or 1,
        )

    @property
    def most(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_tokens


class CompletionRequest(Writing):
    """POST /v1/completions: `prompt` is the raw text, or a value for each column of the prompt's template."""

    prompt: Text | Columns | Annotated[list[Text | Columns], Field(min_length=1, max_length=MANY)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """The text that the prompt's template is written around."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=32)]
    name: Annotated[str, Field(max_length=64)] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    """Only text is written."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatRequest(Writing):
    """POST /v1/chat/completions: one message of a user, since a prompt reads one text and would ignore the rest."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def consistent(self) -> "ChatRequest":
        """Two names of one limit must not differ, and alternatives need `logprobs`."""
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs without logprobs")
        return self

    @property
    def most(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens


class ScoreRequest(Asked):
    """POST /v1/classify and /v1/regress: a text, a value for each column, or a list of either."""

    input: Text | Columns | Annotated[list[Text | Columns], Field(min_length=1, max_length=MANY)]


class TagRequest(Asked):
    """POST /v1/tag: a sentence, split at white space; a list of sentences; or lists of words."""

    input: Text | Annotated[list[Text | Words], Field(min_length=1, max_length=MANY)]


class EmbeddingRequest(Asked):
    """POST /v1/embeddings."""

    input: Text | Columns | Annotated[list[Text | Columns], Field(min_length=1, max_length=MANY)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None


class NameRequest(BaseModel):
    """A name for the administrator's calls: never a path."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Name


def problem(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """What pydantic found first, without what the client sent: a message, and the field where it is one of ours."""
    first = errors[0]
    known = {
        name for kind in (CompletionRequest, ChatRequest, ScoreRequest, EmbeddingRequest) for name in kind.model_fields
    }
    param = next((part for part in first.get("loc", ()) if part in known), None)
    if first["type"] == "extra_forbidden" and param is None:
        return "an option that this server does not have", None
    return str(first["msg"])[:300], param
