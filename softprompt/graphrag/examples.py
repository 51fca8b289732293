"""Examples for the extraction prompt: one request a chunk, read as the target reads it, mended, or asked for again."""

from dataclasses import dataclass, field, replace

from softprompt.graphrag.corpus import Chunk, excerpt
from softprompt.graphrag.forms import DEFAULT_EXAMPLE, Draft, Example, Messages, messages, render
from softprompt.graphrag.grammar import Entity, Graph, Relation, key, occurs, read
from softprompt.graphrag.speaker import TRIES, Meter
from softprompt.graphrag.targets import Target
from softprompt.graphrag.validate import check

TOKENS = 220  # of a chunk that an example shows: five examples stay near GraphRAG's limit of 2,000 tokens a prompt


@dataclass
class Examples:
    """What became of the chunks that examples were asked for."""

    kept: list[Example] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # why
    retried: int = 0
    removed: int = 0  # records taken out of those that were kept


def make_examples(meter: Meter, draft: Draft, target: Target, chunks: list[Chunk], reserve: int) -> Examples:
    """An example of every chunk whose answer can be used.

    Every request stands alone: the prompt of the draft with our default example, and this chunk. A chunk without a
    usable answer is asked again, as long as `reserve` calls stay unspent, and dropped after `TRIES` answers.
    """
    made = Examples()
    prompts = render(replace(draft, examples=(DEFAULT_EXAMPLE,)), target)
    waiting: list[tuple[Chunk, str]] = [(chunk, excerpt(chunk.text, TOKENS)) for chunk in chunks]
    kept: dict[str, Example] = {}
    reasons: dict[str, str] = {}
    for rollout in range(TRIES):
        if rollout and meter.left - len(waiting) < reserve:
            break
        made.retried += len(waiting) if rollout else 0
        asked = [request(prompts, target, draft, text) for _, text in waiting]
        failed = []
        for (chunk, text), answer in zip(waiting, meter.ask_all(asked, rollout=rollout), strict=True):
            graph, removed, wrong = mended(read(answer.text, target.kind, target.marks), text, draft.types)
            example = Example(text, graph, draft.types, chunk.hash)
            wrong = "an answer that was cut off" if answer.finished == "length" else wrong or misread(example, target)
            if wrong:
                reasons[chunk.hash] = f"{chunk.source}: {wrong}"
                failed.append((chunk, text))
            else:
                kept[chunk.hash] = example
                made.removed += removed
        waiting = failed
        if not waiting:
            break
    made.kept = [kept[chunk.hash] for chunk in chunks if chunk.hash in kept]
    made.dropped = [reasons[chunk.hash] for chunk, _ in waiting]
    return made


def request(prompts: dict[str, object], target: Target, draft: Draft, text: str) -> Messages:
    """The messages that ask for one example."""
    return messages(prompts, target, text, draft.types)


def misread(example: Example, target: Target) -> str:
    """Why an example cannot be told from its answer, as in a text that has delimiters itself; '' where it can."""
    found = check(render(Draft(examples=(example,)), target), target)
    return next((one.problem for one in found.findings if one.level == "error"), "")


def mended(graph: Graph, text: str, types: tuple[str, ...]) -> tuple[Graph, int, str]:
    """A graph without what its text or the types do not bear; how many records that took; why it is of no use, or ''.

    Kept are entities that the text names, of a given type, each once; and relationships between two of those, each
    pair once. With fewer than two entities, without a relationship, or with less than half of the records left it is of
    no use.
    """
    allowed = {one.casefold() for one in types}
    entities: dict[str, Entity] = {}
    for one in graph.entities:
        if occurs(one.name, text) and one.kind.casefold() in allowed:
            entities.setdefault(key(one.name), one)
    relations: dict[frozenset[str], Relation] = {}
    for edge in graph.relations:
        ends = [entities.get(key(end)) for end in (edge.source, edge.target)]
        if ends[0] and ends[1] and ends[0] is not ends[1]:
            named = edge._replace(source=ends[0].name, target=ends[1].name)
            relations.setdefault(frozenset((ends[0].name, ends[1].name)), named)
    left = Graph(tuple(entities.values()), tuple(relations.values()))
    removed = graph.records - left.records
    return left, removed, useless(graph, left)


def useless(graph: Graph, left: Graph) -> str:
    """Why what is left of a graph is no example; '' where it is one."""
    if not graph.records:
        return "an empty answer"
    if 2 * left.records < graph.records:
        return f"only {left.records} of {graph.records} records can be used"
    if len(left.entities) < 2:
        return f"{len(left.entities)} entities that can be used"
    return "" if left.relations else "no relationship that can be used"
