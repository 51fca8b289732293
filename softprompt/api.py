"""`softprompt.train`: the command line's main job as one function."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from softprompt.backbones import Backbone
from softprompt.recipe import Recipe, load_recipe, make_recipe
from softprompt.training import Result
from softprompt.training import train as run


def train(
    data: str | Path | Recipe,
    *,
    model: str | Backbone = "",
    method: str | None = None,
    run_folder: str | Path | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    listen: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Result:
    """Train a prompt on labelled data, or as a recipe (object or YAML file) says, and evaluate it.

    `model` is a folder, a hub name or a loaded backbone (default: `softprompt/tiny`, which comes with the package);
    `settings` are sections of a recipe, as in
    `{"optim": {"lr": 0.1}, "train": {"epochs": 3}}`. The run is kept in `run_folder` (`runs/<data>-<time>` if not
    given). Raises `SoftpromptError` for wrong data, settings or models.
    """
    backbone = model if isinstance(model, Backbone) else None
    if isinstance(data, Recipe):
        recipe = data
    elif str(data).endswith((".yaml", ".yml")):
        recipe = load_recipe(data)
    else:
        recipe = make_recipe({"data": {"train": str(data)}})
    values = recipe.model_dump(exclude_unset=True)
    given: dict[str, dict[str, Any]] = {name: dict(section) for name, section in (settings or {}).items()}
    name = backbone.name if backbone else str(model)
    if name:
        given.setdefault("backbone", {})["name"] = name
    if method:
        given.setdefault("method", {})["name"] = method
    for section, changes in given.items():
        values[section] = {**values.get(section, {}), **changes}
    made = make_recipe(values)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = run_folder or Path("runs") / f"{Path(made.data.train).stem or 'run'}-{stamp}"
    return run(made, folder, backbone=backbone, listen=listen)
