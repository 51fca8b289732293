"""`softprompt graphrag tune` and `validate`: prompts for programs that build graphs of a corpus."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from softprompt.cli.graphrag_report import announce, listen, planned, show
from softprompt.cli.options import AsJson
from softprompt.cli.output import document, next_steps, say

if TYPE_CHECKING:
    from softprompt.graphrag import Checked, Outcome, Plan
    from softprompt.llm.endpoint import Endpoint

app = typer.Typer(help="Write and check prompts for GraphRAG and its kin.")
For = Annotated[
    str, typer.Option("--for", help="graphrag3, graphrag2, lightrag or nano (nano-graphrag).", metavar="TARGET")
]


@app.command("tune")
def tune(
    root: Annotated[
        Path, typer.Argument(help="A GraphRAG project, or a folder of .txt, .md, .csv or .jsonl.", metavar="ROOT")
    ],
    target: For = "graphrag3",
    out: Annotated[Path | None, typer.Option(help="Where prompts go.  [default: ROOT/prompts-tuned]")] = None,
    base_url: Annotated[str, typer.Option(help="Any server of OpenAI's chat API.")] = "http://localhost:8000/v1",
    model: Annotated[str, typer.Option("--model", "-m", help="The model that answers there.", metavar="M")] = "",
    key: Annotated[str | None, typer.Option(help="Environment variable of the API key.", metavar="VAR")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 2000,
    send_seed: Annotated[bool, typer.Option("--send-seed/--no-seed", help="Send a seed with samples.")] = True,
    send_temperature: Annotated[
        bool, typer.Option("--send-temperature/--no-temperature", help="Some hosted models take only their own.")
    ] = True,
    workers: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    calls: Annotated[
        int | None, typer.Option(min=1, help="Most requests; what the plan leaves betters the instructions.")
    ] = None,
    select: Annotated[str, typer.Option(help="Chunks to write from: auto (far apart), random or top.")] = "auto",
    examples: Annotated[int, typer.Option(min=1, max=50, help="Examples in the prompt.")] = 5,
    held_out: Annotated[int, typer.Option(min=0, help="Chunks that judge; 6 or more can show a gain.")] = 10,
    samples: Annotated[int, typer.Option(min=1, max=2, help="Answers a chunk; two show whether they agree.")] = 2,
    types: Annotated[str | None, typer.Option(help="Entity types, with commas.  [default: found]")] = None,
    max_types: Annotated[int, typer.Option(min=1, max=50, help="Most types that are found.")] = 10,
    domain: Annotated[str, typer.Option(help="Subject of the corpus.  [default: found]")] = "",
    persona: Annotated[str, typer.Option(help="Who is to read it.  [default: found]")] = "",
    language: Annotated[str, typer.Option(help="Language of descriptions.  [default: found]")] = "",
    chunk_size: Annotated[int | None, typer.Option(min=20, help="Words.  [default: the settings', or 1200]")] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help="Words.  [default: the settings', or 100]")] = None,
    column: Annotated[str | None, typer.Option(help="Column of texts.  [default: the settings', or text]")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Prompts to beat.  [default: the settings', or ours]", metavar="FILE")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the selection.")] = 0,
    anyway: Annotated[bool, typer.Option("--anyway", help="Write tuned prompts even where no gain is shown.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over prompts that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write prompts for a corpus; keep them if they are better."""
    from softprompt.graphrag import Given, find_target, make_plan
    from softprompt.graphrag.tune import ready

    given = Given(domain, language, persona, given_types(types), max_types)
    plan = make_plan(
        root,
        out,
        find_target(target),
        given=given,
        examples=examples,
        held=held_out,
        samples=samples,
        select=select,
        seed=seed,
        size=chunk_size,
        overlap=overlap,
        column=column,
        against=against,
        force=force,
    )
    if dry_run:
        ready(plan, None)
        if as_json:
            document(planned(plan))
        else:
            announce(plan)
        return
    facts = {"model": model, "base_url": base_url, "max_tokens": max_tokens, "seed": send_seed, "workers": workers}
    facts["temperature"] = send_temperature
    outcome = run(plan, calls, anyway, key, facts, as_json)
    show(outcome, as_json)


