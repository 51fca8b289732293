"""The one loop of every strategy: rate the start, make prompts and race them while the budget allows, then decide.

At the end the best and the start are scored on dev examples that no candidate saw, the winner and the start on test.
The calls for that are kept back from the first one on, and one in ten beside them for calls that fail.
"""

from dataclasses import dataclass

from softprompt.errors import RecipeError
from softprompt.llm.budget import SPARE, Spent, Usage
from softprompt.llm.strategy import Board, Strategy
from softprompt.llm.task import Task

FINALISTS = 3  # prompts beside the start that are scored again
IDLE = 10  # steps in a row that bring nothing new, after which a run ends


@dataclass(frozen=True)
class Chosen:
    """The finalists on fresh examples: values by prompt, the winner, and what ended the run."""

    fresh: dict[str, list[float]]
    winner: str
    ended: str


def closing(task: Task) -> int:
    """The most calls of the end."""
    return (FINALISTS + 1) * len(task.fresh) + 2 * len(task.test)


def keep(board: Board, strategy: Strategy, start: str) -> None:
    """Keep back what the end takes; raises `RecipeError` SP-E736 for a budget that leaves no candidate beside it.

    Of tokens and cost, the most that calls with the start may use is kept.
    """
    budget, each = board.judge.client.budget, board.each([start])
    calls, first = closing(board.task), board.length + strategy.price(1)
    kept = with_spare(calls)
    budget.keep(kept, Usage(each.tokens * kept, each.cost * kept))
    if not budget.fits(first, each):
        found = f"a budget of {budget.calls:,} calls"
        if first <= budget.plannable:
            found += " with such a limit of tokens or cost"
        expected = f"{with_spare(calls + first) + 1:,} calls or more: the start, one candidate and the end"
        do = "raise --calls, --tokens or --cost, or lower --dev-examples or --test-examples"
        raise RecipeError("SP-E736", found, expected, do)


def with_spare(calls: int) -> int:
    """So many calls, and the ones that are kept for repeats."""
    return -(-calls * SPARE // (SPARE - 1))


def seek(board: Board, strategy: Strategy, start: str) -> str:
    """Rate the start and step until something ends the run; what did."""
    board.writer.known.add(start)
    board.race([start], [None])
    idle = 0
    while idle < IDLE:
        if board.best.mean == 1:
            return "a prompt without a mistake"
        count = strategy.affordable()
        if not count:
            return "the budget"
        board.step += 1
        try:
            idle = 0 if strategy.step(count) else idle + 1
        except Spent as error:  # calls that failed more often than one in ten, or the limit of tokens or cost
            return f"the budget ({error.found})"
    return f"{IDLE} steps without a new prompt"


def choose(board: Board, ended: str) -> Chosen:
    """Score the best prompts and the start on fresh examples; the start stays unless another is better there."""
    start, fresh = board.start, board.task.fresh
    finalists = [one.text for one in board.ranking if one.text != start.text][:FINALISTS]
    budget = board.judge.client.budget
    budget.release()
    while finalists:  # longer prompts than the start may use more than was kept
        calls = (1 + len(finalists)) * len(fresh) + 2 * len(board.task.test)
        if budget.fits(calls, board.each([start.text, *finalists])):
            break
        finalists.pop()
    board.judge.answers([start.text, *finalists], fresh)
    values = {text: board.judge.values(text, fresh) for text in (start.text, *finalists)}
    winner = max(values, key=lambda text: (sum(values[text]), board.rated[text].key))
    board.judge.client.log.decide({"finalists": {text: sum(v) / len(v) for text, v in values.items()}})
    return Chosen(values, winner, ended)
