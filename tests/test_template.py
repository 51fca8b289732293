"""Templates: what a string means, which tokens a row has, where its labels stand, and what happens to long texts."""

from contextlib import suppress
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
import speakers
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from speakers import TEXTS, speaker
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from softprompt.backbones import Backbone
from softprompt.core import IGNORE, TEXT, Example, Injection, Row
from softprompt.errors import DataError, RecipeError
from softprompt.pieces import Piece, parse, writable
from softprompt.prompt import Prompt
from softprompt.template import Template, continuation, tokenizer_hash
from softprompt.tokens import losses, specials

every_family = pytest.mark.parametrize("family", TEXTS)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
any_text = st.text(st.characters(codec="utf-8"), max_size=60)
a_text = st.one_of(any_text, st.text(" ab\n\t", max_size=40), st.text("é😀中a ", max_size=40)).filter(str.strip)


def template(family: str, text: str = "{text}", length: int = 3, **options: Any) -> Template:
    return Template(text, speaker(family), length=length, **options)


def read_by(family: str, tokenizer: Any) -> Backbone:
    """A backbone with another tokenizer than its own."""
    backbone = speakers.fresh(family)
    backbone.tokenizer = tokenizer
    return backbone


def ids(family: str, text: str, special: bool = False) -> list[int]:
    return speakers.TOKENIZERS[family]()(text, add_special_tokens=special)["input_ids"]


def plain(row: Row) -> list[int]:
    return [i for i, slot in zip(row.ids, row.slots, strict=True) if slot == TEXT]


# The language


def test_a_template_is_its_pieces_in_order() -> None:
    assert parse("{soft:2}{a}{sep}it's {{{b}}} {mask}", 2) == [
        Piece("soft", count=2),
        Piece("field", "a"),
        Piece("sep", "sep"),
        Piece("text", "it's {"),
        Piece("field", "b"),
        Piece("text", "} "),
        Piece("mask", "mask"),
    ]


def test_soft_alone_takes_all_vectors_of_the_method() -> None:
    assert parse("{soft}{text}", 7)[0] == Piece("soft", count=7)


@given(st.text())
def test_escaped_braces_give_any_text_back(text: str) -> None:
    pieces = parse(text.replace("{", "{{").replace("}", "}}"), 1)
    assert pieces == ([Piece("text", text)] if text else [])


@given(st.text("{}:softexmask20 ²٣", max_size=20))
def test_any_string_is_pieces_or_a_refusal(text: str) -> None:
    with suppress(RecipeError):
        assert all(piece.count >= 1 for piece in parse(text, 5) if piece.kind == "soft")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{text", "lone '{' at character 1"),
        ("a }text", "lone '}' at character 3"),
        ("{text}}", "lone '}' at character 7"),
        ("{{text}", "lone '}' at character 7"),
        ("{}", "{}"),
        ("{:3}", "{:3}"),
        ("{soft:}", "{soft:}"),
        ("{soft:0}", "{soft:0}"),
        ("{soft:-1}", "{soft:-1}"),
        ("{soft:3.5}", "{soft:3.5}"),
        ("{soft:²}", "{soft:²}"),
        ("{soft:10001}", "{soft:10001}"),
        ("{soft:" + "9" * 6000 + "}", "{soft:999"),
        ("{text:3}", "{text:3}"),
        ("{mask:1}", "{mask:1}"),
    ],
)
def test_a_wrong_template_is_refused_with_what_is_wrong(text: str, found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, 5)
    assert caught.value.code == "SP-E220"
    assert found in caught.value.found
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("family", "text", "found"),
    [
        ("llama", "{soft:2}{text}", "2 slots for 3 vectors"),
        ("llama", "{soft}{text}{soft}", "6 slots for 3 vectors"),
        ("llama", "{text}{mask} and on", "{mask} in the middle"),
        ("bert", "{mask}{text}{mask}", "{mask} in the middle or twice"),
        ("llama", "{text}{sep}{other}", "without a separator"),
        ("llama", "no column", "no column"),
    ],
)
def test_a_template_that_does_not_fit_the_backbone_is_refused(family: str, text: str, found: str) -> None:
    with pytest.raises(RecipeError, match="SP-E220") as caught:
        template(family, text)
    assert found in caught.value.found


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    with pytest.raises(RecipeError, match="SP-E222"):
        template("gpt2", "{soft}{text}", length=57)  # of 64 positions
    with pytest.raises(RecipeError, match="SP-E222"):
        template("gpt2", "{text}", length=3, prefix=57)


