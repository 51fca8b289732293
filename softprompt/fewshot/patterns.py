"""Patterns with words: several ways to ask the same, as recipes of one ensemble."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from softprompt.backbones import Backbone
from softprompt.errors import RecipeError
from softprompt.heads import Verbalizer
from softprompt.methods import find
from softprompt.pieces import parse
from softprompt.plain import read_yaml
from softprompt.plan import make_plan
from softprompt.recipe import Recipe
from softprompt.untrained import build


@dataclass(frozen=True)
class Pattern:
    """A template, and words for the classes where they differ from those of the recipe."""

    template: str
    words: Mapping[str, str] = field(default_factory=dict)


def patterns_of(given: Sequence[str]) -> list[Pattern]:
    """Templates as they are, and those of YAML files: a list of templates, or of `template:` with `words:`.

    Raises `RecipeError` SP-E755 for a file that holds something else.
    """
    found: list[Pattern] = []
    for text in given:
        found += listed(Path(text)) if text.lower().endswith((".yaml", ".yml")) else [Pattern(text)]
    return found


def listed(path: Path) -> list[Pattern]:
    """The patterns of a file."""
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise wrong(f"{error}"[:200], str(path)) from error
    made = []
    for value in values if isinstance(values, list) else [None]:
        parts = {"template": value} if isinstance(value, str) else value
        if (
            not isinstance(parts, dict)
            or set(parts) - {"template", "words"}
            or not isinstance(parts.get("template"), str)
        ):
            raise wrong(f"{value!r}"[:120], str(path))
        words = parts.get("words", {})
        if not isinstance(words, dict) or not all(isinstance(w, str) for pair in words.items() for w in pair):
            raise wrong(f"words {words!r}"[:120], str(path))
        made.append(Pattern(parts["template"], words))
    return made


def asked(recipe: Recipe, patterns: Sequence[Pattern], backbone: Backbone) -> dict[str, Recipe]:
    """A recipe for every pattern, with a verbalizer; vectors go in front where a pattern has no place for them.

    Raises `RecipeError` SP-E755 for fewer than two patterns, two that are the same, and class words of several tokens:
    what is distilled are the chances of all classes from one answer.
    """
    if len(patterns) < 2:
        raise wrong(f"{len(patterns)} pattern" + ("s" if not patterns else ""))
    slots = find(recipe.method.name).stands_in_text(recipe.method.options)
    made: dict[str, Recipe] = {}
    for i, pattern in enumerate(patterns):
        vectors = any(piece.kind == "soft" for piece in parse(pattern.template, recipe.method.length))
        template = pattern.template if vectors or not slots else "{soft}" + pattern.template
        task = recipe.task.model_copy(
            update={"template": template, "head": "verbalizer", "words": recipe.task.words | dict(pattern.words)}
        )
        one = recipe.model_copy(update={"task": task})
        if one in made.values():
            raise wrong(f"pattern {pattern.template[:80]!r} twice")
        head = build(make_plan(one, backbone), backbone).head
        if not isinstance(head, Verbalizer) or not head.one_pass:
            raise wrong(f"class words of several tokens in pattern {pattern.template[:80]!r}")
        made[f"pattern-{i + 1}"] = one
    return made


def wrong(found: str, where: str | None = None) -> RecipeError:
    """Patterns that are no ensemble."""
    expected = "two or more patterns such as '{text} It was {mask}.', each with words of one token for the classes"
    return RecipeError("SP-E755", found, expected, "mend --patterns", where=where)


__all__ = ["Pattern", "asked", "patterns_of"]
