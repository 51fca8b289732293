"""Options that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from softprompt.errors import RecipeError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Frozen model: folder, hub name or softprompt/tiny.", metavar="M")
]
PromptFile = Annotated[
    str, typer.Argument(help="A prompt file, or NAME@ALIAS of the store.", metavar="PROMPT", show_default=False)
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Rows in one forward pass.")]


class Where(StrEnum):
    """What can run the work besides this process."""

    ray = "ray"


On = Annotated[Where | None, typer.Option("--on", help="Run groups of prompts on the workers of a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option(help="Of the Ray cluster.  [default: one on this machine]", metavar="HOST:PORT"),
]


@contextmanager
def workers(on: Where | None, address: str | None) -> Iterator[None]:
    """Within, groups of prompts run where `--on` says; raises `RecipeError` for an address of nothing."""
    if on is None:
        if address is not None:
            raise RecipeError("SP-E252", "--address without --on", "--on ray --address HOST:PORT", "add --on ray")
        yield
        return
    from softprompt.sweep.workers import on_ray

    with on_ray(address):
        yield