def test_a_backbone_without_a_fast_tokenizer_is_refused() -> None:
    bare = read_by("bert", None)
    with pytest.raises(RecipeError, match="SP-E221"):
        Template("{text}", bare, length=3)


def test_columns_that_no_template_can_name_are_known() -> None:
    assert writable("text")
    assert writable("über text")
    assert not any(writable(name) for name in ("", "mask", "soft", "bos", "sep", "a:b", "{a", "a}"))


# Tokens


@every_family
@quick
@given(text=any_text, other=any_text)
def test_columns_and_literals_are_tokenised_as_one_string(family: str, text: str, other: str) -> None:
    row = template(family, "A {a}, because {b}!").encode(Example({"a": text, "b": other}))
    assert row.cut or row.ids == framed(family, f"A {text}, because {other}!")


def framed(family: str, text: str) -> list[int]:
    front, back = {"llama": ([1], []), "gpt2": ([], []), "bert": ([2], [3]), "t5": ([], [1])}[family]
    assert specials(speakers.TOKENIZERS[family]())[0] == front
    return front + ids(family, text) + back


@every_family
def test_slots_stand_where_the_template_puts_them(family: str) -> None:
    made = template(family, "{soft:2}{text}{soft:1} so")
    row = made.encode(Example({"text": "a joy"}))
    inner, after = ids(family, "a joy"), ids(family, " so")
    expected = [TEXT] * len(made.front) + [0, 1] + [TEXT] * len(inner) + [2] + [TEXT] * (len(after) + len(made.back))
    assert row.slots == expected
    assert plain(row) == made.front + inner + after + made.back
    assert row.cut == 0


def test_the_prompt_stands_after_bos_unless_the_template_says_otherwise() -> None:
    example = Example({"text": "a joy"})
    assert template("llama", "{soft}{text}").encode(example).slots[:4] == [TEXT, 0, 1, 2]
    row = template("llama", "{soft}{bos}{text}").encode(example)
    assert row.slots[:4] == [0, 1, 2, TEXT]
    assert row.ids[3] == 1


def test_two_texts_stand_between_the_models_own_separators() -> None:
    row = template("bert", "{a}{sep}{b}").encode(Example({"a": "a joy", "b": "I left"}))
    assert row.ids == [2, *ids("bert", "a joy"), 3, *ids("bert", "I left"), 3]


def test_without_soft_the_same_text_is_left() -> None:
    example = Example({"text": "a joy"})
    made = template("llama", "{text}{soft} It is")
    bare = made.without_soft()
    assert bare.encode(example).ids == [1, *ids("llama", "a joy It is")]
    assert made.encode(example).slots.count(TEXT) < len(made.encode(example).ids)


def test_a_missing_column_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"SP-E112 made up:3.*did you mean 'text'"):
        template("llama", "{txt}").encode(Example({"text": "a"}, where="made up:3"))


def test_a_row_without_any_token_is_refused() -> None:
    with pytest.raises(DataError, match="SP-E123"):
        template("gpt2", "{text}").encode(Example({"text": ""}))


def test_the_hash_follows_everything_that_decides_tokens() -> None:
    made = {
        template("llama", "{text}").hash,
        template("llama", "{text} ").hash,
        template("llama", "{text}", cut="head").hash,
        template("llama", "{text}", limit=30).hash,
        template("gpt2", "{text}").hash,
    }
    assert len(made) == 5
    assert template("llama", "{text}").hash in made


def test_the_hash_of_a_tokenizer_does_not_depend_on_its_past_calls() -> None:
    tokenizer = deepcopy(speakers.wordpiece())
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "a joy"], padding=True, truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer_hash(tokenizer) == before


def test_a_tokenizer_that_comes_with_truncation_cuts_nothing_silently() -> None:
    tokenizer = deepcopy(speakers.wordpiece())
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    row = Template("{text}", read_by("bert", tokenizer), length=3).encode(Example({"text": "a warm and funny film"}))
    assert row.ids == template("bert").encode(Example({"text": "a warm and funny film"})).ids


