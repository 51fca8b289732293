"""A task as a model is asked it in words: the prompt, the text, and what counts as an answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal

from softprompt.data import Columns, Dataset, TaskKind
from softprompt.errors import DataError, RecipeError
from softprompt.example import Example
from softprompt.llm.endpoint import Messages
from softprompt.metrics import Metric, Score, default_metric, find_metric
from softprompt.pieces import parse
from softprompt.recipe import Recipe

Place = Literal["user", "system"]
FRESH = 3  # one dev example in so many is kept for the finalists


@dataclass(frozen=True)
class Task:
    """Examples in the parts of a run, and how a prompt and an example become messages.

    `race` and `fresh` are the dev examples: those that candidates are compared on, and those that only finalists see.
    """

    kind: TaskKind
    metric: str
    words: dict[str, str]  # by class; empty for written answers
    template: str  # without its prompt and its answer
    train: list[Example]
    race: list[Example]
    fresh: list[Example]
    test: list[Example]
    place: Place = "user"
    sha256: dict[str, str] = field(default_factory=dict)  # of the data files

    def messages(self, prompt: str, example: Example) -> Messages:
        """The prompt and the text in one message of a user, which every server takes, or the prompt as the system's."""
        return self.posed(prompt, self.shown(example))

    def posed(self, prompt: str, text: str) -> Messages:
        """The same of a text."""
        if self.words:
            text += f"\n\nAnswer with one of: {', '.join(self.words.values())}."
        if self.place == "system":
            return [{"role": "system", "content": prompt}, {"role": "user", "content": text}]
        return [{"role": "user", "content": f"{prompt}\n\n{text}"}]

    def shown(self, example: Example) -> str:
        """The columns of an example as one text."""
        parts = [piece.value if piece.kind == "text" else column(example, piece.value) for piece in self.pieces]
        return "".join(parts).strip()

    @cached_property
    def pieces(self) -> list[Any]:
        """The parts of the template that are text or a column."""
        return [piece for piece in parse(self.template, 1) if piece.kind in ("text", "field")]

    def wanted(self, example: Example) -> str:
        """The right answer in words."""
        return self.words.get(str(example.label), str(example.label))

    def answer(self, text: str, example: Example) -> str:
        """What a model's text says: a class, or the text itself.

        A text that names no class, or several, counts as a wrong one: the class after the right one. Metrics of classes
        would count a class of its own as one more class.
        """
        if not self.words:
            return text.strip()
        found = named(text, self.words)
        if found is not None:
            return found
        labels = list(self.words)
        return labels[(labels.index(str(example.label)) + 1) % len(labels)]

    def value(self, answer: str, example: Example) -> float:
        """How good one answer is, from 0 to 1: right or wrong, or the metric of one example."""
        if self.words:
            return float(answer == example.label)
        found = self.measure([answer], [example.label], draws=2).value
        return (found - self.measure.worst) / (self.measure.best - self.measure.worst)

    def score(self, answers: Sequence[str], examples: Sequence[Example], metric: str = "", draws: int = 1000) -> Score:
        """A metric of answers to examples; the task's own where none is named."""
        return find_metric(metric or self.metric)(answers, [str(example.label) for example in examples], draws=draws)

    @cached_property
    def measure(self) -> Metric:
        """The metric."""
        return find_metric(self.metric)


def named(text: str, words: dict[str, str]) -> str | None:
    """The class whose word is the text, or its last line, or the only one that the text has; None for none."""
    plain = {label: normal(word) for label, word in words.items()}
    lines = [normal(line) for line in text.strip().splitlines() if normal(line)]
    for part in (normal(text), lines[-1] if lines else ""):
        for label, word in plain.items():
            if part == word:
                return label
    rest, found = f" {normal(text)} ", []
    for label, word in sorted(plain.items(), key=lambda item: -len(item[1])):  # "very good" before "good"
        if f" {word} " in rest:
            found.append(label)
            rest = rest.replace(f" {word} ", " | ")
    return found[0] if len(found) == 1 else None


def normal(text: str) -> str:
    """Words in lower case with one space between them, and nothing else."""
    return " ".join(re.findall(r"[\w'-]+", text.casefold()))


