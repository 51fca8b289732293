"""A model that reads graphs out of made-up news, by a rule: better with examples of the corpus."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softprompt.graphrag import texts
from softprompt.graphrag.grammar import Entity, Graph, Marks, Relation, write
from softprompt.graphrag.targets import GRAPHRAG3, Target
from softprompt.llm.endpoint import Answer

PEOPLE = ("Ada Brink", "Bo Tarn", "Cleo Marsh", "Dag Olsen", "Eva Quist", "Finn Lund", "Gro Helm", "Hans Ro")
FIRMS = ("Kelm Works", "Lota Mills", "Morn Docks", "Nerva Glass", "Orlo Rail", "Pax Motors", "Quill Press", "Ronda Tea")
TOPICS = (
    "timber rain harvest barn cattle wool plough orchard",
    "orbit rocket launch fuel crater probe antenna dust",
    "violin opera tenor chorus stage ballet curtain score",
    "ledger bond market broker credit audit share yield",
)


def story(n: int) -> str:
    """A document about one person and one firm that no other document is about."""
    words = TOPICS[n % len(TOPICS)].split()
    person = PEOPLE[n % 8] + ("" if n < 8 else f" {chr(65 + n // 8)}")
    firm = FIRMS[n % 8] + ("" if n < 8 else f" {chr(65 + n // 8)}")
    return f"In year {1900 + 7 * n} {person} joined {firm}. The {words[n % 7]} and the {words[(n + 3) % 8]} were {n}."


def corpus(folder: Path, count: int, braces: bool = False) -> Path:
    """A folder of so many stories, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        text = story(n) + (' The file says {"id": {0}, "x": {} and ends with a }.' if braces else "")
        (folder / f"{n:02}.txt").write_text(text, encoding="utf-8")
    return folder


def graph_of(text: str, target: Target = GRAPHRAG3) -> Graph:
    """What is true of a story."""
    match = re.search(r"year \d+ (.*?) joined (.*?)\.", text)
    if match is None:
        return Graph()
    person, firm = match.groups()
    people = (Entity(person, "PERSON", f"{person} joined {firm}"), Entity(firm, "FIRM", f"Where {person} went"))
    return Graph(people, (Relation(person, firm, f"{person} joined {firm}", 8.0, "work"),))


def spoiled(graph: Graph) -> Graph:
    """The same with a name that no text has, and an edge to nothing."""
    strange = Entity("IDA BRANDT", "PERSON", "Ida Brandt warned them")
    loose = Relation(graph.entities[0].name, "NOBODY", "They know each other", 2.0, "rumour")
    return Graph((*graph.entities, strange), (*graph.relations, loose))


@dataclass
class Model:
    """Answers by rule. `good` says whether a prompt earns a faultless graph."""

    target: Target = GRAPHRAG3
    types: str = '["Person", "Firm"]'
    good: Any = lambda prompt: prompt.count("joined") > 2  # examples of the corpus are in it
    broken: Any = lambda prompt, rollout: False  # answers nobody can read
    task: Any = lambda rollout: "Name people and firms, and who joined whom. {Carefully}"
    asked: list[dict[str, Any]] = field(default_factory=list)

    def ask_all(
        self,
        many: Sequence[list[dict[str, str]]],
        *,
        temperature: float = 0.0,
        rollouts: Sequence[int] | None = None,
    ) -> list[Answer]:
        found = []
        for messages, rollout in zip(many, rollouts or [0] * len(many), strict=True):
            self.asked.append({"messages": messages, "temperature": temperature, "rollout": rollout})
            text = self.answer(messages, rollout)
            found.append(Answer(text, len(str(messages)) // 4, len(text) // 4))
        return found

    def answer(self, messages: list[dict[str, str]], rollout: int) -> str:
        """The text of an answer."""
        asked = "\n".join(message["content"] for message in messages)
        for question, answer in (
            (texts.ASK_DOMAIN, '"Careers of {people}"\n'),
            (texts.ASK_LANGUAGE, "English."),
            ("Describe that expert", "You are an archivist {of firms}.\nYou know who went where."),
            ("Name the author", "an archivist in a {library}"),
            ("rated from 0 to 10", "How far a career {went}."),
            ("Answer with a JSON list", self.types),
        ):
            if question in asked:
                return answer
        if "<task>" in asked:
            return f"Try this: <task>{self.task(rollout)}</task>"
        return self.extract(asked, rollout)

    def extract(self, prompt: str, rollout: int) -> str:
        """A graph of the last story of a prompt."""
        stories = re.findall(r"In year .*?\.", prompt)
        if self.broken(prompt, rollout) or not stories:
            return json.dumps({"entities": "I prefer JSON"})
        graph = graph_of(stories[-1])
        marks: Marks = self.target.marks
        return write(graph if self.good(prompt) else spoiled(graph), self.target.kind, marks)


def extractions(model: Model) -> list[list[dict[str, str]]]:
    """The requests for graphs."""
    return [one["messages"] for one in model.asked if "Output" in one["messages"][-1]["content"][-20:]]
