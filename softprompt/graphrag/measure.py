"""How good the graphs of a prompt are, without labels: what a target can read of them, and what the chunk bears out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from softprompt.graphrag.corpus import Chunk
from softprompt.graphrag.forms import Prompts, messages
from softprompt.graphrag.grammar import Graph, key, read, unclosed, ungrounded
from softprompt.graphrag.speaker import Meter
from softprompt.graphrag.targets import Target
from softprompt.metrics.compare import Difference, paired

LEVEL = 0.05  # the p below which a difference counts as one
NAMES = 4  # in a message


@dataclass(frozen=True)
class Reading:
    """What was read in the answers to one chunk. Shares from 0 to 1; None: does not apply."""

    parsed: float  # records that the target reads in full
    closed: float  # relationships whose ends are entities
    grounded: float  # entities whose name the chunk has
    typed: float | None  # entities of a given type
    distinct: float  # entities and pairs that are no repetition
    agreeing: float | None  # names and pairs that a second answer has too, of those in either (Jaccard)
    facts: int  # relationships without any fault: the measure of how much is found
    tokens: int  # in and out, of the first answer
    faults: tuple[str, ...] = ()

    def parts(self) -> dict[str, float | None]:
        """The shares."""
        names = ("parsed", "closed", "grounded", "typed", "distinct", "agreeing")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Measured:
    """Readings of the same chunks, in their order."""

    readings: list[Reading] = field(default_factory=list)

    def mean(self) -> dict[str, float]:
        """Means over chunks of all that applies, facts and tokens among them."""
        found: dict[str, list[float]] = {}
        for one in self.readings:
            for name, value in (one.parts() | {"facts": one.facts, "tokens": one.tokens}).items():
                if value is not None:
                    found.setdefault(name, []).append(value)
        return {name: fmean(values) for name, values in found.items()}

    def scores(self, names: Sequence[str]) -> list[float]:
        """The score of every chunk: the mean of these parts, those of them that apply."""
        return [fmean(v for name in names if (v := one.parts()[name]) is not None) for one in self.readings]


@dataclass(frozen=True)
class Verdict:
    """Whether prompts are better than others on the same chunks."""

    better: bool
    sentence: str
    score: Difference | None = None
    facts: Difference | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        both = {"score": self.score, "facts": self.facts}
        return asdict(self) | {name: None if one is None else one._asdict() for name, one in both.items()}


def measure(
    meter: Meter, prompts: Prompts, target: Target, types: tuple[str, ...] | None, chunks: Sequence[Chunk], samples: int
) -> Measured:
    """Readings of what prompts yield on chunks, `samples` (1 or 2) answers to each.

    `types` are those the prompts name; None where that is not known. The second answer is at a higher temperature.
    """
    asked = [messages(prompts, target, chunk.text, types or ()) for chunk in chunks]
    answers = [meter.ask_all(asked, rollout=n) for n in range(samples)]
    found = []
    for i, chunk in enumerate(chunks):
        graphs = [read(one[i].text, target.kind, target.marks) for one in answers]
        tokens = answers[0][i].tokens_in + answers[0][i].tokens_out
        found.append(reading(graphs, chunk.text, types, tokens, answers[0][i].finished == "length"))
    return Measured(found)


def reading(graphs: Sequence[Graph], text: str, types: tuple[str, ...] | None, tokens: int, cut: bool) -> Reading:
    """The reading of a chunk. An answer without an entity scores 0 in every part."""
    graph = graphs[0]
    faults = tuple(faults_of(graph, text, types, cut))
    if not graph.entities:
        typed = None if types is None else 0.0
        return Reading(0.0, 0.0, 0.0, typed, 0.0, None if len(graphs) < 2 else 0.0, 0, tokens, faults)
    open_ends, strange = unclosed(graph), ungrounded(graph, text)
    odd = untyped(graph, types)
    names = [key(one.name) for one in graph.entities]
    pairs = [frozenset((key(one.source), key(one.target))) for one in graph.relations]
    faulty = {key(one.name) for one in (*strange, *odd)}
    good = {pair for pair in pairs if len(pair) == 2 and pair <= set(names) - faulty}
    return Reading(
        parsed=1 - (len(graph.dropped) + graph.unweighted) / graph.records,
        closed=1 - len(open_ends) / max(len(graph.relations), 1),
        grounded=1 - len(strange) / len(names),
        typed=None if types is None else 1 - len(odd) / len(names),
        distinct=(len(set(names)) + len(set(pairs))) / (len(names) + len(pairs)),
        agreeing=agreement(graphs[0], graphs[1]) if len(graphs) > 1 else None,
        facts=len(good),
        tokens=tokens,
        faults=faults,
    )


def untyped(graph: Graph, types: tuple[str, ...] | None) -> list[Any]:
    """The entities of a type that is not given."""
    allowed = {one.casefold() for one in types or ()}
    return [] if types is None else [one for one in graph.entities if one.kind.casefold() not in allowed]


def agreement(first: Graph, second: Graph) -> float:
    """Names and pairs in both graphs, as a share of those in either."""
    a, b = (
        {frozenset((key(one.name),)) for one in graph.entities}
        | {frozenset((key(one.source), key(one.target))) for one in graph.relations}
        for graph in (first, second)
    )
    return len(a & b) / len(a | b)


def faults_of(graph: Graph, text: str, types: tuple[str, ...] | None, cut: bool) -> list[str]:
    """What is wrong with an answer, in words."""
    found = ["the answer was cut off at the limit of tokens"] if cut else []
    if not graph.entities:
        return [*found, "no entity that can be read"]
    if graph.dropped:
        found.append(f"{len(graph.dropped)} records in another format, such as {graph.dropped[0][:80]!r}")
    if graph.unweighted:
        found.append(f"{graph.unweighted} relationships without a readable strength")
    if open_ends := unclosed(graph):
        ends = sorted({end for one in open_ends for end in (one.source, one.target)} - {e.name for e in graph.entities})
        found.append(f"relationships whose ends are no entities: {', '.join(ends[:NAMES])}")
    if strange := ungrounded(graph, text):
        found.append(f"names that the text does not have: {', '.join(one.name for one in strange[:NAMES])}")
    if odd := untyped(graph, types):
        found.append(f"types that were not given: {', '.join(sorted({one.kind for one in odd})[:NAMES])}")
    return found


def shared_parts(one: Measured, other: Measured) -> list[str]:
    """The parts that apply to both."""
    return [name for name in one.mean() if name in other.mean() and name not in ("facts", "tokens")]


def judge(mine: Measured, theirs: Measured) -> Verdict:
    """Better means: a higher score than by chance, and not fewer facts than by chance. Both are paired by chunk."""
    count = len(mine.readings)
    if count < 2:
        return Verdict(False, f"not measured: {count} chunks held out, where at least 6 can show a gain")
    names = shared_parts(mine, theirs)
    score = paired(mine.scores(names), theirs.scores(names))
    facts = paired([float(one.facts) for one in mine.readings], [float(one.facts) for one in theirs.readings])
    told = f"score {score.difference:+.3f} ±{score.error:.3f} (p = {score.p:.2g}) on {count} chunks"
    if score.p < LEVEL and score.difference > score.error:
        if facts.p < LEVEL and facts.difference < 0:
            sentence = f"no gain: {told}, but {-facts.difference:.1f} fewer facts a chunk (p = {facts.p:.2g})"
            return Verdict(False, sentence, score, facts)
        return Verdict(True, f"better than the default: {told}", score, facts)
    return Verdict(False, f"no gain: keep the default ({told})", score, facts)


__all__ = ["Measured", "Reading", "Verdict", "judge", "measure", "reading"]
