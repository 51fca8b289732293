"""What a prompt has to beat, computed by hand from the bare model."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import speakers
import torch
from speakers import TEXTS, speaker

from softprompt import baselines
from softprompt.core import Example
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe


def plan(head: str, family: str = "llama", repeat: int = 1) -> Plan:
    recipe = make_recipe({"task": {"kind": speakers.KINDS[head], "head": head}})
    return Plan(recipe, speakers.examples(head, family) * repeat, [], [], (), {})


def touched(prompt: Prompt) -> Prompt:
    """The same with a very different prompt: baselines must not see it."""
    with torch.no_grad():
        for weight in prompt.method.parameters():
            weight.add_(5.0)
    return prompt


def test_majority_answers_from_the_training_labels_alone() -> None:
    train = plan("classifier", repeat=1)
    train.train.append(Example({"text": "again"}, "bad"))
    assert baselines.majority(train, speakers.examples("classifier")) == ["bad"] * 4
    assert baselines.majority(plan("regressor"), speakers.examples("regressor")) == [pytest.approx(1.6875)] * 4
    tags = baselines.majority(plan("tagger"), speakers.examples("tagger"))
    assert tags == [("O",) * len(example.fields["text"]) for example in speakers.examples("tagger")]


@pytest.mark.parametrize("family", TEXTS)
def test_zero_shot_words_are_asked_of_the_bare_model(family: str) -> None:
    examples = speakers.examples("verbalizer")
    made = baselines.zero_shot(speakers.prompt(family), examples)
    assert made == baselines.zero_shot(touched(speakers.prompt(family)), examples)
    assert made == baselines.zero_shot(touched(speakers.prompt(family, "prefix")), examples)
    backbone, tokenizer = speaker(family), speakers.TOKENIZERS[family]()
    words = [tokenizer(" bad"), tokenizer(" good")]
    first = [next(i for i in word["input_ids"] if i not in tokenizer.all_special_ids) for word in words]
    for example, answer in zip(examples, made or [], strict=True):
        text = f"{example.fields['text']} It is" + (" [MASK]" if family == "bert" else "")
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            if family == "t5":
                logits = backbone.model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
            else:
                place = (ids[0] == tokenizer.mask_token_id).int().argmax() if family == "bert" else -1
                logits = backbone.model(ids).logits[0, place]
        assert answer == ("bad", "good")[int(logits[first[1]] > logits[first[0]])]


def test_zero_shot_of_a_trained_head_is_the_class_name_nearest_in_meaning() -> None:
    prompt = speakers.prompt("bert", head="classifier")
    examples = speakers.examples("classifier")
    made = baselines.zero_shot(prompt, examples)

    def mean_state(text: str) -> torch.Tensor:
        ids = torch.tensor([speakers.wordpiece()(text)["input_ids"]])
        with torch.no_grad():
            state: torch.Tensor = speaker("bert").model.base_model(ids).last_hidden_state[0].mean(0)
        return state

    names = [mean_state(name) for name in ("bad", "good")]
    for example, answer in zip(examples, made or [], strict=True):
        near = [torch.cosine_similarity(mean_state(str(example.fields["text"])), name, 0).item() for name in names]
        assert answer == ("bad", "good")[int(near[1] > near[0])]


@pytest.mark.parametrize(("family", "head"), [("llama", "classifier"), ("bert", "regressor"), ("bert", "tagger")])
def test_a_backbone_that_cannot_be_asked_has_no_zero_shot_answer(family: str, head: str) -> None:
    assert baselines.zero_shot(speakers.prompt(family, head=head), speakers.examples(head)) is None


@pytest.mark.parametrize("family", [*TEXTS, "vit"])
def test_states_are_those_of_the_bare_model_pooled_over_text(family: str) -> None:
    prompt = touched(speakers.prompt(family, head="classifier"))
    examples = speakers.examples("classifier", family)
    made = baselines.states(prompt, examples)
    bare = baselines.without_prompt(prompt)
    model = speaker(family).model
    for state, example in zip(made, examples, strict=True):
        row = bare.row(example)
        with torch.no_grad():
            if row.pixels is not None:
                hidden = model(pixel_values=row.pixels[None]).last_hidden_state[0]
            else:
                stack: Any = model.get_encoder() if family == "t5" else model.base_model
                hidden = stack(torch.tensor([row.ids])).last_hidden_state[0]
        expected = hidden[-1] if family in ("llama", "gpt2") else hidden.mean(0)
        torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-4)


def test_the_probe_learns_what_the_states_tell() -> None:
    train, prompt = plan("classifier", repeat=3), speakers.prompt("bert", head="classifier")
    test = speakers.examples("classifier")
    assert baselines.probe(prompt, train, test) == [example.label for example in test]
    numbers = baselines.probe(speakers.prompt("bert", head="regressor"), plan("regressor", repeat=3), test)
    targets = [float(str(example.label)) for example in speakers.examples("regressor")]
    assert numbers is not None
    assert np.abs(np.subtract(numbers, targets)).max() < 0.5


def test_the_probe_of_one_class_answers_that_class() -> None:
    train = plan("classifier")
    train.train[:] = [example for example in train.train if example.label == "bad"]
    answers = baselines.probe(speakers.prompt("bert", head="classifier"), train, speakers.examples("classifier"))
    assert Counter(answers) == {"bad": 4}


@pytest.mark.parametrize("head", ["tagger", "lm"])
def test_tags_and_written_answers_have_no_probe(head: str) -> None:
    assert baselines.probe(speakers.prompt("llama", head=head), plan(head), speakers.examples(head)) is None
