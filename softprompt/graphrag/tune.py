"""Prompts for a corpus: found out, written, scored on chunks held out, and kept only where they are better."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompt.errors import ArtifactError, RecipeError, SoftpromptError
from softprompt.files import read_regular
from softprompt.graphrag.examples import Examples, make_examples
from softprompt.graphrag.forms import Draft, Prompts, guidance, render
from softprompt.graphrag.improve import Round, improve
from softprompt.graphrag.leave import Against, Outcome, write
from softprompt.graphrag.measure import Measured, judge, measure
from softprompt.graphrag.plan import Plan, spare
from softprompt.graphrag.profile import profile
from softprompt.graphrag.speaker import Meter, Speaker
from softprompt.graphrag.targets import TARGETS, Target
from softprompt.graphrag.validate import LIMIT, Checked, check, json_of

Event = dict[str, Any]


def tune(
    plan: Plan,
    speaker: Speaker,
    *,
    calls: int | None = None,
    anyway: bool = False,
    facts: dict[str, Any] | None = None,
    listen: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Find prompts for a corpus, judge them on the chunks held out, and write what is to be used, and a manifest.

    With `calls`, what is left beside the plan goes into the loop that betters the instructions; without, there is no
    loop. `anyway` writes the tuned prompts although no gain is shown; `facts` (such as the model) go into the manifest.
    Raises what `ready` raises, `SoftpromptError` SP-E794 for answers that cannot be used, SP-E797 where no example
    could be made.
    """
    ready(plan, calls)
    meter = Meter(speaker, plan.calls + spare(plan) if calls is None else calls)
    listen({"event": "plan", "plan": plan})
    draft, domain, examples = drafted(meter, plan, listen)
    rounds: list[Round] = []
    if calls is not None:
        draft, rounds = improve(meter, draft, plan.target, plan.split.dev, plan.final, listen)
    against = opponent(plan, draft.types)
    listen({"event": "held out", "chunks": len(plan.split.held), "calls": plan.final})
    scores = compared(meter, plan, draft, against)
    verdict = judge(scores["tuned"], scores["default"])
    kept = "tuned" if verdict.better or anyway else against.name
    asked = {"calls": meter.asked, "tokens_in": meter.tokens_in, "tokens_out": meter.tokens_out}
    made = Outcome(plan, draft, domain, examples, against, scores, rounds, verdict, kept, asked=asked)
    return write(made, facts or {})


def ready(plan: Plan, calls: int | None) -> None:
    """Raise what can be known before anything is asked or written.

    `RecipeError` SP-E796 for a budget below the plan, and what `opponent` raises.
    """
    if calls is not None and calls < plan.calls:
        do = f"give --calls {plan.calls + plan.calls // 9 + 1}, or fewer --held-out and --examples"
        raise RecipeError("SP-E796", f"{calls} calls to spend", f"at least {plan.calls}", do)
    opponent(plan, plan.settings.types)


def drafted(meter: Meter, plan: Plan, listen: Callable[[Event], None]) -> tuple[Draft, str, Examples]:
    """A draft with the corpus' own examples, its subject, and what became of the examples asked for."""
    draft, domain = profile(meter, plan.split.shown, plan.given, plan.settings.types)
    listen({"event": "profile", "domain": domain, "draft": draft})
    examples = make_examples(meter, draft, plan.target, plan.split.shown, plan.final)
    listen({"event": "examples", "examples": examples})
    if not examples.kept:
        found = f"no example in {len(plan.split.shown)} that could be used ({examples.dropped[0]})"
        raise SoftpromptError("SP-E797", found, "at least one", "ask a larger model, or choose other --types")
    return replace(draft, examples=tuple(examples.kept)), domain, examples


def compared(meter: Meter, plan: Plan, draft: Draft, against: Against) -> dict[str, Measured]:
    """What both prompts yield on the chunks held out; nothing is asked where there are too few to compare."""
    if not plan.final:
        return {"tuned": Measured(), "default": Measured()}
    held, target = plan.split.held, plan.target
    return {
        "tuned": measure(meter, render(draft, target), target, draft.types, held, plan.samples),
        "default": measure(meter, against.prompts, target, against.types, held, plan.samples),
    }


def opponent(plan: Plan, types: tuple[str, ...]) -> Against:
    """The extraction prompt to beat: the one that was named, the one that the settings name, or our default.

    It is given the types of the tuned prompt wherever it can take types: a gain is then a gain of the words. Raises
    `ArtifactError` SP-E308 and SP-E304 for a named prompt that cannot be read, `RecipeError` SP-E799 for one that its
    target cannot load, and SP-E833 for either where it is the settings that name it.
    """
    path = plan.rival
    if path is None:
        return Against(render(Draft(types=types), plan.target), types, "ours")
    try:
        prompts, wrong = theirs(path, plan.target)
    except ArtifactError as error:
        if plan.against is not None:
            raise
        raise useless(plan, path, error.found, "put it there, or mend the settings") from error
    if not wrong:
        return given(prompts, plan.target, types, path)
    do = f"softprompt graphrag validate {path} --for {plan.target.name}"
    if plan.against is not None:
        raise RecipeError("SP-E799", wrong, f"prompts of {plan.target.title}", do, where=str(path))
    fit = [one for one in TARGETS.values() if not one.file and not theirs(path, one)[1]]
    raise useless(plan, path, wrong, f"--for {fit[0].name}, which can use it" if fit else f"{do}, and mend it")


def useless(plan: Plan, path: Path, found: str, do: str) -> RecipeError:
    """The error for a prompt of the settings that cannot be what has to be beaten."""
    expected = f"the extraction prompt of {plan.target.title}, which the settings name"
    return RecipeError(
        "SP-E833", found, expected, f"{do}; or name the one to beat with --against FILE", where=str(path)
    )


def theirs(path: Path, target: Target) -> tuple[Prompts, str]:
    """The extraction prompts of a file by their names, and what is wrong with them; '' where nothing is."""
    found = Checked(str(path), target.name)
    try:
        text = read_regular(path, LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        return {}, f"no UTF-8 text ({error})"
    values = json_of(text, path.name, target, found) if target.file else {target.slot("extract").name: text}
    check(values, target, found)
    wanted = [slot.name for slot in target.slots if slot.part in ("extract", "system", "user", "examples")]
    errors = [f"{one.where}: {one.problem}" for one in found.findings if one.level == "error"]
    errors += [f"no {name}" for name in wanted if name not in values]
    return {name: values[name] for name in wanted if name in values}, "; ".join(errors[:1])


def given(prompts: Prompts, target: Target, types: tuple[str, ...], path: Path) -> Against:
    """Prompts to beat, with the types of the tuned ones. Of types within a prompt nothing is known."""
    if target.kind == "lines":
        return Against(prompts | {"default_entity_types_guidance": guidance(types)}, types, "yours", path)
    known = types if "{entity_types}" in prompts[target.slot("extract").name] else None
    return Against(prompts, known, "yours", path)
