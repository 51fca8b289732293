"""Options that several commands share."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Frozen model: folder, hub name or softprompt/tiny.", metavar="M")
]
PromptFile = Annotated[
    str, typer.Argument(help="A prompt file, or NAME@ALIAS of the store.", metavar="PROMPT", show_default=False)
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Rows in one forward pass.")]
