"""Every method by name: one file each, found by looking; other packages add theirs by entry point."""

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from softprompt.errors import RecipeError, near
from softprompt.methods.base import Group, Method, option_names

__all__ = ["Group", "Method", "find", "names", "option_names"]

GROUP = "softprompt.methods"


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
