"""Ensembles: one forward for all members answers as each of them alone, and votes are what the paper says they are."""

from typing import Any

import pytest
import speakers
import torch
from speakers import speaker

from softprompt.artifact import Artifact
from softprompt.core import Example
from softprompt.ensemble import Ensemble
from softprompt.errors import ArtifactError, RecipeError
from softprompt.evaluate import scores
from softprompt.mixed import Layout
from softprompt.prompt import Prediction, Prompt, Task

HEADS = ["verbalizer", "classifier", "tagger", "regressor"]
FAMILIES = ["llama", "gpt2", "bert", "t5", "bart"]
CASES = [(family, head) for family in FAMILIES for head in HEADS]


def members(family: str, head: str, *methods: str) -> list[Prompt]:
    """Prompts of different methods and of different lengths: 3, 4, 5..."""
    made = []
    for i, method in enumerate(methods):
        torch.manual_seed(i)
        made.append(speakers.prompt(family, method, head, train={"seed": i}, length=3 + i))
    return made


def count_forwards(frozen: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every forward from now on."""
    sizes: list[int] = []
    before = frozen.forward

    def counted(batch: Any, *given: Any, **named: Any) -> Any:
        sizes.append(len(batch))
        return before(batch, *given, **named)

    monkeypatch.setattr(frozen, "forward", counted)
    return sizes


def agree(ours: list[Prediction], theirs: list[Prediction]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.answer == pytest.approx(b.answer, rel=1e-4) if isinstance(a.answer, float) else a.answer == b.answer
        assert a.scores == pytest.approx(b.scores, abs=1e-5)


@pytest.mark.parametrize(("family", "head"), CASES)
def test_members_answer_in_one_forward_as_they_do_alone(
    family: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint = Ensemble(members(family, head, "prompt_tuning", "prefix", "dept", "prefix"))
    examples = speakers.examples(head)
    alone = [prompt.predict(examples) for prompt in joint.prompts]
    sizes = count_forwards(joint.backbone, monkeypatch)
    together, _ = joint.answer(examples, batch_size=1000)
    assert len(sizes) == 1
    assert sizes[0] % (len(joint) * len(examples)) == 0
    for ours, theirs in zip(together, alone, strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize("size", [1, 6, 1000])
def test_the_size_of_a_batch_counts_rows_and_changes_no_answer(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    joint = Ensemble(members("gpt2", "classifier", "prompt_tuning", "prefix", "p_tuning"))
    examples = speakers.examples("classifier")
    expected = joint.predict(examples)
    sizes = count_forwards(joint.backbone, monkeypatch)
    agree(joint.predict(examples, batch_size=size), expected)
    assert max(sizes) <= max(size, len(joint))
    assert joint.predict([]) == []


def joint_like(family: str, head: str, *prompts: Prompt, forwards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members answer as they do alone, in so many forwards."""
    examples = speakers.examples(head, family)
    alone = [prompt.predict(examples) for prompt in prompts]
    joint = Ensemble(prompts)
    sizes = count_forwards(joint.backbone, monkeypatch)
    together, _ = joint.answer(examples)
    assert len(sizes) == forwards
    for ours, theirs in zip(together, alone, strict=True):
        agree(ours, theirs)


def soft(options: dict[str, Any]) -> str:
    return "{soft}" if options.get("deep") is False else ""


@pytest.mark.parametrize(
    ("first", "second", "forwards"),
    [
        (("vpt", 3, {}), ("vpt", 5, {}), 1),
        (("vpt", 3, {"deep": False}), ("vpt", 3, {"deep": False}), 1),
        (("vpt", 3, {"deep": False}), ("vpt", 5, {"deep": False}), 2),  # images have no mask for vectors of a row
        (("vpt", 3, {}), ("prefix", 4, {}), 2),
        (("prefix", 3, {}), ("prefix", 5, {}), 1),
    ],
)
def test_prompts_of_images_answer_together(first: Any, second: Any, forwards: int, monkeypatch: Any) -> None:
    made = [
        speakers.prompt("vit", name, "classifier", length=size, options=options, task={"template": soft(options)})
        for name, size, options in (first, second)
    ]
    joint_like("vit", "classifier", *made, forwards=forwards, monkeypatch=monkeypatch)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_what_no_mask_can_tell_apart_takes_a_forward_of_its_own(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = (speakers.prompt(family, "prefix", "verbalizer", options={"layers": layers}) for layers in ("0-1", "2"))
    vectors = speakers.prompt(family, "prompt_tuning", "verbalizer")
    joint_like(family, "verbalizer", low, vectors, high, forwards=2, monkeypatch=monkeypatch)


def test_sides_of_an_encoder_decoder_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        speakers.prompt("t5", "prefix", options={"reach": reach}, length=3 + i)
        for i, reach in enumerate(("all", "decoder", "encoder", "cross"))
    ]
    joint_like("t5", "verbalizer", *made, forwards=3, monkeypatch=monkeypatch)  # `encoder` goes with any


def test_heads_that_read_words_and_heads_that_read_states_take_a_forward_each(monkeypatch: pytest.MonkeyPatch) -> None:
    words, states = speakers.prompt("gpt2", head="verbalizer"), speakers.prompt("gpt2", "prefix", "classifier")
    joint_like("gpt2", "classifier", words, states, words, forwards=2, monkeypatch=monkeypatch)


def test_a_ranked_answer_has_a_row_for_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"words": {"bad": "bad , no", "good": "good , yes or no"}}
    ranked = speakers.prompt("gpt2", task=task)
    assert not ranked.head.one_pass
    joint_like("gpt2", "verbalizer", ranked, speakers.prompt("gpt2", length=7), forwards=1, monkeypatch=monkeypatch)


