"""What is tuned for: the prompts of GraphRAG 3.x and 2.x, LightRAG and nano-graphrag, and what each fills in."""

from dataclasses import dataclass
from typing import Literal

from softprompt.errors import RecipeError, near
from softprompt.graphrag.grammar import HOLES, LIGHT, LIGHT_HOLES, LITERAL, Kind, Marks

Part = Literal["extract", "summarize", "report", "system", "user", "examples"]


@dataclass(frozen=True)
class Slot:
    """One prompt of a target: its file or its name in a file, and the placeholders that the target fills.

    Without one of `needs` the prompt is of no use; without one of `keeps` a setting of the target has no effect; any
    name beside them raises KeyError while indexing.
    """

    part: Part
    name: str
    needs: frozenset[str]
    keeps: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()

    @property
    def known(self) -> frozenset[str]:
        """Every placeholder that the target fills."""
        return self.needs | self.keeps | self.may


@dataclass(frozen=True)
class Target:
    """A program that builds graphs with prompts."""

    name: str
    title: str
    version: str  # whose source and behaviour these facts are from
    kind: Kind
    marks: Marks  # in answers
    written: Marks  # in prompts
    slots: tuple[Slot, ...]
    file: str | None = None  # one JSON file of all prompts, by their names in the program; None: a file each
    settings: str = ""  # what a user does with the files

    def slot(self, part: Part) -> Slot:
        """The prompt of this part; raises KeyError where the target has none."""
        return {slot.part: slot for slot in self.slots}[part]

    @property
    def names(self) -> tuple[str, ...]:
        """The files that are written."""
        return (self.file,) if self.file else tuple(slot.name for slot in self.slots)


def named(*names: str) -> frozenset[str]:
    """A set of names."""
    return frozenset(names)


SUMMARY_NEEDS = named("entity_name", "description_list")
DELIMITERS = named("tuple_delimiter", "record_delimiter", "completion_delimiter")
GRAPHRAG_YAML = """\
extract_graph:
  prompt: "{folder}/extract_graph.txt"
summarize_descriptions:
  prompt: "{folder}/summarize_descriptions.txt"
community_reports:
  graph_prompt: "{folder}/community_report_graph.txt\""""
UPDATE = """\
import json
from {module} import PROMPTS
PROMPTS.update(json.load(open("{folder}/{file}", encoding="utf-8")))"""

GRAPHRAG3 = Target(
    name="graphrag3",
    title="GraphRAG 3.x",
    version="3.3.0",
    kind="tuples",
    marks=LITERAL,
    written=LITERAL,
    slots=(
        Slot("extract", "extract_graph.txt", named("input_text"), may=named("entity_types")),
        Slot("summarize", "summarize_descriptions.txt", SUMMARY_NEEDS, named("max_length")),
        Slot("report", "community_report_graph.txt", named("input_text"), named("max_report_length")),
    ),
    settings=GRAPHRAG_YAML,
)
GRAPHRAG2 = Target(
    name="graphrag2",
    title="GraphRAG 2.x",
    version="2.7.0",
    kind="tuples",
    marks=LITERAL,
    written=HOLES,
    slots=(
        Slot("extract", "extract_graph.txt", named("input_text"), DELIMITERS, named("entity_types")),
        Slot("summarize", "summarize_descriptions.txt", SUMMARY_NEEDS, named("max_length")),
        Slot("report", "community_report_graph.txt", named("input_text"), named("max_report_length")),
    ),
    settings=GRAPHRAG_YAML,
)
LIGHTRAG = Target(
    name="lightrag",
    title="LightRAG",
    version="1.5.7",
    kind="lines",
    marks=LIGHT,
    written=LIGHT_HOLES,
    slots=(
        Slot(
            "system",
            "entity_extraction_system_prompt",
            named("entity_types_guidance", "examples", "tuple_delimiter", "completion_delimiter"),
            named("language", "max_total_records", "max_entity_records"),
        ),
        Slot(
            "user",
            "entity_extraction_user_prompt",
            named("input_text"),
            named("heading_context_block"),
            named(
                "entity_types_guidance",
                "examples",
                "tuple_delimiter",
                "completion_delimiter",
                "language",
                "max_total_records",
                "max_entity_records",
            ),
        ),
        Slot(
            "examples",
            "entity_extraction_examples",
            named("tuple_delimiter", "completion_delimiter"),
            may=named("entity_types_guidance", "language"),
        ),
        Slot(
            "summarize",
            "summarize_entity_descriptions",
            named("description_name", "description_list"),
            named("description_type", "summary_length", "language"),
        ),
    ),
    file="lightrag_prompts.json",
    settings=UPDATE.replace("{module}", "lightrag.prompt"),
)
NANO = Target(
    name="nano",
    title="nano-graphrag",
    version="0.0.8.2",
    kind="searched",
    marks=LITERAL,
    written=HOLES,
    slots=(
        Slot("extract", "entity_extraction", named("input_text"), DELIMITERS | named("entity_types")),
        Slot("summarize", "summarize_entity_descriptions", SUMMARY_NEEDS),
        Slot("report", "community_report", named("input_text")),
    ),
    file="nano_graphrag_prompts.json",
    settings=UPDATE.replace("{module}", "nano_graphrag.prompt"),
)
TARGETS = {target.name: target for target in (GRAPHRAG3, GRAPHRAG2, LIGHTRAG, NANO)}


def find_target(name: str) -> Target:
    """The target of a name; raises `RecipeError` SP-E790 for one that does not exist."""
    if name not in TARGETS:
        found = f"target {name!r}{near(name, list(TARGETS))}"
        raise RecipeError("SP-E790", found, " or ".join(TARGETS), "choose one of them", where="--for")
    return TARGETS[name]
