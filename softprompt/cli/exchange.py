"""`softprompt export` and `import`: prompts from and for other libraries."""

import shlex
from typing import Annotated

import typer

from softprompt.cli.options import AsJson, Model, PromptFile
from softprompt.cli.output import document, next_steps, note, say
from softprompt.errors import RecipeError, near

FORMATS = ["peft", "vllm"]


def export(
    prompt: PromptFile,
    folder: Annotated[str, typer.Argument(help="Folder to write into.", metavar="DIR")],
    to: Annotated[
        str, typer.Option(help="peft: a Hugging Face PEFT adapter; vllm: prompt embeddings, and how to use them.")
    ] = "peft",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Write a prompt as another library reads it."""
    if to not in FORMATS:
        raise RecipeError("SP-E258", f"--to {to!r}{near(to, FORMATS)}", f"one of {', '.join(FORMATS)}", "use --to peft")
    from softprompt.cli.load import load, open_model
    from softprompt.embeds import export_embeds
    from softprompt.peft import export_peft

    artifact = load(prompt)
    if to == "vllm":
        export_embeds(artifact, folder, open_model(artifact, model))
        if as_json:
            document({"prompt": prompt, "format": to, "folder": folder, "notes": []})
            return
        say(f"{folder}: {artifact.card.method.length} vectors for {artifact.card.backbone.name}")
        next_steps(f"{folder}/README.md says how vLLM takes them")
        return
    notes = export_peft(artifact, folder, open_model(artifact, model) if model else None)
    for text in notes:
        note(text)
    if as_json:
        document({"prompt": prompt, "format": to, "folder": folder, "notes": notes})
        return
    say(f"{folder}: a {to} adapter")
    next_steps(f"in Python: peft.PeftModel.from_pretrained(model, {folder!r})")


def import_(
    folder: Annotated[str, typer.Argument(help="Folder of a PEFT adapter (safetensors).", metavar="DIR")],
    out: Annotated[str, typer.Argument(help="Prompt file to write.", metavar="OUT")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model that it was trained for.", metavar="M")],
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="A class, or class=word; repeatable. Without any, it writes text."),
    ] = None,
    template: Annotated[str | None, typer.Option(help="How text is written around the prompt.")] = None,
    as_json: AsJson = False,
) -> None:
    """Read an adapter of another library into a prompt file."""
    from softprompt.backbones import load_backbone
    from softprompt.peft import import_peft

    pairs = [label.partition("=") for label in labels or []]
    words = {name: word for name, _, word in pairs if word}
    names = tuple(name for name, _, _ in pairs)
    artifact = import_peft(folder, load_backbone(model), template=template, labels=names, words=words)
    artifact.save(out)
    card = artifact.card
    if as_json:
        document({"folder": folder, "prompt": out, "method": card.method.name, "task": card.task.kind})
        return
    say(f"{out}: {card.method.name} for {card.task.kind}, length {card.method.length}")
    next_steps(shlex.join(["softprompt", "evaluate", out, "DATA", "--model", model]))