# Votes


class Told(Ensemble):
    """An ensemble of members that say what the test wants."""

    says: Any

    def opinions(self, examples: Any, batch_size: int) -> list[list[torch.Tensor]]:
        return [[torch.as_tensor(one) for _ in examples] for one in self.says]


def told(head: str, says: Any, vote: Any = None) -> Prediction:
    joint = Told([speakers.prompt("gpt2", head=head) for _ in says], vote=vote)
    joint.says = says
    return joint.predict(speakers.examples(head)[:1])[0]


def test_the_majority_decides_however_sure_the_others_are() -> None:
    says = [[[0.51, 0.49]], [[0.01, 0.99]], [[0.51, 0.49]]]
    answer = told("classifier", says)
    assert answer.answer == "bad"
    assert answer.scores == pytest.approx({"bad": 2 / 3, "good": 1 / 3})
    answer = told("classifier", says, vote="mean")
    assert answer.answer == "good"
    assert answer.scores == pytest.approx({"bad": 1.03 / 3, "good": 1.97 / 3})


@pytest.mark.parametrize(("sure", "wins"), [(0.9, "good"), (0.6, "bad")])
def test_a_tie_goes_to_the_class_that_members_are_surer_of(sure: float, wins: str) -> None:
    answer = told("verbalizer", [[[0.7, 0.3]], [[1 - sure, sure]]])
    assert answer.answer == wins
    assert answer.scores == {"bad": 0.5, "good": 0.5}


def test_every_word_is_voted_on_by_itself() -> None:
    says = [[[0.9, 0.1], [0.4, 0.6]], [[0.4, 0.6], [0.4, 0.6]], [[0.8, 0.2], [0.9, 0.1]]]
    assert told("tagger", says).answer == ("B", "O")
    assert told("tagger", says, vote="mean").answer == ("B", "B")


def test_numbers_are_joined_by_their_mean() -> None:
    assert told("regressor", [1.0, 2.0, 6.0]).answer == pytest.approx(3.0)


def test_the_ensemble_is_the_vote_of_its_members() -> None:
    """Written out by hand over real members, classes in another order in one of them."""
    made = members("bert", "classifier", "prompt_tuning", "prefix", "p_tuning")
    made.append(other_order(made[0]))
    examples = speakers.examples("classifier")
    alone = [prompt.predict(examples) for prompt in made]
    for vote in ("majority", "mean"):
        for i, answer in enumerate(Ensemble(made, vote=vote).predict(examples)):
            chances = {label: sum(member[i].scores[label] for member in alone) / 4 for label in ("bad", "good")}
            votes = {label: sum(member[i].answer == label for member in alone) / 4 for label in ("bad", "good")}
            wanted, ranked = (
                (chances, chances) if vote == "mean" else (votes, {k: (votes[k], chances[k]) for k in votes})
            )
            assert answer.scores == pytest.approx(wanted, abs=1e-5)
            assert answer.answer == max(ranked, key=lambda label: ranked[label])


def other_order(prompt: Prompt) -> Prompt:
    """A prompt that knows the classes in the opposite order, as one trained on another file may."""
    made = speakers.prompt("bert", head="classifier", length=6)
    with torch.no_grad():
        made.head.linear.weight.copy_(prompt.head.linear.weight.flip(0))
    return Prompt(made.backbone, made.method, made.head, made.template, Task("classification", ("good", "bad")))


