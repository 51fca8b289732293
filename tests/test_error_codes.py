"""docs/errors.md lists every code there is, each with one class and one meaning; messages are one line."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt import errors
from softprompt.errors import DataError, SoftpromptError, near

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "softprompt").rglob("*.py"))
CODE = re.compile(r"SP-[EW]\d{3}")
CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
RANGES = {"1": "DataError", "2": "RecipeError", "3": "ArtifactError", "5": "TrainingError"}
# What a module calls its errors by when they are not one of the classes: problems of a data file become DataErrors.
OURS = {"Problem": "DataError", "Wrong": "DataError", "InputError": "DataError", "ServeError": "SoftpromptError"}


def listed() -> dict[str, list[str]]:
    """The cells of every row of the page, by code."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in re.findall(r"^\| `SP.*\|$", page, re.M)]
    codes = [row[0].strip("` |") for row in rows]
    assert len(set(codes)) == len(codes), "a code listed twice"
    return dict(zip(codes, (row[1:] for row in rows), strict=True))


def used() -> set[str]:
    return {code for path in FILES for code in CODE.findall(path.read_text(encoding="utf-8"))}


def raised() -> dict[str, set[str]]:
    """The classes that each code is raised as; functions that make errors say so by what they return."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES]
    shared: defaultdict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for name, kind in makers(tree).items():
            shared[name].add(kind)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for tree in trees:
        own = makers(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            name = node.func.id
            kinds = {name} & CLASSES.keys() or {OURS.get(name, "")} - {""} or {own.get(name, "")} - {""} or shared[name]
            for part in node.args:
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and CODE.fullmatch(part.value):
                    found[part.value] |= kinds
    return found


def makers(tree: ast.AST) -> dict[str, str]:
    """The functions of a file that return an error, and its class."""
    known = OURS | {name: name for name in CLASSES}
    return {
        node.name: known[node.returns.id]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name) and node.returns.id in known
    }


LISTED, RAISED = listed(), raised()


def test_the_page_lists_the_codes_of_the_source_and_no_other() -> None:
    assert sorted(used() - LISTED.keys()) == [], "in the source, but not in docs/errors.md"
    assert sorted(LISTED.keys() - used()) == [], "in docs/errors.md, but not in the source"
    assert len(LISTED) > 100


@pytest.mark.parametrize("code", sorted(LISTED))
def test_a_code_has_one_class_in_its_range_and_a_remedy(code: str) -> None:
    kind, meaning, do = LISTED[code]
    assert RAISED[code] <= {kind}
    assert kind in CLASSES
    assert kind == "SoftpromptError" or kind == RANGES.get(code[4], kind)
    assert issubclass(CLASSES[kind], CLASSES["BackboneError"]) == (code[4] == "4")
    assert meaning
    assert do


def test_nearly_all_classes_were_found_in_the_source() -> None:
    """The test above would be empty if the source were read wrongly."""
    assert len([code for code in LISTED if RAISED[code]]) > 0.9 * len(LISTED)


def test_no_two_codes_say_the_same() -> None:
    meanings = [row[1] for row in LISTED.values()]
    assert len(set(meanings)) == len(meanings)


def test_other_pages_mention_only_codes_that_exist() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    assert {code for page in pages for code in CODE.findall(page.read_text(encoding="utf-8"))} <= LISTED.keys()


@given(st.lists(st.text(), min_size=3, max_size=3), st.none() | st.text(min_size=1))
def test_a_message_is_one_line_whatever_was_found(parts: list[str], where: str | None) -> None:
    error = DataError("SP-E101", *parts, where=where)
    assert len(str(error).splitlines()) == 1
    assert str(error).startswith("SP-E101 ")
    assert error.as_dict()["message"] == str(error)
    assert (error.code, error.found, error.expected, error.do, error.where) == ("SP-E101", *parts, where)


def test_every_error_is_one_to_catch() -> None:
    assert all(issubclass(kind, SoftpromptError) for name, kind in CLASSES.items() if name.endswith("Error"))
    assert {kind.exit_code for kind in CLASSES.values() if issubclass(kind, SoftpromptError)} == {2}


def test_near_names_are_suggested_and_far_ones_not() -> None:
    assert near("postive", ["positive", "negative"]) == " (did you mean 'positive'?)"
    assert near("zzz", ["positive", "negative"]) == ""


def test_every_setting_that_a_message_names_exists() -> None:
    from softprompt.recipe import known_keys

    pattern = re.compile(r"(?:--set |\bset |[\"' ])((?:backbone|data|task|method|init|optim|train)\.[a-z_]+)(?==)")
    named = {key for path in FILES for key in pattern.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 5
    assert named <= {*known_keys(), "method.options"}
