"""`PromptClassifier`: a trained prompt as a scikit-learn classifier of texts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, load_backbone
from softprompt.core import Example
from softprompt.data import Columns, Dataset, split
from softprompt.errors import DataError, RecipeError, TrainingError
from softprompt.evaluate import Report
from softprompt.files import write_atomically
from softprompt.plan import Plan, fill
from softprompt.recipe import Recipe, make_recipe
from softprompt.run import restore
from softprompt.track import tracker
from softprompt.training import fit, set_threads
from softprompt.untrained import build

TEXT = "text"  # the column that a bare string is
SECTIONS = ("task", "method", "init", "optim", "train")  # of a recipe; data and backbone are arguments here


class InputError(DataError, ValueError):
    """Wrong examples or labels; also the ValueError that callers of scikit-learn expect."""


class PromptClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Classifies texts by a prompt that `fit` trains on a frozen backbone.

    `model` is a name or folder that `load_backbone` knows, or a backbone: give a loaded one to `cross_val_score` and
    `GridSearchCV`, whose clones then share it. X are strings, or for several columns dicts or a data frame; `template`
    names the columns, and a bare string is the column `text`. `words` says which word stands for a class (head
    "verbalizer"). `validation_fraction` of the rows choose the best state and when to stop; 0 leaves that to the
    training rows. `run` is a new folder for the log, the states and the prompt of the run; by default nothing is kept.
    `settings` are sections of a recipe for everything else, such as `{"optim": {"weight_decay": 0.1}}`.

    After `fit`: `classes_`, `prompt_`, `recipe_` (every `auto` decided), `report_`; for several columns also
    `n_features_in_` and `feature_names_in_`. A fitted classifier is not pickled, because opening a pickle can run code:
    `save` it, and use the file through `Artifact.load(path).bind(backbone)`.
    """

    prompt_: Any
    classes_: Any
    recipe_: Recipe
    report_: dict[str, Any]

    def __init__(
        self,
        model: str | Path | Backbone,
        *,
        method: str = "prompt_tuning",
        options: dict[str, Any] | None = None,
        length: int = 20,
        template: str = "auto",
        head: str = "auto",
        words: dict[Any, str] | None = None,
        init: str = "auto",
        lr: float | str = "auto",
        epochs: int = 10,
        batch_size: int = 16,
        patience: int | None = 3,
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        settings: dict[str, dict[str, Any]] | None = None,
        run: str | Path | None = None,
    ) -> None:
        self.model = model
        self.method = method
        self.options = options
        self.length = length
        self.template = template
        self.head = head
        self.words = words
        self.init = init
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.settings = settings
        self.run = run

    def fit(self, X: Any, y: Any) -> "PromptClassifier":
        """Train a prompt on texts X [N] and labels y [N]; raises SoftpromptError, for wrong X or y a ValueError too."""
        began = time.monotonic()
        columns, examples = read_rows(X)
        classes, index = read_labels(y, examples)
        names = tuple(str(label) for label in classes)
        examples = [replace(example, label=names[i]) for example, i in zip(examples, index, strict=True)]
        recipe = self._recipe(seed_of(self.random_state))
        set_threads(recipe)
        backbone = self.model if isinstance(self.model, Backbone) else load_backbone(self.model)
        with folder(self.run) as place, torch.random.fork_rng(devices=[]):  # training seeds torch's generator
            plan = self._plan(
                recipe, backbone, Dataset(examples, Columns(columns), "classification", names, [], "", "X")
            )
            prompt = build(plan, backbone)
            best, history = fit(prompt, plan, place, None, tracker(plan.recipe, place, lambda event: None))
            restore(prompt, best)
            dev = [{key: value for key, value in event.items() if key not in ("event", "key")} for event in history]
            count = sum(weight.numel() for weight in prompt.parameters())
            self.report_ = Report([], {}, plan.recipe.task.metric, count, time.monotonic() - began, dev).as_dict()
            self.prompt_, self.recipe_, self.classes_ = prompt.eval(), plan.recipe, classes
            if self.run is not None:
                write_atomically(place / "recipe.yaml", plan.recipe.to_yaml(full=True).encode())
                self.save(place / "prompt.safetensors")
        self._note_columns(columns)
        return self

    def predict(self, X: Any) -> Any:
        """The most probable class of every row [N], as in `y`."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]

    def predict_proba(self, X: Any) -> Any:
        """Probabilities [N, C], columns in the order of `classes_`."""
        check_is_fitted(self)
        columns, examples = read_rows(X)
        known = self.recipe_.data.text
        if set(columns) != set(known):
            raise wrong("SP-E141", f"columns {', '.join(columns)}", f"{', '.join(known)}, as in fit", "rename them")
        size = 2 * self.recipe_.train.batch_size
        scores = [answer.scores for answer in self.prompt_.predict(examples, batch_size=size)]
        found = np.array([[row[name] for name in self.prompt_.task.labels] for row in scores])
        return found / found.sum(1, keepdims=True)

    def save(self, path: str | Path) -> None:
        """Write the prompt as an artifact, to be used without scikit-learn."""
        check_is_fitted(self)
        Artifact.of(self.prompt_, self.recipe_.shared(), self.report_).save(path)

    def _recipe(self, number: int) -> Recipe:
        """The arguments as a recipe; raises `RecipeError` for values that do not fit."""
        words = {str(label): word for label, word in (self.words or {}).items()}
        train = {"epochs": self.epochs, "batch_size": self.batch_size, "patience": self.patience, "seed": number}
        values: dict[str, dict[str, Any]] = {
            "task": {"kind": "classification", "template": self.template, "head": self.head, "words": words},
            "method": {"name": self.method, "length": self.length, "options": self.options or {}},
            "init": {"kind": self.init},
            "optim": {"lr": self.lr},
            "train": train,
        }
        for section, given in (self.settings or {}).items():
            twice = sorted(set(given) & set(values.get(section, {})))
            if section not in SECTIONS or twice:
                raise RecipeError(
                    "SP-E260",
                    f"settings for {section}{'.' + twice[0] if twice else ''}",
                    f"keys of {', '.join(SECTIONS)} that have no argument of their own",
                    "use the argument of PromptClassifier, or give data as X and y",
                )
            values[section] |= given
        return make_recipe(values)

    def _plan(self, recipe: Recipe, backbone: Backbone, data: Dataset) -> Plan:
        """Rows for training and for choosing, and a recipe without gaps."""
        train = dev = data.examples
        share = self.validation_fraction
        if share:
            train, dev = split(data, (1 - share, share), recipe.train.seed)
        return Plan(fill(recipe, backbone, data, train), train, dev, [], data.labels, {})

    def _note_columns(self, columns: Sequence[str]) -> None:
        """What scikit-learn keeps of tables; texts alone have no features to count."""
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if tuple(columns) != (TEXT,):
            self.n_features_in_ = len(columns)
            self.feature_names_in_ = np.array(columns, dtype=object)

    def __sklearn_clone__(self) -> "PromptClassifier":
        """The same arguments, unfitted. A backbone is frozen, so clones share it instead of copying it."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        """Texts in, classes out."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = tags.input_tags.dict = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The arguments; raises `RecipeError` when fitted."""
        if "prompt_" in self.__dict__:
            raise RecipeError(
                "SP-E261",
                "a fitted PromptClassifier to pickle or copy",
                "an artifact, which is data and cannot run code",
                "use save(path), and Artifact.load(path).bind(backbone)",
            )
        state: dict[str, Any] = super().__getstate__()
        return state