# Answers and labels


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_position_before_the_answer_predicts_its_first_token(family: str) -> None:
    made = template(family, "{soft}{text} It is {mask}")
    answer = made.continue_with("good")
    row = made.encode(Example({"text": "a joy"}), answer)
    end = speakers.TOKENIZERS[family]().eos_token_id
    before = len(made.encode(Example({"text": "a joy"})).ids)
    assert row.labels == [IGNORE] * (before - 1) + answer + [end]
    assert row.ids[before:] == answer
    assert len(row.ids) == len(row.labels) == len(row.slots)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_text_and_answer_are_what_the_whole_string_would_be(family: str) -> None:
    made = template(family, "{text} It is {mask}")
    row = made.encode(Example({"text": "The film"}), made.continue_with("a joy"), close=False)
    if family == "t5":
        assert row.decoder is not None
        assert row.ids[:-1] + row.decoder.labels == ids(family, "The film It is a joy")
    else:
        assert row.ids + row.labels[-1:] == made.front + ids(family, "The film It is a joy")


def test_an_answer_begins_with_a_space_where_the_template_has_one() -> None:
    example = Example({"text": "The film"})
    for text, whole in [("{text}: {mask}", "The film: good"), ("{text}:\n{mask}", "The film:\ngood")]:
        made = template("gpt2", text)
        row = made.encode(example, made.continue_with("good"), close=False)
        assert row.ids + row.labels[-1:] == ids("gpt2", whole)
    assert template("gpt2", "{text}{soft}{mask}").continue_with("good") == ids("gpt2", " good")


def test_the_decoder_of_an_encoder_decoder_reads_its_labels_one_later() -> None:
    made = template("t5", "{soft}{text} It is {mask}")
    answer = made.continue_with("a joy")
    row = made.encode(Example({"text": "The film"}), answer)
    assert row.labels == []
    assert row.decoder is not None
    assert row.decoder.labels == [*answer, 1]
    assert row.decoder.ids == [0, *answer]
    waiting = made.encode(Example({"text": "The film"})).decoder
    assert waiting is not None
    assert (waiting.ids, waiting.labels) == ([0], [IGNORE])


def test_an_encoder_answers_where_the_mask_stands() -> None:
    made = template("bert", "It is {mask}, {text}")
    row = made.encode(Example({"text": "I left"}), [77, 78])
    place = row.ids.index(4)
    assert row.ids[: place + 1] == [2, *ids("bert", "It is"), 4]
    assert [i for i, label in enumerate(row.labels) if label != IGNORE] == [place]
    assert row.labels[place] == 77


def test_an_encoder_without_a_mask_has_no_place_for_an_answer() -> None:
    with pytest.raises(RecipeError, match="SP-E220"):
        template("bert", "{text}").encode(Example({"text": "I left"}), [77])


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_losses_equal_those_that_transformers_computes_from_shifted_labels(family: str) -> None:
    """The library shifts labels itself: an independent account of which position predicts what."""
    prompt = speakers.prompt(family, head="lm")
    bare = Prompt(prompt.backbone, Silent(), prompt.head, prompt.template.without_soft(), prompt.task)
    for example in speakers.examples("lm"):
        row = bare.row(example)
        batch = bare.batch([row])
        if row.decoder is not None:
            given = {"input_ids": torch.tensor([row.ids]), "labels": torch.tensor([row.decoder.labels])}
        else:
            whole = [*row.ids, row.labels[-1]]
            first = next(i for i, label in enumerate(row.labels) if label != IGNORE) + 1
            given = {"input_ids": torch.tensor([whole])}
            given["labels"] = torch.tensor([[IGNORE] * first + whole[first:]])
        theirs = prompt.backbone.model(**given).loss
        ours = bare.loss(batch) / bare.head.count(batch)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


class Silent(torch.nn.Module):
    def forward(self, batch: Any, text: Any) -> Injection:
        return Injection()


def test_continuation_is_how_a_word_goes_on_after_text() -> None:
    assert continuation(speakers.bytelevel(), "good") == ids("gpt2", " good")
    assert continuation(speakers.sentencepiece(), "good") == ids("llama", "good")
    assert continuation(speakers.wordpiece(), "good") == ids("bert", "good")


# Texts that are too long

LIMIT = 24


