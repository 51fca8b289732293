"""A draft of prompts, and what it looks like as the files of a target."""

import json
from dataclasses import dataclass, field
from typing import Any

from softprompt.graphrag import texts
from softprompt.graphrag.grammar import Entity, Graph, Marks, Relation, write
from softprompt.graphrag.holes import hole, plain
from softprompt.graphrag.targets import Slot, Target

Prompts = dict[str, Any]  # by the names of a target's slots; its files hold these and nothing else
Messages = list[dict[str, str]]
LIGHT_LIMITS = {"max_total_records": 100, "max_entity_records": 40}  # what scoring fills in for LightRAG's settings


@dataclass(frozen=True)
class Example:
    """A text and the graph that an answer to it should be."""

    text: str
    graph: Graph
    types: tuple[str, ...]
    chunk: str = ""  # the hash of the chunk it is from


DEFAULT_EXAMPLE = Example(
    texts.EXAMPLE_TEXT,
    Graph(
        tuple(Entity(*one) for one in texts.EXAMPLE_ENTITIES),
        tuple(Relation(*one) for one in texts.EXAMPLE_RELATIONS),
    ),
    texts.EXAMPLE_TYPES,
)
DEFAULT_TYPES = ("organization", "person", "geo", "event")  # what GraphRAG's settings name by default


@dataclass(frozen=True)
class Draft:
    """What prompts say, in no target's form. As it is made here, it is our default."""

    types: tuple[str, ...] = DEFAULT_TYPES
    pinned: bool = False  # types stand in the prompt itself, because the target's settings do not know them
    task: str = texts.TASK
    persona: str = ""
    language: str = texts.OWN_LANGUAGE
    role: str = texts.ROLE
    rating: str = texts.RATING
    examples: tuple[Example, ...] = field(default=(DEFAULT_EXAMPLE,))


def render(draft: Draft, target: Target) -> Prompts:
    """The prompts of a target. Everything that is not a placeholder of it survives `str.format`."""
    makers = {
        "extract": extract,
        "system": light_system,
        "user": light_user,
        "examples": light_examples,
        "summarize": summarize,
        "report": report,
    }
    made: Prompts = {slot.name: makers[slot.part](draft, target, slot) for slot in target.slots}
    if target.name == "nano":
        made["DEFAULT_ENTITY_TYPES"] = list(draft.types)
    if target.name == "lightrag":  # given to the prompt as a value: never formatted itself, so never escaped
        made["default_entity_types_guidance"] = guidance(draft.types)
    return made


def extract(draft: Draft, target: Target, slot: Slot) -> str:
    """The extraction prompt of GraphRAG and nano-graphrag."""
    pinned = draft.pinned and "entity_types" not in slot.keeps
    types = plain(", ".join(draft.types)) if pinned else hole("entity_types")
    marks = target.written
    entity, relation = (marks.field.join(row) for row in tuple_shapes())
    shown = "\n\n".join(
        f"--- Example {n} ---\nEntity types: {plain(', '.join(one.types))}\nText:\n{plain(one.text)}\nOutput:\n"
        f"{write(one.graph, target.kind, marks, plain)}"
        for n, one in enumerate(draft.examples, start=1)
    )
    return f"""\
{opening(draft)}--- Task ---
{plain(draft.task)}

--- Output ---
A record for every entity: ({entity})
A record for every relationship between two of them: ({relation})
The strength is a whole number from 1 to 10. Entities first. Put {marks.record} between two records, and \
{marks.record} and then {marks.end} after the last. Write nothing else.
Write names and types in capitals, and descriptions in {plain(draft.language)}.

{shown}

--- Text ---
Entity types: {types}
Text:
{hole("input_text")}
Output:
"""


def opening(draft: Draft) -> str:
    """The persona, where there is one, and a blank line."""
    return f"{plain(draft.persona)}\n\n" if draft.persona else ""


