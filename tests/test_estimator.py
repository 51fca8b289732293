"""`PromptClassifier` keeps the promises of a scikit-learn classifier, for texts."""

import pickle
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import families
import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data
from tokenizers_tiny import words

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, wrap
from softprompt.errors import DataError, RecipeError, SoftpromptError, TrainingError
from softprompt.estimator import PromptClassifier

QUICK = {
    "method": "prefix",
    "length": 2,
    "head": "classifier",
    "lr": 0.2,
    "batch_size": 32,
    "validation_fraction": 0,
    "settings": {"optim": {"head_lr": 3.2}},
}
GOOD = [f"w{i} w20 w21" for i in range(30, 40)]
BAD = [f"w{i} w60 w61" for i in range(30, 40)]
X = GOOD + BAD
Y = np.array(["yes"] * 10 + ["no"] * 10)


@cache
def backbone() -> Backbone:
    """A BERT of one layer that predicts words, and no weights worth knowing."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = tf.BertConfig(**families.WORDS | {"num_hidden_layers": 1, "initializer_range": 0.3})
        model = tf.BertForMaskedLM(config)
    tokenizer = words(families.V)
    tokenizer.mask_token = "w4"
    return wrap(model, tokenizer, "tiny")


def classifier(**given: Any) -> PromptClassifier:
    return PromptClassifier(backbone(), **QUICK | {"epochs": 8} | given)


@cache
def fitted() -> PromptClassifier:
    return classifier().fit(X, Y)


class OnNumbers(PromptClassifier):
    """Writes numbers as words, so that the checks of scikit-learn, which make up numbers, have something to fit."""

    def fit(self, X: Any, y: Any) -> "OnNumbers":
        super().fit(as_words(validate_data(self, X, dtype=float)), y)
        validate_data(self, X, dtype=float)
        return self

    def predict_proba(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().predict_proba(as_words(validate_data(self, X, dtype=float, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


def as_words(numbers: Any) -> list[str]:
    """One word a feature: thirty steps of its value, in a range of words of its own."""
    steps = np.clip(np.round(15 + 5 * numbers), 0, 29).astype(int)
    return [" ".join(f"w{5 + 30 * (j % 3) + step}" for j, step in enumerate(row)) for row in steps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model on disk: some checks hash and copy every parameter, which a path survives unchanged."""
    place = tmp_path_factory.mktemp("model")
    backbone().model.save_pretrained(place)
    backbone().tokenizer.save_pretrained(place)
    return str(place)


def name_of(check: Any) -> str:
    while hasattr(check, "func"):
        check = check.func
    return str(check.__name__)


CHECKS = [check for _, check in estimator_checks_generator(OnNumbers("unused"))]


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_scikit_learn_finds_nothing_wrong(check: Any, folder: str) -> None:
    # Every check runs; the ones with numbers meet the classifier behind `as_words`. `check_array_api_input` skips
    # itself without SCIPY_ARRAY_API: texts are in no array namespace.
    name = name_of(check)
    estimator = OnNumbers(folder, **QUICK, epochs=1)
    if name == "check_classifiers_train":  # asks for 83 % of 300 training rows
        estimator.set_params(epochs=8, settings=QUICK["settings"] | {"train": {"evaluate_every": 1000}})
    if name == "check_estimators_pickle":  # the one promise that is not kept, on purpose: pickles run code
        with pytest.raises(RecipeError, match=r"SP-E261.*save\(path\)"):
            check(estimator)
        return
    check(estimator)


def test_scikit_learn_knows_that_texts_are_wanted(folder: str) -> None:
    with pytest.warns(SkipTestWarning, match="string=True"):  # it has no checks of its own for texts
        check_estimator(PromptClassifier(folder))


def test_it_learns_and_answers_in_the_labels_of_y() -> None:
    assert fitted().score(X, Y) == 1
    assert fitted().classes_.tolist() == ["no", "yes"]
    assert fitted().predict(["w20 w21"]).tolist() == ["yes"]


@pytest.mark.parametrize(
    "y",
    [
        np.array([3, -1] * 5),
        np.array([True, False] * 5),
        ["b", "a"] * 5,
        pd.Series(["b", "a"] * 5, index=range(9, -1, -1)),
    ],
)
def test_labels_come_back_as_they_were(y: Any) -> None:
    model = classifier(epochs=1).fit([text for pair in zip(GOOD, BAD, strict=True) for text in pair][:10], y)
    answers = model.predict(X)
    assert answers.dtype == np.asarray(y).dtype
    assert set(answers.tolist()) <= set(np.asarray(y).tolist())
    assert model.classes_.tolist() == sorted(set(np.asarray(y).tolist()))