@every_family
@pytest.mark.parametrize("side", ["tail", "head"])
@quick
@given(text=a_text, other=a_text, count=st.integers(0, 6))
def test_rows_respect_the_limit_and_keep_one_end_of_each_text(
    family: str, side: Any, text: str, other: str, count: int
) -> None:
    made = template(
        family, "{soft}{a} so {b}{mask}" if family != "bert" else "{soft}{a} {mask} {b}", limit=LIMIT, cut=side
    )
    answer = ids(family, "joy")[:1] * count or None
    a, b = (value * 6 for value in (text, other))
    seen: list[dict[str, str]] = []
    made.write = remember(made.write, seen)  # type: ignore[method-assign]
    row = made.encode(Example({"a": a, "b": b}), answer, close=False)
    assert len(row.ids) <= LIMIT
    left = seen[-1]
    kept = str.startswith if side == "tail" else str.endswith
    assert kept(a, left["a"])
    assert kept(b, left["b"])
    assert all(left.values())
    assert row.cut == len(Template.write(made, {"a": a, "b": b})[0].ids) - len(Template.write(made, left)[0].ids)
    labels = (row.decoder or row).labels
    assert [label for label in labels if label != IGNORE] == (answer or [])[: 1 if family == "bert" else count]
    assert [slot for slot in row.slots if slot != TEXT] == [0, 1, 2]


def remember(write: Any, seen: list[Any]) -> Any:
    def wrapped(values: Any) -> Any:
        seen.append(values)
        return write(values)

    return wrapped


@every_family
def test_plain_words_fill_the_limit_to_the_last_token(family: str) -> None:
    text = " ".join(["film"] * 200)
    for side in ("tail", "head"):
        row = template(family, "{soft}{text}", limit=LIMIT, cut=side).encode(Example({"text": text}))
        assert LIMIT - 3 <= len(row.ids) <= LIMIT
        assert row.cut > 100


def test_the_longest_column_is_cut_first_and_two_long_ones_alike() -> None:
    short, long = "a joy", " ".join(["joy"] * 100)
    made = template("bert", "{a}{sep}{b}", limit=LIMIT)
    row = made.encode(Example({"a": short, "b": long}))
    assert row.ids[: len(ids("bert", short)) + 2] == [2, *ids("bert", short), 3]
    row = made.encode(Example({"a": long, "b": long}))
    first = row.ids.index(3) - 1
    assert abs(first - (len(row.ids) - first - 3)) <= 1
    assert len(row.ids) >= LIMIT - 2


def test_a_column_that_stands_twice_is_cut_once() -> None:
    made = template("bert", "{text} again: {text}", limit=LIMIT)
    row = made.encode(Example({"text": " ".join(["joy"] * 100)}))
    assert LIMIT - 2 <= len(row.ids) <= LIMIT


@given(
    sizes=st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 50), st.integers(1, 3)), min_size=1),
    excess=st.integers(1, 100),
)
def test_losses_free_enough_tokens_and_leave_something_of_each_column(
    sizes: dict[str, tuple[int, int]], excess: int
) -> None:
    lengths, times = {k: v[0] for k, v in sizes.items()}, {k: v[1] for k, v in sizes.items()}
    lost = losses(lengths, times, excess)
    room = sum(lengths[k] * times[k] for k in sizes) - excess
    if not lost:
        assert room < sum(times[k] for k in sizes if lengths[k])
        return
    left = {k: lengths[k] - lost.get(k, 0) for k in sizes}
    assert sum(left[k] * times[k] for k in sizes) <= room
    assert all(left[k] >= 1 for k in sizes if lengths[k])
    assert all(left[k] == max(left.values()) for k in lost)


@pytest.mark.parametrize("side", ["tail", "head"])
def test_a_character_of_several_tokens_is_kept_or_cut_as_a_whole(side: Any) -> None:
    text = "😀" * 30
    row = template("gpt2", "{text}", limit=21, cut=side).encode(Example({"text": text}))
    assert len(row.ids) == 20
    assert speakers.bytelevel().decode(row.ids) == "😀" * 5


def test_truncate_error_refuses_what_does_not_fit() -> None:
    made = template("llama", "{soft}{text}", limit=LIMIT, cut="error")
    assert made.encode(Example({"text": "a joy"})).cut == 0
    with pytest.raises(DataError, match=r"SP-E104 made up:9.*at most 24"):
        made.encode(Example({"text": "joy " * 50}, where="made up:9"))


def test_an_answer_that_leaves_no_room_for_text_is_refused_and_never_cut() -> None:
    with pytest.raises(DataError, match="SP-E104"):
        template("llama", "{text}", limit=LIMIT).encode(Example({"text": "a joy"}), [5] * 60)
    with pytest.raises(DataError, match="SP-E104"):
        template("bart", "{text}").encode(Example({"text": "a joy"}), [5] * 80)  # its decoder counts to 64


