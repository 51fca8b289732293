"""Whether a prompt file does what its target needs: placeholders, braces, delimiters, and examples that can be read."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from softprompt.files import read_regular
from softprompt.graphrag.grammar import read, unclosed, ungrounded
from softprompt.graphrag.holes import broken_line, hole, holes
from softprompt.graphrag.targets import DELIMITERS, Slot, Target

Level = Literal["error", "warning"]
LIMIT = 4 << 20  # bytes of a prompt file
SHOWN = 3  # names and records in a message
OLD_NAMES = {
    "entity_extraction.txt": "extract",
    "community_report.txt": "report",
    "community_report_text.txt": "report",
}
VALUES: dict[str, type] = {"DEFAULT_ENTITY_TYPES": list, "default_entity_types_guidance": str}  # filled in, not filled


@dataclass(frozen=True)
class Finding:
    """Something wrong with a prompt. An error breaks indexing or misleads the model; a warning costs something."""

    level: Level
    where: str
    problem: str
    do: str


@dataclass
class Checked:
    """What was found in a file."""

    path: str
    target: str
    prompts: list[str] = field(default_factory=list)  # what was checked in it
    examples: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether something was checked and no error found."""
        return bool(self.prompts) and not any(one.level == "error" for one in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"good": self.good}


def validate(path: Path, target: Target) -> Checked:
    """Check a prompt file for a target; raises `ArtifactError` SP-E308 or SP-E304 where it cannot be read."""
    data = read_regular(path, LIMIT)
    found = Checked(str(path), target.name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found.findings.append(Finding("error", path.name, f"no UTF-8 text ({error})", "save it as UTF-8"))
        return found
    prompts = read_prompts(path.name, text, target, found)
    return check(prompts, target, found)


def read_prompts(name: str, text: str, target: Target, found: Checked) -> dict[str, Any]:
    """The prompts of a file by the names of the target's slots; what is none of them is said in `found`."""
    if not target.file:
        slot = slot_of(name, text, target)
        if slot is None:
            do = f"nothing: only {', '.join(one.name for one in target.slots)} are checked"
            found.findings.append(Finding("warning", name, "a prompt of another kind, which was not checked", do))
        return {} if slot is None else {slot.name: text}
    return json_of(text, name, target, found)


def json_of(text: str, name: str, target: Target, found: Checked) -> dict[str, Any]:
    """The prompts of a JSON file; what is wrong with it is said in `found`."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (RecursionError, ValueError) as error:
        do = f"give the JSON file of {target.title}, prompts by their names"
        found.findings.append(Finding("error", name, f"no JSON object ({error})", do))
        return {}
    return values


def slot_of(name: str, text: str, target: Target) -> Slot | None:
    """The prompt that a file is: by its name, or by what is filled in."""
    parts = {slot.name: slot for slot in target.slots}
    if name in parts:
        return parts[name]
    if name in OLD_NAMES:
        return next(slot for slot in target.slots if slot.part == OLD_NAMES[name])
    if "{entity_name}" in text and "{description_list}" in text:
        return target.slot("summarize")
    if "{input_text}" not in text:
        return None
    return target.slot("extract" if "<|>" in text or "{tuple_delimiter}" in text else "report")


def check(prompts: dict[str, Any], target: Target, found: Checked | None = None) -> Checked:
    """Check prompts by the names of the target's slots."""
    found = found or Checked("", target.name)
    for name, form in VALUES.items():
        if name in prompts and not isinstance(prompts[name], form):
            kind = "list" if form is list else "text"
            found.findings.append(Finding("error", name, f"no {kind}", f"make it a {kind}"))
    for slot in target.slots:
        if slot.name not in prompts:
            continue
        value = prompts[slot.name]
        parts = value if slot.part == "examples" else [value]
        if not isinstance(parts, list) or not all(isinstance(one, str) for one in parts):
            kind = "list of texts" if slot.part == "examples" else "text"
            found.findings.append(Finding("error", slot.name, f"no {kind}", f"make it a {kind}"))
            continue
        text = "\n".join(parts)
        found.prompts.append(slot.name)
        wrong = [*braces(text, slot, target), *missing(text, slot)]
        found.findings.extend(wrong)
        if slot.part in ("extract", "examples") and not any(one.level == "error" for one in wrong):
            found.examples += answers_checked(text, slot, target, found)
    if target.file and not found.prompts and not found.findings:
        wanted = ", ".join(slot.name for slot in target.slots)
        found.findings.append(Finding("error", found.path, "none of the prompts that are checked", f"give {wanted}"))
    return found


def braces(text: str, slot: Slot, target: Target) -> Iterator[Finding]:
    """What `str.format` would stumble over."""
    try:
        names = holes(text)
    except ValueError as error:
        do = "double every brace that is no placeholder: {{ and }}"
        yield Finding("error", at(slot, broken_line(text)), f"braces that do not match ({error})", do)
        return
    for name in dict.fromkeys(names):
        if name in slot.known:
            continue
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        line = next((n for n, one in enumerate(text.splitlines(), 1) if "{" + name[:20] in one), 0)
        do = "write {{ and }} around text that is no placeholder"
        if name in DELIMITERS:
            do = f"write the delimiter itself: {target.title} fills no {hole(name)} (a prompt of GraphRAG 2.x?)"
        yield Finding("error", at(slot, line), f"{{{shown}}}, which {target.title} does not fill", do)


def missing(text: str, slot: Slot) -> Iterator[Finding]:
    """Placeholders that should be there."""
    try:
        names = set(holes(text))
    except ValueError:
        return
    for name in sorted(slot.needs - names):
        yield Finding("error", slot.name, f"no {hole(name)}", "put it where the target is to fill it in")
    for name in sorted(slot.keeps - names):
        do = "put it back, or leave that setting alone"
        yield Finding("warning", slot.name, f"no {hole(name)}: the setting behind it has no effect", do)
    for name in sorted((slot.may & {"entity_types"} if slot.part == "extract" else set()) - names):
        do = "nothing, if these are the types you want; the types of the settings have no effect"
        yield Finding("warning", slot.name, f"no {hole(name)}: types are written into the prompt", do)


def at(slot: Slot, line: int) -> str:
    """The place of a line."""
    return f"{slot.name}:{line}" if line else slot.name


def answers_checked(text: str, slot: Slot, target: Target, found: Checked) -> int:
    """Read every example of a prompt as the target would read such an answer; the number of examples."""
    given = dict(zip(("tuple_delimiter", "record_delimiter", "completion_delimiter"), target.marks, strict=True))
    filled = text.format(**{name: given.get(name, "x") for name in slot.known})
    for mark in (target.marks.field, target.marks.end):
        if mark not in filled:
            found.findings.append(Finding("error", slot.name, f"no {mark}", "tell the model to write it"))
    pairs = list(answers(filled, target))
    for n, (before, answer) in enumerate(pairs, start=1):
        found.findings.extend(answer_checked(before, answer, f"{slot.name}, example {n}", target))
    if not pairs:
        do = f"add one that ends with {target.marks.end}"
        found.findings.append(Finding("warning", slot.name, "no example that can be read", do))
    return len(pairs)


def answers(filled: str, target: Target) -> Iterator[tuple[str, str]]:
    """Every example's text and answer: what stands before its first record, and from there to the mark of the end."""
    mark = re.escape(target.marks.field)
    kinds = r'\(?"(?:entity|relationship)"' if target.kind != "lines" else "(?:entity|relation)"
    first = re.compile(rf"^\s*{kinds}{mark}(?!\s*<)", re.MULTILINE)  # a field in <> is a form to be filled in
    for piece in filled.split(target.marks.end)[:-1]:
        if begin := first.search(piece):
            yield piece[: begin.start()], piece[begin.start() :] + target.marks.end


def answer_checked(before: str, answer: str, where: str, target: Target) -> Iterator[Finding]:
    """What is wrong with one example."""
    graph = read(answer, target.kind, target.marks)
    if graph.dropped:
        shown = "; ".join(repr(one[:60]) for one in graph.dropped[:SHOWN])
        yield Finding("error", where, f"{len(graph.dropped)} records that {target.title} drops: {shown}", "mend them")
    if open_ends := unclosed(graph):
        shown = "; ".join(f"{one.source} - {one.target}" for one in open_ends[:SHOWN])
        do = "add the entities, or take the relationships out"
        yield Finding("error", where, f"{len(open_ends)} relationships between what is no entity: {shown}", do)
    if graph.unweighted:
        do = f"write {target.marks.record} between the last relationship and {target.marks.end}"
        yield Finding("warning", where, f"{graph.unweighted} relationships that lose their weight", do)
    if strange := ungrounded(graph, before):
        shown = ", ".join(one.name for one in strange[:SHOWN])
        do = "use names as the text has them"
        yield Finding("warning", where, f"{len(strange)} names that its text does not have: {shown}", do)