def test_probabilities_are_in_the_order_of_the_classes() -> None:
    chances = fitted().predict_proba(X)
    assert chances.shape == (20, 2)
    np.testing.assert_allclose(chances.sum(1), 1, atol=1e-12)
    assert (fitted().classes_[chances.argmax(1)] == fitted().predict(X)).all()
    assert (chances[:10, 1] > 0.5).all()  # "yes" is the second column


@pytest.mark.parametrize(
    "same",
    [
        np.array(X),
        np.array(X, dtype=object)[:, None],
        tuple(X),
        pd.Series(X, index=range(5, 25)),
        pd.DataFrame({"text": X}),
        [{"text": text} for text in X],
    ],
    ids=["array", "column", "tuple", "series", "frame", "dicts"],
)
def test_texts_are_the_same_however_they_are_held(same: Any) -> None:
    np.testing.assert_array_equal(fitted().predict_proba(same), fitted().predict_proba(X))


def test_several_columns_meet_in_the_template() -> None:
    table = pd.DataFrame({"title": ["w7"] * 20, "body": X})
    model = classifier(template="{title} w8 {body}").fit(table, Y)
    assert model.n_features_in_ == 2
    assert model.feature_names_in_.tolist() == ["title", "body"]
    rows = table[["body", "title"]].to_dict("records")  # the order of columns does not matter
    np.testing.assert_array_equal(model.predict_proba(rows), model.predict_proba(table))
    with pytest.raises(ValueError, match=r"SP-E141.*columns title; expected title, body"):
        model.predict(table[["title"]])


def test_a_template_that_reads_another_column_says_so() -> None:
    with pytest.raises(DataError, match="no column 'review'"):
        classifier(template="{review}").fit(X, Y)


def test_the_same_seed_gives_the_same_bits_and_leaves_torch_alone() -> None:
    before = torch.random.get_rng_state()
    again = classifier().fit(X, Y)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(again.predict_proba(X), fitted().predict_proba(X))
    other = classifier(random_state=np.random.RandomState(3)).fit(X, Y)
    assert (other.predict_proba(X) != again.predict_proba(X)).any()


def test_fitting_again_forgets_the_first_fit() -> None:
    model = classifier(epochs=2).fit(pd.DataFrame({"a": X, "b": X}), Y)
    assert model.n_features_in_ == 2
    first = classifier(epochs=2).fit(X, Y)
    np.testing.assert_array_equal(model.fit(X, Y).predict_proba(X), first.predict_proba(X))
    assert not hasattr(model, "n_features_in_")


def test_rows_set_aside_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def look(prompt: Any, plan: Any, *rest: Any) -> Any:
        seen.append((len(plan.train), len(plan.dev)))
        assert {e.where for e in plan.train} & {e.where for e in plan.dev} == set()
        return original(prompt, plan, *rest)

    from softprompt import estimator

    original = estimator.fit
    monkeypatch.setattr(estimator, "fit", look)
    classifier(epochs=1, validation_fraction=0.2).fit(X, Y)
    assert seen == [(16, 4)]
    with pytest.raises(SoftpromptError, match="SP-E132"):
        classifier(validation_fraction=0.1).fit(X[:2] + X[-1:], Y[[0, 1, -1]])
    with pytest.raises(SoftpromptError, match="SP-E133"):
        classifier(validation_fraction=1.5).fit(X, Y)


def test_words_stand_for_classes_that_are_numbers() -> None:
    model = classifier(head="verbalizer", words={1: "w50", 0: "w60"}, epochs=1).fit(X, (Y == "yes").astype(int))
    assert model.recipe_.task.words == {"0": "w60", "1": "w50"}
    assert model.prompt_.head.words == [[60], [50]]


def test_clones_share_the_backbone_and_forget_the_fit() -> None:
    copy = clone(fitted())
    assert copy.model is fitted().model
    assert copy.get_params() == fitted().get_params()
    assert not hasattr(copy, "prompt_")
    with pytest.raises(NotFittedError):
        copy.predict(X)