def test_words_that_were_cut_off_are_outside_for_every_member() -> None:
    made = [speakers.prompt("bert", "prefix", "tagger", task={"max_tokens": 20}, length=size) for size in (3, 5)]
    words = ("film", "joy") * 30
    answer = Ensemble(made).predict([Example({"text": words})])[0].answer
    assert isinstance(answer, tuple)
    assert len(answer) == 60
    assert answer[-1] == "O"


def test_scores_of_an_ensemble_are_computed_like_those_of_a_prompt() -> None:
    joint, examples = Ensemble(members("gpt2", "classifier", "prefix", "prefix")), speakers.examples("classifier")
    found = scores(joint, examples, "accuracy", joint.predict(examples))
    right = [p.answer == e.label for p, e in zip(joint.predict(examples), examples, strict=True)]
    assert (found[0].name, found[0].value) == ("accuracy", sum(right) / len(right))


# Texts


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_texts_are_those_of_most_members(family: str) -> None:
    one, two = members(family, "lm", "prompt_tuning", "prefix")
    examples = speakers.examples("lm")
    joint = Ensemble([one, two, one])
    together, chosen = joint.answer(examples)
    assert together == [one.predict(examples), two.predict(examples), one.predict(examples)]
    assert chosen == one.predict(examples)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_tie_of_texts_goes_to_the_likelier_one(family: str) -> None:
    made = members(family, "lm", "prompt_tuning", "prefix")
    joint, example = Ensemble(made), speakers.examples("lm")[0]
    texts = ["a good film", "The seats were hard"]

    def mean(text: str) -> float:
        rows = [(p, p.batch([p.row(Example(example.fields, text))])) for p in made]
        return sum(p.head.sequence_scores(p(batch), batch).item() for p, batch in rows) / 2

    with torch.no_grad():
        wanted = {text: mean(text) for text in texts}
        for text in texts:
            assert joint.likelihood(example, text) == pytest.approx(wanted[text], abs=1e-3)
        assert joint.chosen(example, texts).answer == max(texts, key=lambda text: wanted[text])
        assert joint.chosen(example, ["", texts[1]]).answer == texts[1]


# Refusals


def refused(code: str, *prompts: Prompt, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        Ensemble(prompts, **options)
    assert caught.value.code == code
    return str(caught.value)


def test_prompts_that_do_not_belong_together_are_refused() -> None:
    one = speakers.prompt("gpt2", head="classifier")
    refused("SP-E270", one)
    assert "backbone of its own" in refused("SP-E270", one, speakers.prompt("bert", head="classifier"))
    assert "task" in refused("SP-E270", one, speakers.prompt("gpt2", head="regressor"))
    other = Prompt(one.backbone, one.method, one.head, one.template, Task("classification", ("bad", "best")))
    assert "labels ['bad', 'best']" in refused("SP-E270", one, other)
    columns = speakers.prompt("gpt2", head="classifier", task={"template": "{soft}{title} {text}"})
    assert "columns" in refused("SP-E270", one, columns)


def test_a_file_for_another_backbone_is_refused_before_there_is_an_ensemble() -> None:
    made = Artifact.of(speakers.prompt("gpt2", head="classifier"), {}, {})
    with pytest.raises(ArtifactError, match="SP-E320"):
        made.bind(speaker("bert"))


@pytest.mark.parametrize(("head", "vote"), [("regressor", "majority"), ("lm", "mean"), ("classifier", "median")])
def test_a_vote_that_cannot_be_taken_is_refused(head: str, vote: Any) -> None:
    one = speakers.prompt("gpt2", head=head)
    assert f"vote={vote}" in refused("SP-E271", one, one, vote=vote)


def test_members_stay_in_the_mode_they_were_in() -> None:
    made = members("gpt2", "classifier", "prompt_tuning", "prefix")
    made[0].train()
    Ensemble(made).predict(speakers.examples("classifier"))
    assert [prompt.training for prompt in made] == [True, False]


def test_layouts_fit_where_one_of_them_is_empty() -> None:
    empty, low = Layout(0, ((), False), ((), ())), Layout(0, ((True, False), False), ((), ()))
    high, image = Layout(0, ((False, True), False), ((), ())), Layout(3, ((), False), ((), ()))
    assert empty.fits(low)
    assert high.fits(empty)
    assert low.fits(low)
    assert not low.fits(high)
    assert not empty.fits(image)