def tuple_shapes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of both records, between angle brackets."""
    entity = ('"entity"', "<name>", "<type>", "<what the text says about it>")
    return entity, ('"relationship"', "<name>", "<name>", "<how they are connected>", "<strength>")


def light_system(draft: Draft, target: Target, slot: Slot) -> str:
    """LightRAG's system prompt."""
    entity = target.written.field.join(("entity", "<name>", "<type>", "<what the text says about it>"))
    row = ("relation", "<name>", "<name>", "<keywords, with commas>", "<how they are connected>")
    return f"""\
{opening(draft)}---Task---
{plain(draft.task)}

---Entity Types---
{hole("entity_types_guidance")}

---Output---
A line for every entity: {entity}
A line for every relationship between two of them: {target.written.field.join(row)}
Entities first: at most {hole("max_entity_records")} of them, and at most {hole("max_total_records")} lines in all, \
the most important. After the last line write {target.written.end} on a line of its own. Write nothing else.
Write descriptions and keywords in {hole("language")}, and names as the text has them.

---Examples---
{hole("examples")}
"""


def light_user(draft: Draft, target: Target, slot: Slot) -> str:
    """LightRAG's prompt of a chunk."""
    return f"{hole('heading_context_block')}---Text---\n{hole('input_text')}\n\n---Output---\n"


def light_examples(draft: Draft, target: Target, slot: Slot) -> list[str]:
    """LightRAG's examples, which it fills and joins by itself."""
    return [
        f"Text:\n{plain(one.text)}\nOutput:\n{write(one.graph, target.kind, target.written, plain)}\n"
        for one in draft.examples
    ]


def guidance(types: tuple[str, ...]) -> str:
    """LightRAG's list of types."""
    return "\n".join(["Use one of these types, or Other where none fits:", *(f"- {one}" for one in types)])


def summarize(draft: Draft, target: Target, slot: Slot) -> str:
    """The prompt that merges descriptions."""
    limit, language = "", plain(draft.language)
    name, listed = hole("entity_name"), hole("description_list")
    if target.name == "lightrag":
        limit = f" At most {hole('summary_length')} tokens."
        language, name = hole("language"), f"{hole('description_type')} {hole('description_name')}"
    elif "max_length" in slot.keeps:
        limit = f" At most {hole('max_length')} words."
    return f"""\
{opening(draft)}{texts.SUMMARY}{limit}
Write in {language}.

--- Data ---
About: {name}
Descriptions: {listed}

Output:
"""


def report(draft: Draft, target: Target, slot: Slot) -> str:
    """The prompt of community reports."""
    limit = f"\nAt most {hole('max_report_length')} words in all." if "max_report_length" in slot.keeps else ""
    return f"""\
{opening(draft)}--- Task ---
{texts.REPORT} Write as {plain(draft.role)}, in {plain(draft.language)}.
The rating is to express this: {plain(draft.rating)}

--- Output ---
One JSON object of this shape, and nothing else:
{plain(texts.REPORT_SHAPE)}
{texts.REPORT_RULES}{limit}

--- Data ---
{hole("input_text")}

Output:
"""


def messages(prompts: Prompts, target: Target, text: str, types: tuple[str, ...]) -> Messages:
    """What the target sends for a chunk with these prompts; raises KeyError or ValueError where it would."""
    marks = dict(zip(("tuple_delimiter", "record_delimiter", "completion_delimiter"), target.marks, strict=True))
    if target.name != "lightrag":
        given = {"input_text": text, "entity_types": ",".join(types)} | ({} if target.name == "graphrag3" else marks)
        return [{"role": "user", "content": prompts[target.slot("extract").name].format(**given)}]
    given = marks | {"language": texts.OWN_LANGUAGE, "entity_types_guidance": prompts["default_entity_types_guidance"]}
    shown = "\n".join(prompts[target.slot("examples").name]).format(**given)
    base: dict[str, Any] = given | LIGHT_LIMITS | {"examples": shown}
    system = prompts[target.slot("system").name].format(**base)
    user = prompts[target.slot("user").name].format(**base, input_text=text, heading_context_block="")
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def as_files(prompts: Prompts, target: Target) -> dict[str, bytes]:
    """The bytes of a target's files, by name."""
    if target.file:
        return {target.file: (json.dumps(prompts, ensure_ascii=False, indent=2) + "\n").encode()}
    return {name: text.encode() for name, text in prompts.items()}


__all__ = ["DEFAULT_EXAMPLE", "DEFAULT_TYPES", "Draft", "Example", "Marks", "as_files", "messages", "render"]
