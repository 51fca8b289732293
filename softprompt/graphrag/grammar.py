"""The grammars in which models write graphs for GraphRAG, nano-graphrag and LightRAG: read as they read, and written.

What each of them does was read in its source: GraphRAG 3.3.0 and 2.7.0 (`GraphExtractor`), nano-graphrag 0.0.8.2
(`_op.extract_entities`), LightRAG 1.5.7 (`operate._process_extraction_result`).
"""

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["tuples", "searched", "lines"]
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ARTICLES = frozenset({"the", "a", "an"})
UNSPACED = 0x0E00  # from here on: scripts that write words without spaces between them


class Entity(NamedTuple):
    """A node."""

    name: str
    kind: str
    description: str


class Relation(NamedTuple):
    """An edge. LightRAG's have keywords, the others a weight."""

    source: str
    target: str
    description: str
    weight: float = 1.0
    keywords: str = ""


@dataclass(frozen=True)
class Graph:
    """What a target reads in an answer, and what it loses: records dropped, and edges whose weight it cannot read."""

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    dropped: tuple[str, ...] = ()
    unweighted: int = 0

    @property
    def records(self) -> int:
        """Records in all, read or not."""
        return len(self.entities) + len(self.relations) + len(self.dropped)


class Marks(NamedTuple):
    """The delimiters: between fields, between records, after the last."""

    field: str
    record: str
    end: str


LITERAL = Marks("<|>", "##", "<|COMPLETE|>")
HOLES = Marks("{tuple_delimiter}", "{record_delimiter}", "{completion_delimiter}")
LIGHT = Marks("<|#|>", "\n", "<|COMPLETE|>")
LIGHT_HOLES = Marks("{tuple_delimiter}", "\n", "{completion_delimiter}")


def read(text: str, kind: Kind, marks: Marks) -> Graph:
    """The graph that a target of this grammar reads in an answer.

    Deviation: LightRAG first mends delimiters that a model broke; here such a record counts as dropped.
    """
    entities: list[Entity] = []
    relations: list[Relation] = []
    dropped: list[str] = []
    unweighted = 0
    for record in records(text, kind, marks):
        fields = [cleaned(field) for field in split(record, kind, marks)]
        made = (line_of if kind == "lines" else tuple_of)(fields)
        if isinstance(made, Entity):
            entities.append(made)
        elif isinstance(made, Relation):
            relations.append(made)
            unweighted += kind != "lines" and weight(fields[-1], kind) is None
        else:
            dropped.append(record)
    return Graph(tuple(entities), tuple(relations), tuple(dropped), unweighted)


def records(text: str, kind: Kind, marks: Marks) -> Iterator[str]:
    """The records of an answer as the target cuts it, without empty ones and the mark of the end."""
    if kind == "tuples":  # GraphRAG cuts at the record mark alone: an end mark after the last record stays in it
        parts = text.split(marks.record)
    elif kind == "searched":
        parts = re.split("|".join(map(re.escape, (marks.record, marks.end))), text)
    else:
        parts = re.split("|".join(map(re.escape, ("\n", marks.end, marks.end.lower()))), text)
    for part in map(str.strip, parts):
        if part and part not in ("(", ")", "()") and part != marks.end:
            yield part


def split(record: str, kind: Kind, marks: Marks) -> list[str]:
    """The fields of a record as the target cuts it."""
    if kind == "tuples":
        return re.sub(r"^\(|\)$", "", record).split(marks.field)
    if kind == "searched":
        inside = re.search(r"\((.*)\)", record)  # no line break within: the target's pattern has none either
        record = inside[1] if inside else ""
    return [part for part in map(str.strip, record.split(marks.field)) if part]


