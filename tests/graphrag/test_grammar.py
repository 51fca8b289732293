"""Answers are read as the targets read them, and what is written is read back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.graphrag.grammar import LIGHT, LITERAL, Entity, Graph, Relation, occurs, read, unclosed, write
from softprompt.graphrag.targets import TARGETS

TEXT = (
    '("entity"<|>Ada Brink<|>person<|>She joined)\n##\n("entity"<|>KELM<|>FIRM<|>A firm)\n##\n'
    '("relationship"<|>ADA BRINK<|>KELM<|>She joined it<|>7)'
)
field = st.text(min_size=1).filter(lambda s: re.search(r"\w", s))


def graphrag(result: str) -> tuple[list[tuple[str, ...]], list[tuple[str, str, float]]]:
    """The rule of GraphRAG's extractor, written out once more."""
    nodes, edges = [], []
    for record in result.split("##"):
        parts = re.sub(r"^\(|\)$", "", record.strip()).split("<|>")
        if parts[0] == '"entity"' and len(parts) >= 4:
            nodes.append((parts[1].upper().strip(), parts[2].upper().strip(), parts[3].strip()))
        if parts[0] == '"relationship"' and len(parts) >= 5:
            try:
                weight = float(parts[-1])
            except ValueError:
                weight = 1.0
            edges.append((parts[1].upper().strip(), parts[2].upper().strip(), weight))
    return nodes, edges


@pytest.mark.parametrize(
    "answer",
    [
        TEXT,
        TEXT + "\n<|COMPLETE|>",
        TEXT + "\n##\n<|COMPLETE|>",
        "Here you are:\n" + TEXT,
        TEXT.replace('"entity"', "entity"),
        TEXT.replace("<|>7", ""),
        TEXT.replace("<|>7", "<|>strong"),
        TEXT.replace("A firm", "A (large) firm"),
        "",
        "(\n##\n)",
        "nothing to see",
    ],
)
def test_graphrag_answers_are_read_by_its_own_rule(answer: str) -> None:
    graph = read(answer, "tuples", LITERAL)
    nodes, edges = graphrag(answer)
    assert [tuple(one) for one in graph.entities] == nodes
    assert [(one.source, one.target, one.weight) for one in graph.relations] == edges


def test_a_weight_with_the_end_mark_behind_it_is_lost_and_that_is_noticed() -> None:
    """Defect 5 of GraphRAG's tuner: its examples put the mark there, and the last relationship weighs 1."""
    lost = read(TEXT + "\n<|COMPLETE|>", "tuples", LITERAL)
    assert (lost.relations[0].weight, lost.unweighted) == (1.0, 1)
    whole = read(TEXT + "\n##\n<|COMPLETE|>", "tuples", LITERAL)
    assert (whole.relations[0].weight, whole.unweighted) == (7.0, 0)
    nano = read(TEXT + "\n<|COMPLETE|>", "searched", LITERAL)  # which cuts at the end mark too
    assert (nano.relations[0].weight, nano.unweighted) == (7.0, 0)


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
@given(names=st.lists(field, min_size=2, max_size=3), kind=field, told=field, weight=st.integers(1, 10))
def test_what_is_written_is_read_back_without_loss(target, names, kind, told, weight) -> None:
    entities = tuple(Entity(f"N{i} {name}", kind, told) for i, name in enumerate(names))
    graph = Graph(entities, (Relation(entities[0].name, entities[1].name, told, weight, "work"),))
    back = read(write(graph, target.kind, target.marks), target.kind, target.marks)
    assert (len(back.entities), len(back.relations)) == (len(names), 1)
    assert not back.dropped
    assert back.unweighted == 0
    assert not unclosed(back)
    if target.kind != "lines":
        assert back.relations[0].weight == weight


def test_lightrag_reads_lines_of_four_and_of_five_fields() -> None:
    answer = (
        "entity<|#|>Ada Brink<|#|>Person<|#|>She joined\nentity<|#|>Kelm<|#|>Firm<|#|>A firm\n"
        "entity<|#|>Ada Brink<|#|>Kelm<|#|>work<|#|>She joined it\n"  # a relation under the wrong name, which it mends
        "relation<|#|>Ada Brink<|#|>Kelm<|#|>She joined it\nrelation<|#|>Kelm<|#|>Kelm<|#|>self<|#|>No\n<|COMPLETE|>"
    )
    graph = read(answer, "lines", LIGHT)
    assert graph.relations == (Relation("Ada Brink", "Kelm", "She joined it", keywords="work"),)
    assert (len(graph.entities), len(graph.dropped), graph.unweighted) == (2, 2, 0)


def test_nano_graphrag_loses_records_that_run_over_lines() -> None:
    graph = read('("entity"<|>A<|>B<|>one\ntwo)', "searched", LITERAL)
    assert (graph.entities, len(graph.dropped)) == ((), 1)


@pytest.mark.parametrize(
    ("name", "text", "there"),
    [
        ("ADA BRINK", "So Ada  Brink's boat", True),
        ("THE KELM WORKS", "at Kelm Works", True),
        ("CAR", "the cars of", True),
        ("CAR", "a cartoon", False),
        ("O'NEIL & SONS", "at O'Neil & Sons.", True),
        ("北京", "他在北京工作", True),
        ("STRASSE", "die Straße", True),
        ("?", "what?", False),
    ],
)
def test_a_name_is_grounded_where_the_text_has_it_as_words(name: str, text: str, there: bool) -> None:
    assert occurs(name, text) is there
