"""Every method by name: one file each, found by looking; other packages add theirs by entry point."""

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from softprompt.errors import RecipeError, near
from softprompt.methods.base import Group, Method, option_names

__all__ = ["Group", "Method", "check_options", "find", "name_of", "names", "option_names"]

GROUP = "softprompt.methods"
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@cache
def names() -> list[str]:
    """The ids of all methods, our own files and those of installed packages."""
    own = {module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"}
    return sorted(own | {point.name for point in entry_points(group=GROUP)})


def find(name: str) -> type[Method]:
    """The class of a method; raises `RecipeError` with the nearest name where there is none."""
    if name not in names():
        raise RecipeError(
            "SP-E210", f"method {name!r}{near(name, names())}", f"one of {', '.join(names())}", "set method.name"
        )
    for point in entry_points(group=GROUP):
        if point.name == name:
            loaded: type[Method] = point.load()
            return loaded
    module = import_module(f"{__name__}.{name}")
    own = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Method) and v.__module__ == module.__name__
    ]
    return own[0]


def name_of(method: Method) -> str:
    """The name by which `find` finds the class of a method; raises `RecipeError` for a class that has none."""
    for name in names():
        if find(name) is type(method):
            return name
    kind = type(method).__name__
    do = f"put it into a file of its own, or name it in the entry points {GROUP!r}"
    raise RecipeError("SP-E210", f"method {kind} without a name", f"one of {', '.join(names())}", do)


def check_options(method: type[Method], options: dict[str, Any]) -> None:
    """Raise `RecipeError` for an option that the method does not have, and for a value of another type."""
    known, types = option_names(method), get_type_hints(method.__init__)
    for name, value in options.items():
        if name not in known:
            raise RecipeError(
                "SP-E211",
                f"option {name!r}{near(name, known)}",
                f"one of {', '.join(known) or 'no options'}",
                "see `softprompt methods`",
            )
        try:
            TypeAdapter(types[name], config=STRICT).validate_python(value)
        except ValidationError as error:
            expected = error.errors()[0]["msg"]
            raise RecipeError("SP-E211", f"{name} = {value!r}"[:120], expected, "see `softprompt methods`") from error