def refuse_alike(words: dict[str, str]) -> None:
    """Raise `RecipeError` SP-E209 for class words that answers could not be told apart by, such as C and C++."""
    seen: dict[str, str] = {}
    for word in words.values():
        other = seen.setdefault(normal(word), word)
        if not normal(word) or other is not word:
            found = f"class word {word!r}" + (" without a letter" if other is word else f" beside {other!r}")
            raise RecipeError("SP-E209", found, "words that differ in letters or digits", "set task.words")


def column(example: Example, name: str) -> str:
    """One column of an example; raises `DataError` where it is missing."""
    if name not in example.fields:
        found, do = f"no column {name!r}", "mend task.template"
        raise DataError("SP-E112", found, f"one of {', '.join(example.fields)}", do, where=example.where)
    value = example.fields[name]
    return value if isinstance(value, str) else " ".join(value)


def read_task(recipe: Recipe, *, place: Place = "user", dev: int = 100, test: int | None = None, seed: int = 0) -> Task:
    """The task of a recipe, split as for a soft prompt, with at most `dev` dev examples and `test` test examples.

    Raises `RecipeError` SP-E737 for tasks that cannot be asked in words, `DataError` for wrong data.
    """
    from softprompt.choices import spoken  # imports torch, which nothing else here needs
    from softprompt.parts import divide, read_part, refuse_leaks

    data = read_part(recipe, recipe.data.train, None)
    kind = data.kind if recipe.task.kind == "auto" else recipe.task.kind
    if kind not in ("classification", "generation") or data.columns.image:
        found = "images" if data.columns.image else f"a task of {kind}"
        raise RecipeError("SP-E737", found, "classes or written answers", "train a soft prompt: `softprompt train`")
    parts = {name: read_part(recipe, path, data) for name in ("dev", "test") if (path := getattr(recipe.data, name))}
    train, whole, tested = divide(recipe, data, parts)
    pairs = (("dev", whole, "train", train), ("test", tested, "train", train), ("test", tested, "dev", whole))
    for name, part, other, seen in pairs:
        refuse_leaks(data, seen, part, f"{name} examples that are in {other}", recipe.data.allow_leakage)
    words = {label: recipe.task.words.get(label, spoken(label)) for label in data.labels}
    if kind == "classification":
        refuse_alike(words)
    chosen = mixed(whole, seed)[:dev]
    if len(chosen) < FRESH or not tested:
        found = f"{len(chosen)} dev and {len(tested)} test examples"
        raise DataError("SP-E739", found, f"{FRESH} dev examples or more, and some for the test", "set data.split")
    return Task(
        kind=kind,
        metric=metric_of(recipe, data, train),
        words=words if kind == "classification" else {},
        template=recipe.task.template if recipe.task.template != "auto" else own_template(data.columns),
        train=train,
        race=[e for i, e in enumerate(chosen) if i % FRESH != FRESH - 1],
        fresh=[e for i, e in enumerate(chosen) if i % FRESH == FRESH - 1],
        test=tested if test is None else mixed(tested, seed)[:test],
        place=place,
        sha256={name: part.sha256 for name, part in {"train": data, **parts}.items()},
    )


def metric_of(recipe: Recipe, data: Dataset, train: Sequence[Example]) -> str:
    """The metric that a soft prompt would be chosen by."""
    if recipe.task.metric != "auto":
        if data.kind not in find_metric(recipe.task.metric).kinds:
            found = f"metric {recipe.task.metric} for {data.kind}"
            raise RecipeError("SP-E214", found, "a metric of that kind of task", "set task.metric")
        return recipe.task.metric
    labels = [str(example.label) for example in train]
    answers = data.labels or tuple(sorted(set(labels)))
    return default_metric(data.kind, answers, [labels.count(label) for label in answers])


def own_template(columns: Columns) -> str:
    """One column as it is, several with their names."""
    if len(columns.text) == 1:
        return f"{{{columns.text[0]}}}"
    return "\n".join(f"{name}: {{{name}}}" for name in columns.text)


def mixed(examples: Sequence[Example], seed: int) -> list[Example]:
    """All examples in random order, the classes by turns, so that every first part has as many of each as there can be.

    Raises nothing; written answers are all classes of their own.
    """
    groups: dict[Any, list[Example]] = {}
    for example in Random(seed).sample(list(examples), len(examples)):
        groups.setdefault(example.label, []).append(example)
    turns = max((len(members) for members in groups.values()), default=0)
    return [members[i] for i in range(turns) for members in groups.values() if i < len(members)]
