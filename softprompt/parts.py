"""The examples of a recipe: files read, divided into train, dev and test, and checked for what was seen before."""

from dataclasses import replace

from softprompt.core import Example
from softprompt.data import Columns, Dataset, k_shot, leakage, read, split
from softprompt.data.checks import by_class, content
from softprompt.errors import DataError
from softprompt.fewshot.sample import few_shot
from softprompt.recipe import Recipe


def read_part(recipe: Recipe, path: str, first: Dataset | None) -> Dataset:
    """One file; after the first, columns, kind and labels are those of the first."""
    section = recipe.data
    columns = first.columns if first else Columns(section.text, section.label, section.image)
    kind = first.kind if first else (None if recipe.task.kind == "auto" else recipe.task.kind)
    labels = (first.labels if first else recipe.task.labels) or None
    return read(
        path,
        columns=columns,
        kind=kind,
        labels=labels,
        on_bad_row=section.on_bad_row,
        format=section.format,
        encoding=section.encoding,
    )


def divide(
    recipe: Recipe, data: Dataset, parts: dict[str, Dataset]
) -> tuple[list[Example], list[Example], list[Example]]:
    """Train, dev and test examples; what has no file of its own is set aside from train, by class."""
    if recipe.data.few_shot:
        return few_shot(recipe.data, data, parts)
    shares = dict(zip(("train", "dev", "test"), recipe.data.split, strict=True))
    wanted = {name: share for name, share in shares.items() if name not in parts}
    total = sum(wanted.values())
    if len(wanted) == 1:
        made = {"train": data.examples}
    else:
        made = dict(
            zip(wanted, split(data, [share / total for share in wanted.values()], recipe.data.seed), strict=True)
        )
    made |= {name: part.examples for name, part in parts.items()}
    if recipe.data.shots:
        made["train"] = k_shot(made["train"], recipe.data.shots, recipe.data.seed)
        if "dev" not in parts and made["dev"]:  # a few-shot run that chooses on a large dev set is not a few-shot run
            fewest = min(len({content(e) for e in members}) for members in by_class(made["dev"]).values())
            made["dev"] = k_shot(made["dev"], min(recipe.data.shots, fewest), recipe.data.seed)
    return made["train"], made["dev"], made["test"]


def refuse_leaks(data: Dataset, seen: list[Example], part: list[Example], what: str, allow: bool) -> list[str]:
    """Raise `DataError` where examples of a part were seen before; with `allow`, say so instead."""
    found = leakage(replace(data, examples=seen), replace(data, examples=part))
    errors = [problem for problem in found if problem.severity == "error"]
    if errors and not allow:
        first = errors[0]
        raise DataError(
            first.code,
            f"{len(errors)} {what}, the first: {first.found}",
            "different examples",
            "remove them, or set data.allow_leakage=true",
            where=first.where,
        )
    return [f"{len(errors)} {what} (data.allow_leakage)"] if errors else []
