"""Several words a class, priors, and what they do to scores, written out from the model's own probabilities."""

import math
from typing import Any

import pytest
import speakers
import torch
from speakers import TEXTS
from torch import Tensor

from softprompt.artifact import Artifact
from softprompt.core import Example
from softprompt.errors import RecipeError
from softprompt.fewshot.calibrate import NOTHING, calibrated, prior
from softprompt.heads import Verbalizer
from softprompt.prompt import Prompt, without_prompt
from softprompt.untrained import build
from softprompt.wording import Wording

SYNONYMS = {"good": ("warm", "funny"), "bad": ("dull",)}
LONG = {"good": ("very warm",), "bad": ()}


def alone(prompt: Prompt, text: str, word: list[int]) -> float:
    """log p(word | text), from a forward of its own."""
    batch = prompt.batch([prompt.asked(Example({"text": text}), word)])
    return prompt.head.sequence_scores(prompt(batch), batch).item()


def written_out(prompt: Prompt, text: str, join: str) -> Tensor:
    """Chances of the classes from log-probabilities of every word, one at a time."""
    head = prompt.head
    assert isinstance(head, Verbalizer)
    made = []
    for own, more in zip(head.words, head.wording.more, strict=True):
        logs = [alone(prompt, text, word) for word in [own, *more]]
        made.append(sum(logs) / len(logs) if join == "mean" else math.log(sum(map(math.exp, logs))))
    return torch.tensor(made).softmax(0)


@pytest.mark.parametrize("synonyms", [SYNONYMS, LONG], ids=["one token", "several tokens"])
@pytest.mark.parametrize("join", ["mean", "sum"])
@pytest.mark.parametrize("family", ["llama", "t5"])
@torch.no_grad()
def test_a_class_scores_by_all_its_words(family: str, join: str, synonyms: dict[str, Any]) -> None:
    prompt = speakers.prompt(family, task={"synonyms": synonyms, "join": join})
    assert isinstance(prompt.head, Verbalizer)
    assert prompt.head.one_pass is (synonyms is SYNONYMS)
    for example in speakers.examples("verbalizer")[:2]:
        (answer,) = prompt.predict([example])
        wanted = written_out(prompt, str(example.fields["text"]), join)
        assert list(answer.scores.values()) == pytest.approx(wanted.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "code"),
    [
        ({"synonyms": {"good": ["bad"]}}, "SP-E209"),
        ({"synonyms": {"good": ["good"]}}, "SP-E209"),
        ({"synonyms": {"good": [" "]}}, "SP-E209"),
        ({"synonyms": {"goood": ["warm"]}}, "SP-E215"),
        ({"synonyms": {"good": ["warm"]}, "head": "classifier"}, "SP-E215"),
        ({"calibrate": "domain", "head": "classifier"}, "SP-E215"),
        ({"demonstrations": True, "head": "classifier"}, "SP-E215"),
        ({"join": "sum"}, "SP-E215"),
    ],
)
def test_words_that_would_be_ignored_or_confused_are_refused(tmp_path: Any, task: dict[str, Any], code: str) -> None:
    import tiny_runs

    from softprompt.plan import make_plan

    rows = "text,label\n" + "\n".join(f"w{i} w{i + 7},{('good', 'bad')[i % 2]}" for i in range(40))
    (tmp_path / "train.csv").write_text(rows)
    made = tiny_runs.recipe(tmp_path, "data.test=null")
    (tmp_path / "train.csv").write_text(rows)
    made = made.model_copy(update={"task": type(made.task)(**task)})
    frozen = speakers.speaker("llama")
    with pytest.raises(RecipeError, match=code):
        build(make_plan(made, frozen), frozen)


# Calibration


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@torch.no_grad()
def test_a_calibrated_model_favours_no_class_where_there_is_no_text(family: str) -> None:
    prompt = speakers.prompt(family, task={"synonyms": SYNONYMS})
    made = calibrated(prompt, "content_free", [])
    empty = [Example({"text": text}) for text in NOTHING]
    before = without_prompt(prompt).predict(empty)
    means = [sum(answer.scores[label] for answer in before) / 3 for label in prompt.task.labels]
    assert made.head.wording.prior == pytest.approx([math.log(mean) for mean in means])
    for example in speakers.examples("verbalizer")[:2]:
        (plain,), (found,) = without_prompt(prompt).predict([example]), without_prompt(made).predict([example])
        shares = [plain.scores[label] / mean for label, mean in zip(prompt.task.labels, means, strict=True)]
        assert list(found.scores.values()) == pytest.approx([s / sum(shares) for s in shares], abs=1e-5)


@torch.no_grad()
def test_the_prior_of_a_domain_is_the_mean_answer_to_its_texts_whatever_their_labels() -> None:
    prompt = speakers.prompt("llama")
    texts = [Example({"text": text}) for text in TEXTS]
    answers = without_prompt(prompt).predict(texts)
    made = calibrated(prompt, "domain", texts)
    wanted = [math.log(sum(a.scores[label] for a in answers) / len(answers)) for label in prompt.task.labels]
    assert made.head.wording.prior == pytest.approx(wanted)
    assert prior(without_prompt(prompt), texts) == made.head.wording.prior
    assert calibrated(prompt, "none", texts) is prompt


def test_words_and_priors_are_stored_with_a_prompt(tmp_path: Any) -> None:
    prompt = speakers.prompt("llama", task={"synonyms": SYNONYMS, "join": "sum", "calibrate": "content_free"})
    Artifact.of(prompt, {}, {}).save(tmp_path / "p.safetensors")
    again = Artifact.load(tmp_path / "p.safetensors").bind(prompt.backbone)
    examples = speakers.examples("verbalizer")
    assert again.head.options() == prompt.head.options()
    assert again.head.options()["prior"]
    assert [p.scores for p in again.predict(examples)] == [p.scores for p in prompt.predict(examples)]


@pytest.mark.parametrize("given", [{"join": "max"}, {"more": [[[1]]]}, {"prior": [0.0, 0.0, 0.0]}])
def test_a_wording_of_another_number_of_classes_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of 2"):
        Wording(2, **given)