def test_it_works_in_cross_validation_grid_search_and_pipelines() -> None:
    assert cross_val_score(classifier(), X, Y, cv=2).mean() > 0.9
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    shouted = [text.upper() for text in X]
    search = GridSearchCV(make_pipeline(lower, classifier()), {"promptclassifier__epochs": [1, 8]}, cv=2)
    search.fit(shouted, Y)
    assert search.best_params_ == {"promptclassifier__epochs": 8}
    assert search.predict(shouted[:1]).tolist() == ["yes"]


def test_a_saved_prompt_answers_without_scikit_learn(tmp_path: Path) -> None:
    fitted().save(tmp_path / "prompt.safetensors")
    prompt = Artifact.load(tmp_path / "prompt.safetensors").bind(backbone())
    from softprompt.core import Example

    answers = prompt.predict([Example({"text": text}) for text in X])
    np.testing.assert_allclose([a.scores["yes"] for a in answers], fitted().predict_proba(X)[:, 1], atol=1e-6)
    with pytest.raises(NotFittedError):
        classifier().save(tmp_path / "nothing.safetensors")


def test_pickles_are_for_arguments_only(folder: str) -> None:
    again = pickle.loads(pickle.dumps(PromptClassifier(folder, length=3)))  # what n_jobs=2 sends to its workers
    assert again.get_params() == PromptClassifier(folder, length=3).get_params()
    with pytest.raises(RecipeError, match="SP-E261"):
        pickle.dumps(fitted())


def test_a_run_is_kept_where_it_was_asked_for_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = classifier(run=tmp_path / "run", epochs=1).fit(X, Y)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"log.jsonl", "recipe.yaml", "prompt.safetensors"}
    with pytest.raises(TrainingError, match="SP-E510"):
        model.fit(X, Y)
    classifier(epochs=1).fit(X, Y)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_report_counts_what_was_trained() -> None:
    report = fitted().report_
    assert report["parameters"] == sum(weight.numel() for weight in fitted().prompt_.parameters())
    assert report["metric"] == "accuracy"
    assert [event["step"] for event in report["dev"]] == [1, 2, 3, 4, 5, 6, 7, 8][: len(report["dev"])]


@pytest.mark.parametrize(
    "rows, found",
    [
        ("one text", "one str"),
        ({"text": "one"}, "one dict"),
        (7, "one int"),
        ([], "0 samples"),
        (["a", None], r"X\[1\].*NoneType"),
        (["a", float("nan")], r"X\[1\].*nan"),
        ([["a"], ["b"]], r"X\[0\].*list"),
        (np.zeros((2, 3)), r"X\[0\].*ndarray"),
        ([{"text": "a"}, {"test": "b"}], r"SP-E141 X\[1\].*columns test"),
        ([{"text": "a"}, {"text": 3}], r"X\[1\].*int 3"),
        (pd.DataFrame({"text": ["a", None]}), r"X\[1\]"),
        (pd.DataFrame({0: ["a", "b"]}), r"X\[0\]"),
    ],
)
def test_what_are_no_texts_is_refused_in_one_line(rows: Any, found: str) -> None:
    for act in (lambda: classifier().fit(rows, [0, 1]), lambda: fitted().predict(rows)):
        with pytest.raises(ValueError, match=found) as caught:
            act()
        assert isinstance(caught.value, DataError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "y, found",
    [
        (["a"] * 20, "SP-E142.*1 class"),
        ([0.5 * i for i in range(20)], "continuous"),
        ([float("nan")] * 20, "NaN"),
        (["a", "b"], "inconsistent numbers of samples"),
        (None, "1d array"),
        (np.zeros((20, 2)), "1d array"),
    ],
)
def test_what_are_no_classes_is_refused(y: Sequence[Any] | None, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        classifier().fit(X, y)


@pytest.mark.parametrize("settings", [{"data": {"seed": 1}}, {"train": {"epochs": 2}}, {"method": {"name": "x"}}])
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="SP-E260"):
        classifier(settings=settings).fit(X, Y)


def test_wrong_arguments_are_named_when_fitting() -> None:
    with pytest.raises(RecipeError, match=r"SP-E203.*weight_decai.*weight_decay"):
        classifier(settings={"optim": {"weight_decai": 1}}).fit(X, Y)
    with pytest.raises(RecipeError, match="SP-E210"):
        classifier(method="prefixx").fit(X, Y)