def test_texts_are_cut_alike_for_answers_of_different_length() -> None:
    made = template("llama", "{text}", limit=LIMIT)
    example = Example({"text": "joy " * 50})
    short, long = (made.encode(example, [5] * n, close=False, room=6) for n in (1, 6))
    assert short.ids == long.ids[: len(short.ids)]
    assert len(long.ids) <= LIMIT


def test_labels_of_an_encoder_take_no_room() -> None:
    made = template("bert", "{mask} {text}", limit=LIMIT)
    example = Example({"text": "joy " * 50})
    assert made.encode(example, [5]).ids == made.encode(example, [5] * 9).ids == made.encode(example).ids


# Words to be tagged

some_words = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=12),
    min_size=1,
    max_size=12,
)


@quick
@given(words=some_words)
def test_words_stand_where_the_tokenizer_itself_says(words: list[str]) -> None:
    assume(all(word.split() == [word] for word in words))
    tokenizer = speakers.wordpiece()
    belongs = tokenizer(words, is_split_into_words=True).word_ids()
    expected = [belongs.index(i) if i in belongs else -1 for i in range(len(words))]
    row = template("bert", "{words}", length=3).encode(Example({"words": tuple(words)}))
    assume(not row.cut)
    assert list(row.words) == expected


@every_family
@pytest.mark.parametrize("side", ["tail", "head"])
@quick
@given(words=some_words, times=st.integers(1, 10))
def test_words_that_were_cut_off_are_minus_one_and_all_others_keep_their_first_token(
    family: str, side: Any, words: list[str], times: int
) -> None:
    assume(all(word.split() == [word] for word in words))
    many = tuple(words * times)
    made = template(family, "{soft}{words}", limit=40, cut=side)
    row = None
    with suppress(DataError):  # where the one word at that end is longer than the limit
        row = made.encode(Example({"words": many}))
    assume(row is not None)
    assert row is not None
    assert len(row.ids) <= 40
    assert len(row.words) == len(many)
    present = [place for place in row.words if place >= 0]
    assert all(a <= b for a, b in pairwise(present))
    uncut = made.write({"words": many})[0]
    whole = uncut.words
    where = [i for i, place in enumerate(row.words) if place >= 0]
    if side == "tail":
        assert [row.words[i] for i in where] == [whole[i] for i in where]
        assert all(row.words[i] >= 0 or whole[i] < 0 for i in range(max(where, default=-1) + 1))
    else:
        same = [(row.ids[row.words[i]], uncut.ids[whole[i]]) for i in where[1:]]  # the first has lost its space
        assert all(a == b for a, b in same)
        assert all(row.words[i] >= 0 or whole[i] < 0 for i in range(min(where, default=len(many)), len(many)))


@pytest.mark.parametrize("side", ["tail", "head"])
def test_words_with_spaces_inside_are_cut_off_as_wholes(side: Any) -> None:
    words = tuple(["New York", "is", "large"] * 40)
    row = template("bert", "{words}", limit=30, cut=side).encode(Example({"words": words}))
    assert len(row.words) == 120
    assert 20 <= len(row.ids) <= 30
    kept = [i for i, place in enumerate(row.words) if place >= 0]
    assert kept == (list(range(len(kept))) if side == "tail" else list(range(120 - len(kept), 120)))


def test_a_word_that_the_tokenizer_drops_has_no_token_of_another_word() -> None:
    row = template("bert", "{words}").encode(Example({"words": ("a", "\u200b", "joy")}))
    assert row.words == (1, -1, 2)


def test_a_model_without_a_start_for_its_decoder_is_refused() -> None:
    backbone = speakers.fresh("t5")
    backbone.model.config.decoder_start_token_id = None
    backbone.model.generation_config.decoder_start_token_id = None
    with pytest.raises(RecipeError, match="SP-E221"):
        Template("{text}", backbone, length=3)


def test_a_normaliser_that_moves_characters_does_not_move_the_cut() -> None:
    made = Tokenizer(models.WordLevel({"<unk>": 0, "ffi": 1, "x": 2}, unk_token="<unk>"))
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.WhitespaceSplit()
    backbone = read_by("gpt2", speakers.fast(made, unk_token="<unk>"))
    row = Template("{text}", backbone, length=3, limit=12).encode(Example({"text": "ﬃ " * 40}))
    assert row.ids == [1] * 12
