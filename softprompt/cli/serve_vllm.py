"""`softprompt serve --engine vllm`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from softprompt.cli.options import Where
from softprompt.cli.output import note
from softprompt.errors import RecipeError

if TYPE_CHECKING:
    from softprompt.serve.http.guard import Limits
    from softprompt.serve.http.service import Service
    from softprompt.serve.http.shelf import Shelf


class Engines(StrEnum):
    """What can write the tokens."""

    builtin = "built-in"
    vllm = "vllm"


def check_engine(engine: Engines, options: list[str], on: Where | None) -> None:
    """Raise `RecipeError` SP-E846 for options of another engine, and for vLLM on a cluster."""
    if engine is Engines.builtin and options:
        found, do = "--engine-option without --engine vllm", "add --engine vllm, or leave it out"
        raise RecipeError("SP-E846", found, "both of them", do)
    if engine is Engines.vllm and on is not None:
        found, do = f"--engine vllm beside --on {on}", "leave one of them out"
        raise RecipeError("SP-E846", found, "vLLM on this machine, or replicas of the built-in engine", do)


@contextmanager
def in_vllm(
    shelf: "Shelf", wanted: dict[str, Any], limits: "Limits", rows: int, waiting: int, options: list[str]
) -> "Iterator[Service]":
    """The service over vLLM with a backbone, the arguments of `load_backbone`."""
    from softprompt.recipe import bare_name
    from softprompt.serve.engine.limits import Limits as EngineLimits
    from softprompt.serve.launch import service_of
    from softprompt.serve.vllm.opened import opened

    room = EngineLimits(rows=rows, waiting=waiting)
    with opened(wanted, room, limits.drain_seconds, values(options)) as engine:
        service = service_of(engine, shelf, bare_name(wanted["name"]), limits)
        if any(code == "SP-E429" for _, code in service.catalog.refused.values()):
            note("vLLM takes vectors in the text that answer in text; softprompt serve, the built-in engine, takes all")
        yield service


def values(options: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` as values: what is JSON is read as JSON, anything else is a text; raises `RecipeError` SP-E846."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not name or not equals:
            raise RecipeError("SP-E846", f"--engine-option {option[:80]!r}", "NAME=VALUE", "write it with a =")
        try:
            found[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            found[name.replace("-", "_")] = text
    return found
