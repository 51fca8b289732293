"""The `softprompt` command: one verb a job, lines for people, `--json` for programs.

Modules that need seconds to import (torch, transformers) are imported inside the commands, so that help is instant.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated

import typer
from typer.exceptions import TyperException

from softprompt import __version__
from softprompt.cli import (
    between,
    compare,
    compress,
    data,
    demo,
    doctor,
    exchange,
    explain,
    fewshot,
    graphrag,
    inspect,
    prune,
    search,
    serve,
    sweep,
    together,
    upkeep,
    use,
    write,
)
from softprompt.cli import train as training
from softprompt.cli.output import document, note, speaks
from softprompt.errors import RecipeError, SoftpromptError, TrainingError

app = typer.Typer(
    help="Prompt tuning for frozen transformers: one backbone in memory, a file of kilobytes per task.",
    epilog="Start with: softprompt demo",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "train": training.train,
    "resume": training.resume,
    "sweep": sweep.sweep,
    "compare": compare.compare,
    "search": search.search,
    "write": write.write,
    "prune": prune.prune,
    "compress": compress.compress,
    "explain": explain.explain,
    "doctor": doctor.doctor,
    "evaluate": use.evaluate,
    "predict": use.predict,
    "ensemble": together.ensemble,
    "generate": use.generate,
    "show": inspect.show,
    "methods": inspect.methods,
    "export": exchange.export,
    "import": exchange.import_,
    "serve": serve.serve,
    "chat": serve.chat,
    "demo": demo.demo,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(inspect.recipes, name="recipe")
app.add_typer(data.app, name="data")
app.add_typer(upkeep.app, name="store")
app.add_typer(between.app, name="transfer")
app.add_typer(fewshot.app, name="fewshot")
app.add_typer(graphrag.app, name="graphrag")


RANKED = ("train", "resume")  # commands that several ranks run together
USAGE = {"No such command": "SP-E250", "No such option": "SP-E251"}


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"softprompt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=print_version, is_eager=True, help="Version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and context.invoked_subcommand not in RANKED:
        found = f"`softprompt {context.invoked_subcommand}` started on several ranks"
        raise TrainingError("SP-E821", found, f"one process, or {' or '.join(RANKED)}", "start it without a launcher")


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; the exit code: 0 done, 1 a negative answer, 2 an error that a user can mend, 128 + signal."""
    given = sys.argv[1:] if arguments is None else arguments
    debug, as_json = "--debug" in given, "--json" in given
    rest = [argument for argument in given if argument != "--debug"]  # understood in every place
    prepare()
    try:
        code = typer.main.get_command(app).main(rest or ["--help"], prog_name="softprompt", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:  # a run that was told to stop, or a pipe that was closed
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # every other error ends here, as one line
        if debug:
            traceback.print_exc()
        return report(mendable(error), as_json)


def prepare() -> None:
    """Output that no character can break, and libraries that keep to their own business."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that wait for each other spin by default: on a machine that does anything else, a step of a small model
    # takes five times as long (measured: 95 s against 20 s for the same run beside one busy core).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def report(error: SoftpromptError, as_json: bool) -> int:
    """Say what is wrong: one line on standard error, or one document on standard output."""
    if not speaks():  # all ranks decide alike, but one may lack a file or memory that the first one has
        print(f"rank {os.environ['RANK']}: {error}", file=sys.stderr)
    elif as_json:
        document(error.as_dict())
    else:
        note(error, style="red")
    return error.exit_code


def mendable(error: Exception) -> SoftpromptError:
    """Any error as one of ours."""
    if isinstance(error, SoftpromptError):
        return error
    if isinstance(error, TyperException):
        return usage(error)
    found = f"an internal error {type(error).__name__}: {error}"[:300]
    return SoftpromptError("SP-E900", found, "none", "run again with --debug and report it")


def usage(error: TyperException) -> RecipeError:
    """What typer says of a command line, in our form."""
    text = error.format_message().rstrip(".")
    text = re.sub(r"\. Did you mean (.*)\?$", r" (did you mean \1?)", text)
    text = re.sub(r"\(Possible options: (.*)\)", r"(did you mean \1?)", text)
    code = next((code for start, code in USAGE.items() if text.startswith(start)), "SP-E252")
    context = getattr(error, "ctx", None)  # only errors of usage have one
    command = context.command_path if context else "softprompt"
    return RecipeError(code, text[:1].lower() + text[1:], "a command line as in the help", f"{command} --help")
