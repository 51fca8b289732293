"""Prompts keep every placeholder of their target, and nothing else that `str.format` would take for one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from graphrag.scripted import graph_of, story
from hypothesis import given
from hypothesis import strategies as st

from softprompt.graphrag import find_target, validate
from softprompt.graphrag.forms import Draft, Example, as_files, messages, render
from softprompt.graphrag.grammar import HOLES, LITERAL
from softprompt.graphrag.holes import holes, plain
from softprompt.graphrag.targets import TARGETS
from softprompt.graphrag.validate import check

NASTY = "{x} {0} {} }{ {{y}} {a.b[c]!r:>{w}} %s \\n $z"
each = pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))


def nasty(text: str) -> Draft:
    """A draft with this text everywhere."""
    example = Example(f"{story(1)} {text}", graph_of(story(1)), (text or "X",))
    same = dict.fromkeys(("task", "persona", "language", "role", "rating"), text)
    return Draft(types=(text or "X",), pinned=True, examples=(example,), **same)


@each
@given(text=st.text() | st.just(NASTY), chunk=st.text() | st.just(NASTY))
def test_no_text_of_model_or_corpus_can_break_a_prompt(target, text: str, chunk: str) -> None:
    """Defect 3: one brace in a persona or an example, and GraphRAG's index is empty."""
    prompts = render(nasty(text), target)
    asked = "\n".join(one["content"] for one in messages(prompts, target, chunk, ("A",)))
    assert chunk in asked
    assert text in asked
    for slot in target.slots:
        value = prompts[slot.name]
        for part in value if isinstance(value, list) else [value]:
            filled = part.format(**{name: f"<<{name}>>" for name in slot.known})
            assert all(f"<<{name}>>" in filled for name in holes(part))


@each
def test_every_placeholder_of_a_target_is_there(target) -> None:
    prompts = render(nasty("x"), target)
    for slot in target.slots:
        value = prompts[slot.name]
        found = set(holes("\n".join(value) if isinstance(value, list) else value))
        assert slot.needs | slot.keeps <= found <= slot.known, slot.name


def test_lengths_stay_settings() -> None:
    """GraphRAG's own tuner drops them, so max_length and max_report_length stop working."""
    prompts = render(Draft(), find_target("graphrag3"))
    assert "{max_length}" in prompts["summarize_descriptions.txt"]
    assert "{max_report_length}" in prompts["community_report_graph.txt"]


def test_types_are_a_setting_where_they_are_the_settings_and_written_in_where_they_are_not() -> None:
    graphrag = find_target("graphrag3")
    assert "{entity_types}" in render(Draft(), graphrag)["extract_graph.txt"]
    pinned = render(Draft(types=("SHIP", "{PORT}"), pinned=True), graphrag)["extract_graph.txt"]
    assert "{entity_types}" not in pinned
    assert "SHIP, {{PORT}}" in pinned
    assert "SHIP" in messages({"extract_graph.txt": pinned}, graphrag, "x", ("OTHER",))[0]["content"]
    nano = render(Draft(types=("SHIP",), pinned=True), find_target("nano"))
    assert nano["DEFAULT_ENTITY_TYPES"] == ["SHIP"]
    assert "{entity_types}" in nano["entity_extraction"]


@each
def test_our_prompts_pass_our_own_check_without_a_warning_but_for_types(target, tmp_path: Path) -> None:
    draft = replace(nasty(NASTY.replace("{", "(")), types=("PERSON", "FIRM"), pinned=False)
    for name, data in as_files(render(draft, target), target).items():
        (tmp_path / name).write_bytes(data)
        found = validate(tmp_path / name, target)
        assert found.good
        assert found.findings == []


def test_a_prompt_of_one_version_is_told_from_one_of_another() -> None:
    old = render(Draft(), find_target("graphrag2"))
    found = check(old, find_target("graphrag3"))
    assert not found.good
    assert any("2.x" in one.do for one in found.findings)
    assert check(render(Draft(), find_target("graphrag3")), find_target("graphrag2")).good  # literals work in both
    with pytest.raises(KeyError):
        messages(old, find_target("graphrag3"), "x", ())


def wrong(text: str, name: str = "extract_graph.txt", target: str = "graphrag3") -> list[tuple[str, str]]:
    """Levels and problems of a prompt."""
    return [(one.level, one.problem) for one in check({name: text}, find_target(target)).findings]


