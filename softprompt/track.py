"""Curves for those who asked for them: TensorBoard files in the run's folder, or a trackio project."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from softprompt.errors import RecipeError
from softprompt.recipe import Recipe

Event = dict[str, Any]
Write = Callable[[dict[str, float], int], None]


def tracker(recipe: Recipe, folder: Path, listen: Callable[[Event], None]) -> Callable[[Event], None]:
    """The listener `listen`, and beside it a curve of every number in `train.track`'s tools.

    Raises `RecipeError` where a tool is not installed.
    """
    writers = [WRITERS[name](recipe, folder) for name in recipe.train.track]
    if not writers:
        return listen

    def both(event: Event) -> None:
        listen(event)
        if event["event"] not in ("step", "dev"):
            return
        curves = {f"{event['event']}/{name}": value for name, value in event.items() if isinstance(value, float)}
        for write in writers:
            write(curves, event["step"])

    return both


def tensorboard(recipe: Recipe, folder: Path) -> Write:
    """Event files in `folder/tensorboard`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise absent("tensorboard") from error
    writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(curves: dict[str, float], step: int) -> None:
        for name, value in curves.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def trackio(recipe: Recipe, folder: Path) -> Write:
    """A run in the local trackio project `softprompt`."""
    try:
        import trackio as library
    except ImportError as error:
        raise absent("trackio") from error
    library.init(project="softprompt", name=folder.name, config=recipe.shared())

    def write(curves: dict[str, float], step: int) -> None:
        library.log(curves, step=step)

    return write


def absent(name: str) -> RecipeError:
    """A tool that was asked for and is not there."""
    return RecipeError("SP-E213", f"no package {name}", f"{name} installed", f"pip install {name}, or drop train.track")


WRITERS: dict[str, Callable[[Recipe, Path], Write]] = {"tensorboard": tensorboard, "trackio": trackio}
