"""`softprompt export` and `import`: prompts from and for other libraries."""

import shlex
from typing import Annotated

import typer

from softprompt.cli.options import AsJson, PromptFile
from softprompt.cli.output import document, next_steps, say
from softprompt.errors import RecipeError, near

FORMATS = ["peft"]


def export(
    prompt: PromptFile,
    folder: Annotated[str, typer.Argument(help="Folder to write the adapter into.", metavar="DIR")],
    to: Annotated[str, typer.Option(help="peft: a Hugging Face PEFT adapter.")] = "peft",
    as_json: AsJson = False,
) -> None:
    """Write a prompt as an adapter of another library."""
    if to not in FORMATS:
        raise RecipeError("SP-E258", f"--to {to!r}{near(to, FORMATS)}", f"one of {', '.join(FORMATS)}", "--to peft")
    from softprompt.artifact import Artifact
    from softprompt.peft import export_peft

    export_peft(Artifact.load(prompt), folder)
    if as_json:
        document({"prompt": prompt, "format": to, "folder": folder})
        return
    say(f"{folder}: a {to} adapter")
    next_steps(f"in Python: peft.PeftModel.from_pretrained(model, {folder!r})")


def import_(
    folder: Annotated[str, typer.Argument(help="Folder of a PEFT adapter (safetensors).", metavar="DIR")],
    out: Annotated[str, typer.Argument(help="Prompt file to write.", metavar="OUT")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model that it was trained for.", metavar="M")],
    as_json: AsJson = False,
) -> None:
    """Read an adapter of another library into a prompt file."""
    from softprompt.backbones import load_backbone
    from softprompt.peft import import_peft

    artifact = import_peft(folder, load_backbone(model))
    artifact.save(out)
    if as_json:
        document({"folder": folder, "prompt": out, "method": artifact.card.method.name})
        return
    say(f"{out}: {artifact.card.method.name}, length {artifact.card.method.length}")
    next_steps(shlex.join(["softprompt", "evaluate", out, "DATA", "--model", model]))