GOOD = render(Draft(), find_target("graphrag3"))["extract_graph.txt"]


@pytest.mark.parametrize(
    ("text", "level", "problem"),
    [
        (GOOD + "\n{", "error", "braces that do not match"),
        (GOOD + '{"title": 1}', "error", "does not fill"),
        (GOOD + "{}", "error", "does not fill"),
        (GOOD + "{input_text.upper}", "error", "does not fill"),
        (GOOD.replace("{input_text}", ""), "error", "no {input_text}"),
        (GOOD.replace("{entity_types}", "A"), "warning", "types are written into the prompt"),
        (GOOD.replace("##\n<|COMPLETE|>", "<|COMPLETE|>"), "warning", "lose their weight"),
        (GOOD.replace('"relationship"<|>IDA BRANDT', '"relationship"<|>SOMEONE'), "error", "no entity"),
        (GOOD.replace("<|>PERSON<|>Ida", "<|>Ida", 1).replace("<|>Ida Brandt is", "Ida Brandt is"), "error", "drops"),
        (GOOD.replace("IDA BRANDT", "OLE LIND"), "warning", "names that its text does not have"),
        (GOOD.replace("<|COMPLETE|>", "the end"), "error", "no <|COMPLETE|>"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_found(text: str, level: str, problem: str) -> None:
    found = wrong(text)
    assert [one for one in found if one[0] == level and problem in one[1]], found
    assert [one for one in found if one[0] == "error"] == [] or level == "error"


def test_length_placeholders_that_went_missing_are_told() -> None:
    assert wrong("{entity_name} {description_list}", "summarize_descriptions.txt") == [
        ("warning", "no {max_length}: the setting behind it has no effect")
    ]


def test_the_line_of_a_brace_is_named() -> None:
    found = check({"extract_graph.txt": GOOD + "see { here"}, find_target("graphrag3")).findings
    assert found[0].where == f"extract_graph.txt:{len(GOOD.splitlines()) + 1}"


def test_files_are_told_by_name_and_by_what_they_fill_in(tmp_path: Path) -> None:
    graphrag = find_target("graphrag3")
    for name, text, slot in (
        ("entity_extraction.txt", GOOD, "extract_graph.txt"),
        ("mine.txt", GOOD, "extract_graph.txt"),
        ("mine.txt", "{entity_name}{description_list}{max_length}", "summarize_descriptions.txt"),
        ("mine.txt", "{input_text}{max_report_length}", "community_report_graph.txt"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert validate(tmp_path / name, graphrag).prompts == [slot]
    (tmp_path / "mine.txt").write_text("{context_data}", encoding="utf-8")
    other = validate(tmp_path / "mine.txt", graphrag)
    assert (other.prompts, other.good, other.findings[0].level) == ([], False, "warning")
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe{input_text}")
    assert "UTF-8" in validate(tmp_path / "mine.txt", graphrag).findings[0].problem


@pytest.mark.parametrize("text", ["[]", "{", '{"entity_extraction": 3}', '{"DEFAULT_ENTITY_TYPES": "x"}', "{}"])
def test_a_json_file_of_prompts_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    found = validate(tmp_path / "p.json", find_target("nano"))
    assert not found.good
    assert found.findings[0].level == "error"


def test_examples_of_lightrag_are_a_list_because_it_joins_them() -> None:
    target = find_target("lightrag")
    prompts = render(Draft(), target)
    assert check(prompts, target).good
    prompts["entity_extraction_examples"] = "\n".join(prompts["entity_extraction_examples"])
    assert [one.problem for one in check(prompts, target).findings] == ["no list of texts"]


def test_an_unknown_target_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(Exception, match=r"SP-E790.*did you mean .graphrag3"):
        find_target("graphrag4")


def test_plain_text_survives_and_holes_are_listed() -> None:
    assert plain(NASTY).format() == NASTY
    assert holes("{{a}} {b} {c!r:>3} {}") == ["b", "c!r:>3", ""]
    assert HOLES.field.format(tuple_delimiter=LITERAL.field) == "<|>"
    assert json.loads(as_files(render(Draft(), TARGETS["nano"]), TARGETS["nano"])["nano_graphrag_prompts.json"])