def tuple_of(fields: list[str]) -> Entity | Relation | None:
    """The record of GraphRAG and nano-graphrag with these fields."""
    if fields[:1] == ['"entity"'] and len(fields) >= 4 and bare(fields[1]):
        return Entity(bare(fields[1]).upper(), bare(fields[2]).upper(), fields[3])
    if fields[:1] == ['"relationship"'] and len(fields) >= 5 and bare(fields[1]) and bare(fields[2]):
        found = weight(fields[-1], "tuples")
        return Relation(bare(fields[1]).upper(), bare(fields[2]).upper(), fields[3], 1.0 if found is None else found)
    return None


def line_of(fields: list[str]) -> Entity | Relation | None:
    """The record of LightRAG with these fields."""
    if len(fields) == 4 and "entity" in fields[0]:
        return Entity(bare(fields[1]), bare(fields[2]), fields[3])
    marked = any(word in fields[0] for word in ("relation", "entity")) if fields else False  # both, as LightRAG does
    if len(fields) == 5 and marked and key(fields[1]) != key(fields[2]):
        return Relation(bare(fields[1]), bare(fields[2]), fields[4], keywords=fields[3])
    return None


def weight(field: str, kind: Kind) -> float | None:
    """The weight that a target reads in the last field of an edge; None where it falls back to 1."""
    if kind == "searched" and not re.match(r"^[-+]?[0-9]*\.?[0-9]+$", field):
        return None
    try:
        return float(field)
    except ValueError:
        return None


def write(graph: Graph, kind: Kind, marks: Marks, plain: Callable[[str], str] = str) -> str:
    """A graph as a model should answer it; `plain` is applied to everything that is not a delimiter.

    The mark of the end is a record of its own: behind the last edge, GraphRAG would take it into that edge's weight.
    """
    both: list[Entity | Relation] = [*graph.entities, *graph.relations]
    rows = [fields_of(one, kind) for one in both]
    made = [marks.field.join(plain(safe(field)) for field in row) for row in rows]
    if kind == "lines":
        return "\n".join([*made, marks.end])
    return f"\n{marks.record}\n".join([*(f"({row})" for row in made), marks.end])


def fields_of(one: Entity | Relation, kind: Kind) -> list[str]:
    """The fields of a record, its type first."""
    if isinstance(one, Entity):
        return ["entity" if kind == "lines" else '"entity"', *one]
    if kind == "lines":
        return ["relation", one.source, one.target, one.keywords or "related", one.description]
    return ['"relationship"', one.source, one.target, one.description, f"{one.weight:g}"]


def safe(field: str) -> str:
    """A field without line breaks and delimiters of any target."""
    for mark in (*LITERAL, LIGHT.field):
        field = field.replace(mark, " ")
    return " ".join(cleaned(field.replace("\n", " ")).split()) or "-"


def cleaned(field: str) -> str:
    """A field as all targets clean it: no HTML escapes, no control characters."""
    return CONTROL.sub("", html.unescape(field.strip()))


def bare(name: str) -> str:
    """A name without the quotes that some models put around it."""
    return name.strip().strip("\"'").strip()


def key(name: str) -> str:
    """What two writings of one name share: no case, no marks, no article."""
    words = re.findall(r"\w+", name.casefold())
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def occurs(name: str, text: str) -> bool:
    """Whether a text has a name, as whole words and whatever its case; an English plural counts."""
    words = key(name)
    if not words:
        return False
    where = " ".join(re.findall(r"\w+", text.casefold()))
    if any(ord(c) >= UNSPACED for c in words):
        return words.replace(" ", "") in where.replace(" ", "")
    return re.search(rf"(?<!\w){re.escape(words)}s?(?!\w)", where) is not None


def unclosed(graph: Graph) -> list[Relation]:
    """The edges with an end that is no entity of the graph."""
    names = {key(one.name) for one in graph.entities}
    return [one for one in graph.relations if not {key(one.source), key(one.target)} <= names]


def ungrounded(graph: Graph, text: str) -> list[Entity]:
    """The entities whose name a text does not have."""
    return [one for one in graph.entities if not occurs(one.name, text)]
