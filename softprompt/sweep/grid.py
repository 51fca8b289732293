"""The members of a sweep from what varies: `lr=0.1,0.3,seed=0,1` over recipes is a recipe for every combination."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from softprompt.errors import RecipeError
from softprompt.recipe import PATHS, Recipe, known_keys, make_recipe, meant, override

SHORT = {"data": "data.train", "init": "init.kind", "lr": "optim.lr", "method": "method.name", "seed": "train.seed"}
KEY = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=(.*)", re.DOTALL)
OPEN, CLOSE, QUOTES = "([{", ")]}", "\"'"


def parse(texts: Sequence[str]) -> dict[str, list[str]]:
    """Values by dotted key, of texts such as `lr=0.1,0.3,seed=0,1`; `|` separates like a comma.

    A comma inside brackets or quotes is part of a value. Raises `RecipeError` for keys that no recipe has, for keys
    without a value, and for what is given twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key = ""
        for piece in pieces(text):
            begins = KEY.fullmatch(piece)
            if begins:
                key = dotted(begins[1], text)
                if key in found:
                    raise wrong(text, f"{key} twice", "each key once")
                found[key] = []
            elif not key:
                raise wrong(text, "a value without a key", "KEY=VALUE,VALUE")
            value = (begins[2] if begins else piece).strip()
            if not value or value in found[key]:
                raise wrong(text, f"{repr(value) + ' twice' if value else 'no value'} for {key}", "different values")
            found[key].append(value)
    return found


def pieces(text: str) -> list[str]:
    """Split at commas and bars, but not inside brackets or quotes."""
    made, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in QUOTES:
            quote = c
        depth += 0 if quote else (c in OPEN) - (c in CLOSE)
        if c in ",|" and not quote and depth <= 0:
            made.append("")
        else:
            made[-1] += c
    return made


def dotted(name: str, text: str) -> str:
    """The key of a recipe for a name: dotted, or short where only one key ends so. Raises `RecipeError` for others."""
    known = known_keys()
    if name in SHORT:
        return SHORT[name]
    section = ".".join(name.split(".")[:2])
    if section in known:
        return name
    ends = [key for key in known if key.partition(".")[2] == name]
    if len(ends) != 1:
        hint = f" (did you mean {' or '.join(ends)}?)" if ends else meant(name)
        raise wrong(text, f"key {name!r}{hint}", "a key of a recipe, such as optim.lr, or lr for short")
    return ends[0]


def wrong(text: str, found: str, expected: str) -> RecipeError:
    """The error for a text that does not say what varies."""
    return RecipeError("SP-E218", f"--over {text[:80]!r}: {found}", expected, "write it as --over lr=0.1,0.3,seed=0,1")


def expand(bases: Mapping[str, Mapping[str, Any]], over: Mapping[str, Sequence[str]]) -> dict[str, Recipe]:
    """A recipe for every base and every combination of values, by the name of its folder.

    `bases` are recipes as plain values. Raises `RecipeError` for values that a recipe refuses.
    """
    made: dict[str, Recipe] = {}
    for base, values in bases.items():
        for chosen in product(*over.values()):
            settings = [f"{key}={value}" for key, value in zip(over, chosen, strict=True)]
            parts = [f"{label(key)}-{slug(key, value)}" for key, value in zip(over, chosen, strict=True)]
            name = free("_".join(([slug("", base)] if len(bases) > 1 or not parts else []) + parts), made)
            made[name] = make_recipe(override(dict(values), settings), where=name)
    return made


def label(key: str) -> str:
    """What a key is called in the name of a folder: as short as it may be written."""
    short = {dotted: name for name, dotted in SHORT.items()}
    last = key.rpartition(".")[2]
    alone = [known for known in known_keys() if known.rpartition(".")[2] == last] == [key]
    return short.get(key) or (last if alone or key.count(".") > 1 else key)


def slug(key: str, value: str) -> str:
    """A value as part of the name of a folder; of a path, the file's name without its extension."""
    paths = {f"{section}.{name}" for section, name in PATHS}
    text = Path(value).stem if key in paths else value
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:40] or "x"


def free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number where it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


__all__ = ["expand", "free", "parse"]
