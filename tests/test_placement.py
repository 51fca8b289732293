"""A prompt before or after BOS: the template chooses, and every token has the position that it stands at."""

from functools import cache
from typing import Any

import pytest
import speakers
import torch
from tokenizers import processors
from torch.testing import assert_close

from softprompt.core import TEXT, Example
from softprompt.prompt import Prompt

P = speakers.P
PLACES = {"after": "{soft}{text}", "before": "{soft}{bos}{text}", "after, spelt out": "{bos}{soft}{text}"}
OPENING = {"llama": [1], "gpt2": [0], "bert": [2]}
CLOSING = {"llama": [], "gpt2": [], "bert": [3]}
every_family = pytest.mark.parametrize("family", OPENING)


@cache
def frozen(family: str) -> Any:
    """The backbone of a family; GPT-2's tokenizer puts nothing in front of a text, so here it is told to."""
    made = speakers.fresh(family)
    if family == "gpt2":
        made.tokenizer = speakers.bytelevel.__wrapped__()
        made.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return made


def placed(family: str, place: str, head: str = "classifier") -> Prompt:
    text = PLACES[place] + (" It is {mask}" if head == "verbalizer" else "")
    return speakers.prompt(family, "prompt_tuning", head, backbone=frozen(family), task={"template": text})


def inner(family: str) -> list[int]:
    ids: list[int] = frozen(family).tokenizer("a joy", add_special_tokens=False)["input_ids"]
    return ids


@every_family
@pytest.mark.parametrize("place", PLACES)
def test_slots_stand_where_the_template_says_and_positions_count_them_like_tokens(family: str, place: str) -> None:
    prompt = placed(family, place)
    row = prompt.row(Example({"text": "a joy"}), labelled=False)
    soft, opening = list(range(P)), [TEXT]
    text = inner(family) + CLOSING[family]
    assert row.slots == (soft + opening if place == "before" else opening + soft) + [TEXT] * len(text)
    assert [i for i, slot in zip(row.ids, row.slots, strict=True) if slot == TEXT] == OPENING[family] + text
    batch = prompt.batch([row])
    given = prompt.backbone.arguments(batch, prompt.inject(batch), None)
    assert given["position_ids"].tolist() == [list(range(len(row.ids)))]


@every_family
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_states_are_those_of_the_library_over_vectors_and_tokens_in_that_order(family: str, place: str) -> None:
    prompt, model = placed(family, place), frozen(family).model
    table = model.get_input_embeddings().weight
    opening, text = table[OPENING[family]], table[inner(family) + CLOSING[family]]
    vectors = prompt.method.prompt
    whole = torch.cat([vectors, opening, text] if place == "before" else [opening, vectors, text])[None]
    wanted = model.base_model(inputs_embeds=whole, position_ids=torch.arange(whole.shape[1])[None]).last_hidden_state
    batch = prompt.batch([prompt.row(Example({"text": "a joy"}), labelled=False)])
    assert_close(prompt(batch).hidden, wanted, atol=1e-5, rtol=1e-5)


@every_family
def test_both_places_can_be_trained_and_answer_differently(family: str) -> None:
    head = "verbalizer" if family != "bert" else "classifier"
    one, other = placed(family, "after", head), placed(family, "before", head)
    other.load_state_dict(one.state_dict())
    examples = speakers.examples(head)
    for prompt in (one, other):
        prompt.loss(prompt.batch([prompt.row(example) for example in examples])).backward()
        assert prompt.method.prompt.grad.abs().sum(1).min() > 0
    first, second = (prompt.predict(examples)[0].scores["good"] for prompt in (one, other))
    assert abs(first - second) > 1e-4


def test_cls_is_pooled_wherever_it_stands() -> None:
    prompt = speakers.prompt(
        "bert", head="classifier", backbone=frozen("bert"), task={"template": PLACES["before"], "pool": "cls"}
    )
    batch = prompt.batch([prompt.row(Example({"text": "a joy"}), labelled=False)])
    output = prompt(batch)
    wanted = prompt.head.linear(output.hidden[:, P]).log_softmax(-1)  # CLS stands behind the P vectors
    assert_close(prompt.head.scores(output, batch), wanted)


def test_where_a_tokenizer_puts_nothing_in_front_the_prompt_is_first_either_way() -> None:
    rows = [
        speakers.prompt("gpt2", head="classifier", task={"template": text}).row(Example({"text": "a joy"}, "good"))
        for text in PLACES.values()
    ]
    assert rows[0].slots[:P] == list(range(P))
    assert rows[0].ids == rows[1].ids == rows[2].ids
    assert rows[0].slots == rows[1].slots == rows[2].slots


@every_family
def test_a_prefix_stands_before_bos_which_counts_on_after_it(family: str) -> None:
    prompt = speakers.prompt(family, "prefix", "classifier", backbone=frozen(family))
    batch = prompt.batch([prompt.row(Example({"text": "a joy"}), labelled=False)])
    assert batch.input_ids[0, 0] == OPENING[family][0]
    given = prompt.backbone.arguments(batch, prompt.inject(batch), None)
    assert given["position_ids"].tolist() == [list(range(P, P + batch.input_ids.shape[1]))]
