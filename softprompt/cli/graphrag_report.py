"""What `softprompt graphrag tune` says: its plan, its progress, what came of it, and what the target has to be told."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.cli.output import document, next_steps, note, say, table

if TYPE_CHECKING:
    from softprompt.graphrag import Outcome, Plan


def planned(plan: "Plan") -> dict[str, Any]:
    """The plan as plain values."""
    split = plan.split
    return {
        "for": plan.target.name,
        "chunks": split.chunks,
        "different": split.pool,
        "examples": len(split.shown),
        "held_out": len(split.held),
        "calls": plan.calls,
        "tokens": plan.tokens,
        "default": {"name": "yours" if plan.rival else "ours", "path": str(plan.rival) if plan.rival else None},
        "out": str(plan.out),
    }


def announce(plan: "Plan") -> None:
    """What will be asked."""
    split = plan.split
    note(f"{split.chunks} chunks, {split.pool} different; {len(split.shown)} for examples, {len(split.held)} held out")
    note(f"{plan.calls} requests, about {plan.tokens:,} tokens, without repeats and --calls; prompts go to {plan.out}")
    if plan.rival:
        note(f"to beat: {plan.rival}")
    else:
        note(
            "to beat: our default"
            + (" (--against names another)" if plan.target.file else ", since no settings name a prompt")
        )
    if len(split.held) < 6:
        note("fewer than 6 chunks held out cannot show a gain: the default will be kept, unless --anyway")


def listen(event: dict[str, Any]) -> None:
    """How it goes, a line a step."""
    if event["event"] == "plan":
        announce(event["plan"])
    elif event["event"] == "profile":
        note(f"subject: {event['domain']}; {event['draft'].language}; types: {', '.join(event['draft'].types)}")
    elif event["event"] == "examples":
        made = event["examples"]
        note(f"{len(made.kept)} examples, {len(made.dropped)} dropped, {made.retried} asked again")
        for why in made.dropped:
            note(f"dropped: {why}")
    elif event["event"] == "held out" and event["calls"]:
        note(f"{event['calls']} requests: both prompts on {event['chunks']} chunks held out")
    elif event["event"] == "round":
        note(f"round {event['round']}: {'kept' if event['kept'] else 'not kept'} ({event['why']})")


def show(made: "Outcome", as_json: bool) -> None:
    """What came of it."""
    plan = made.plan
    if as_json:
        scores = {name: one.mean() for name, one in made.scores.items()}
        told = {"kept": made.kept, "verdict": made.verdict.as_dict(), "scores": scores, "asked": made.asked}
        there = {"files": made.files, "removed": list(made.removed), "left": list(made.left)}
        document(planned(plan) | told | there | {"types": list(made.draft.types)})
        return
    tuned, default = (made.scores[name].mean() for name in ("tuned", "default"))
    name = "your prompt" if made.against.name == "yours" else "our default"
    if tuned:
        rows = [[part, f"{tuned[part]:.3f}", f"{default[part]:.3f}" if part in default else "-"] for part in tuned]
        table([f"{len(plan.split.held)} chunks held out", "tuned", name], rows)
    say(made.verdict.sentence)
    say(f"{made.asked['calls']} requests, {made.asked['tokens_in'] + made.asked['tokens_out']:,} tokens")
    for line in leftovers(made):
        say(line)
    if made.kept == "yours":
        say(f"your prompt stays as it is: {made.against.path}; {plan.out / 'manifest.json'}")
        return
    kept = "tuned prompts" if made.kept == "tuned" else "our default prompts"
    say(f"{kept} in {plan.out}: {', '.join(made.files)}")
    folder = Path(shlex.quote(str(plan.out)))
    paths = shlex.join(str(plan.out / name) for name in made.files)
    next_steps(f"softprompt graphrag validate {paths} --for {plan.target.name}", *settings(plan, folder))


def leftovers(made: "Outcome") -> list[str]:
    """What became of files in the folder that this run did not write."""
    shown = [f"removed, of an earlier run: {', '.join(made.removed)}"] if made.removed else []
    for ours, why in ((True, "in use"), (False, "not as an earlier run wrote it")):
        if names := [name for name, known in made.left.items() if (known is not None) == ours]:
            shown.append(f"left in {made.plan.out} ({why}): {', '.join(names)}")
    return shown


def settings(plan: "Plan", folder: Path) -> list[str]:
    """What the target has to be told, as lines."""
    inside = plan.out.is_relative_to(plan.root)
    place = plan.out.relative_to(plan.root) if inside and not plan.target.file else folder
    filled = plan.target.settings.replace("{folder}", str(place)).replace("{file}", plan.target.file or "")
    what = "in Python, before it starts" if plan.target.file else "in settings.yaml"
    return [f"{what}:", *filled.splitlines()]