def read_rows(X: Any) -> tuple[tuple[str, ...], list[Example]]:
    """The columns and the examples of texts, dicts or a data frame; raises `InputError` for anything else."""
    if isinstance(X, str | bytes | Mapping) or not (hasattr(X, "__iter__") and hasattr(X, "__len__")):
        raise wrong("SP-E140", f"one {type(X).__name__}", "many texts, dicts, or a data frame", "give a list")
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:  # one column, as ColumnTransformer hands it over
        X = X[:, 0]
    rows = X.to_dict("records") if hasattr(X, "columns") else list(X)
    if not rows:
        raise wrong("SP-E140", "0 samples", "a minimum of 1 text is required", "give texts")
    examples = []
    for i, row in enumerate(rows):
        cells = row if isinstance(row, Mapping) else {TEXT: row}
        for name, value in cells.items():
            if not (isinstance(value, str) and isinstance(name, str)):
                found = f"{type(value).__name__} {value!r}"[:80]
                raise wrong("SP-E140", found, "a string", "drop missing rows, and write numbers as text", f"X[{i}]")
        examples.append(Example({name: str(value) for name, value in cells.items()}, where=f"X[{i}]"))
    columns = tuple(examples[0].fields)
    for example in examples:
        if set(example.fields) != set(columns):
            found = f"columns {', '.join(example.fields)}"
            raise wrong("SP-E141", found, f"{', '.join(columns)}, as in the first row", "give all rows", example.where)
    return columns, examples


def read_labels(y: Any, examples: Sequence[Example]) -> tuple[Any, Any]:
    """The sorted classes [C] and the index of each row's class [N]; raises `ValueError` for what are no classes."""
    given = column_or_1d(y, warn=True)
    check_consistent_length(examples, given)
    assert_all_finite(given, input_name="y")
    check_classification_targets(given)
    classes, index = np.unique(given, return_inverse=True)
    if len(classes) < 2 or len({str(label) for label in classes}) < len(classes):
        found = f"1 class, {classes[0]!r}" if len(classes) < 2 else "classes that are written alike"
        raise wrong("SP-E142", found, "two classes or more, each with its own name", "check y")
    return classes, index


def seed_of(random_state: Any) -> int:
    """A whole number from what scikit-learn calls a random state; a number is itself."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def folder(run: str | Path | None) -> Iterator[Path]:
    """Where a run writes: a new folder that stays, or a temporary one."""
    if run is None:
        with TemporaryDirectory(prefix="softprompt-") as name:
            yield Path(name)
        return
    place = Path(run)
    if place.exists() and any(place.iterdir()):
        raise TrainingError("SP-E510", f"a run in {place}", "a new folder", "give another `run`, or none")
    place.mkdir(parents=True, exist_ok=True)
    yield place


def wrong(code: str, found: str, expected: str, do: str, where: str | None = None) -> InputError:
    """Examples or labels that cannot be used."""
    return InputError(code, found, expected, do, where=where)