def given_types(text: str | None) -> tuple[str, ...]:
    """Types of a command line; raises `RecipeError` SP-E799 for none, and for one that no target could take."""
    from softprompt.errors import RecipeError
    from softprompt.graphrag.speaker import types_of

    names = [" ".join(name.split()).upper() for name in (text or "").split(",") if name.strip()]
    odd = [name for name in names if types_of([name]) != (name,)]  # would be dropped, or changed
    if text is not None and (odd or not names):
        found = f"type {odd[0]!r}" if odd else f"no type in {text!r}"
        expected = "names between commas, which begin with a letter, have no marks, and are not long"
        raise RecipeError("SP-E799", found, expected, "write them as in --types person,ship,harbour", where="--types")
    return types_of(names)


def run(
    plan: "Plan", calls: int | None, anyway: bool, key: str | None, facts: dict[str, Any], quiet: bool
) -> "Outcome":
    """Ask the endpoint; what it answered stays in `events.jsonl`, from which a repeated command goes on.

    Without `calls`, what earlier commands spent in that folder does not count against this one.
    """
    from softprompt.errors import SoftpromptError
    from softprompt.graphrag import tune as begin
    from softprompt.graphrag.leave import make_folder
    from softprompt.graphrag.plan import spare
    from softprompt.graphrag.tune import ready
    from softprompt.llm.budget import SPARE, Budget, Spent
    from softprompt.llm.endpoint import Client
    from softprompt.llm.log import Log

    endpoint, need = end(facts, key), plan.calls + spare(plan)
    most = calls or need + need // (SPARE - 1) + 1
    ready(plan, Budget(most).plannable if calls else None)
    Client(endpoint, Budget(most))  # before there is a folder: a run without package or key leaves none behind
    make_folder(plan.out)
    log = Log(plan.out / "events.jsonl")
    told = {name: facts[name] for name in ("model", "base_url", "max_tokens")}
    try:
        budget = Budget(most, past=log.past if calls else ())
        client = Client(endpoint, budget, log=log)
        return begin(
            plan,
            client,
            calls=budget.plannable if calls else None,
            anyway=anyway,
            facts=told,
            listen=(lambda event: None) if quiet else listen,
        )
    except Spent as error:
        do = "repeat the command with a larger --calls; what was answered is not asked again"
        raise SoftpromptError(error.code, error.found, error.expected, do) from error
    finally:
        log.close()


def end(facts: dict[str, Any], key: str | None) -> "Endpoint":
    """The endpoint; raises `RecipeError` SP-E799 without a model, and for an address that is none."""
    from pydantic import ValidationError

    from softprompt.errors import RecipeError
    from softprompt.llm.endpoint import Endpoint

    if not facts["model"]:
        do = "name one that the server has; --dry-run needs none"
        raise RecipeError("SP-E799", "no model", "the name of a model", do, where="--model")

    names = {
        "base_url": "base_url",
        "model": "model",
        "max_tokens": "max_tokens",
        "seeded": "seed",
        "tempered": "temperature",
        "workers": "workers",
    }
    try:
        return Endpoint(key=key, **{name: facts[told] for name, told in names.items()})
    except ValidationError as error:
        found = f"{facts['base_url']!r} ({error.errors()[0]['msg']})"
        do = "write it as in --base-url http://localhost:8000/v1"
        raise RecipeError("SP-E799", found, "the address of a server", do, where="--base-url") from error


@app.command("validate")
def validate(
    files: Annotated[list[Path], typer.Argument(help="Prompt files.", metavar="FILE...")],
    target: For = "graphrag3",
    as_json: AsJson = False,
) -> None:
    """Check the placeholders and examples of prompt files."""
    from softprompt.graphrag import find_target
    from softprompt.graphrag import validate as check

    wanted = find_target(target)
    found = [check(path, wanted) for path in files]
    bad = any(finding.level == "error" for one in found for finding in one.findings)
    if as_json:
        document({"for": wanted.name, "good": not bad, "files": [one.as_dict() for one in found]})
    else:
        for one in found:
            told(one, wanted.title)
        if bad:
            next_steps(f"mend the errors, then: softprompt graphrag validate {shlex.join(map(str, files))}")
    if bad:
        raise typer.Exit(1)


def told(one: "Checked", title: str) -> None:
    """A file and what is wrong with it."""
    wrong = any(finding.level == "error" for finding in one.findings)
    state = "good" if one.good else "not usable" if wrong else "not checked"
    shown = f", {one.examples} examples" if one.examples else ""
    say(f"{one.path}: {state} for {title}{shown}")
    for finding in one.findings:
        say(f"  {finding.level} {finding.where}: {finding.problem}; do: {finding.do}")


__all__ = ["app"]
