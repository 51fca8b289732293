"""What a run will take, before it begins: calls, tokens and money, at most and about."""

from dataclasses import dataclass

from softprompt.llm.endpoint import Endpoint
from softprompt.llm.loop import closing
from softprompt.llm.task import Task

BYTES = 4  # of a token of English text, about
REQUEST = 1000  # tokens of a request to the model that writes, about
PROMPT = 100  # tokens of a prompt that it writes, about
CLASS = 4  # tokens of an answer that is a class, about


@dataclass(frozen=True)
class Estimate:
    """Calls at most; tokens and cost as they will be about. `cost` is None where a price is missing."""

    calls: int
    closing: int  # of them for the finalists and the test
    writing: int  # of them requests for prompts, about
    tokens: int
    cost: float | None


def estimate(task: Task, start: str, calls: int, asked: Endpoint, writer: Endpoint | None, share: float) -> Estimate:
    """An estimate for a budget of `calls`, of which `share` ask for prompts while they are being made."""
    end = closing(task)
    writing = round(share * max(0, calls - end - len(task.race)))
    texts = [sum(len(m["content"].encode()) for m in task.messages(start, e)) / BYTES for e in task.race]
    answers = [CLASS if task.words else len(str(example.label).encode()) / BYTES for example in task.race]
    read, said = round(sum(texts) / len(texts)) or 1, round(sum(answers) / len(answers)) or 1
    answering = calls - writing
    tokens = answering * (read + said) + writing * (REQUEST + PROMPT)
    prices = [asked.price_in, asked.price_out]
    money = asked.price(answering * read, answering * said)
    if writer is not None:
        prices += [writer.price_in, writer.price_out]
        money += writer.price(writing * REQUEST, writing * PROMPT)
    return Estimate(calls, end, writing, tokens, None if None in prices else money)
