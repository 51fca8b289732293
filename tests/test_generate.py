"""Text generation: against transformers' `generate`, against a loop without a cache, and row by row."""

from dataclasses import replace
from functools import cache

import families
import pytest
import torch
import transformers as tf
from families import P, T
from tokenizers_tiny import words
from torch import Tensor, nn

from softprompt.backbones import Backbone, wrap
from softprompt.core import TEXT, Batch, Example, Injection, Row, Start
from softprompt.errors import DataError, RecipeError, SoftpromptError, Unsupported
from softprompt.generate import Ending, Settings, beam, begin, decode, generate, generator, pick
from softprompt.heads import LanguageModel
from softprompt.methods.base import Method
from softprompt.methods.prefix import PrefixTuning
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task
from softprompt.template import Template

TEXTS = ("w7 w9 w20", "w50 w51 w52 w60 w61 w62", "w88")
ENDS = tuple(range(10, 40))  # so many of the 96 words end an answer that rows end at different steps
STEPS = 10
FOUR = ["llama", "gpt2", "t5", "bart"]


class Looking(Method):
    """Prompt vectors and a prefix that depend on the text; counts how often it is asked."""

    calls = 0

    def forward(self, batch: Batch, text: Tensor) -> Injection:
        self.calls += 1
        seen = (text * (batch.mask & (batch.slots == TEXT))[..., None]).sum(1)  # [B, H]
        embeds = seen[:, None] * torch.linspace(-1, 1, P)[:, None]
        heads = seen[:, None, None, : self.spec.head_dim].expand(-1, self.spec.kv_heads, P, -1)
        return Injection(embeds=embeds, prefix=tuple((heads, -heads) for _ in range(self.spec.layers)))


class Silent(Method):
    """Adds nothing."""

    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection()


@cache
def frozen(name: str, ends: tuple[int, ...]) -> Backbone:
    """A tiny random backbone that ends its answers at EOS or at any of `ends`; tests leave it as it is."""
    backbone = wrap(families.model(name), words(), name)
    backbone.model.generation_config.eos_token_id = [2, *ends]
    return backbone


def prompt(name: str, method: str = "none", ends: tuple[int, ...] = ()) -> Prompt:
    """A new prompt on a tiny random backbone: without prompt vectors, with `vectors`, a `prefix`, or `looking`."""
    backbone = frozen(name, ends)
    made: Method
    if method == "prefix":
        made = PrefixTuning(backbone.spec, families.start(backbone))
    else:
        kinds = {"none": Silent, "vectors": PromptTuning, "looking": Looking}
        made = kinds[method](backbone.spec, Start(backbone.tokens(torch.arange(10, 10 + P))))
    slots = method in ("vectors", "looking")
    template = Template("{soft}{text}" if slots else "{text}", backbone, length=P, prefix=0 if slots else P)
    return Prompt(backbone, made, LanguageModel(), template, Task("generation"))


def rows(prompt: Prompt, texts: tuple[str, ...] = TEXTS) -> list[Row]:
    return [prompt.row(Example({"text": text}), labelled=False) for text in texts]


@cache
def library(name: str) -> nn.Module:
    """The bare model, with nothing forced or forbidden by its configuration."""
    model = families.model(name)
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    model.generation_config = tf.GenerationConfig(decoder_start_token_id=start, pad_token_id=0)
    return model


def theirs(prompt: Prompt, texts: tuple[str, ...] = TEXTS, ends: tuple[int, ...] = (), **options: object) -> list[str]:
    """The answers of transformers' `generate` to the prompt's input embeddings."""
    written = prompt.backbone.spec.kind == "seq2seq"
    batch = prompt.batch(rows(prompt, texts), side="right" if written else "left")
    with torch.no_grad():
        made = library(prompt.backbone.name).generate(
            inputs_embeds=prompt.backbone.embed(batch, prompt.inject(batch)),
            attention_mask=batch.mask.long(),
            eos_token_id=[2, *ends],
            **({"max_new_tokens": STEPS, "do_sample": False} | options),
        )
    return [plain(prompt, ids, ends) for ids in made.tolist()]


def plain(prompt: Prompt, ids: list[int], ends: tuple[int, ...] = ()) -> str:
    """The text of ids without the word that ended it."""
    ids = ids[1:] if prompt.backbone.spec.kind == "seq2seq" else ids  # the start token
    over = [i for i, token in enumerate(ids) if token in (2, *ends)]
    return str(prompt.backbone.tokenizer.decode(ids[: over[0] if over else None], skip_special_tokens=True))


def slow(prompt: Prompt, row: Row) -> str:
    """Greedy decoding without a cache: the whole text again at every step, the injection made once."""
    batch, ids = prompt.batch([row]), []
    with torch.no_grad():
        injection = prompt.inject(batch)
        for _ in range(STEPS):
            side = batch if batch.decoder is None else batch.decoder
            last = torch.tensor([side.input_ids.shape[1] - 1])
            token = prompt.backbone(batch, injection, columns=last).logits[0, -1].argmax().view(1, 1)
            ids.append(int(token))
            longer = families.tokens(torch.cat([side.input_ids, token], 1))
            longer = replace(
                longer, slots=torch.cat([side.slots, torch.full_like(token, TEXT)], 1), vectors=side.vectors
            )
            batch = longer if batch.decoder is None else replace(batch, decoder=longer)
    return plain(prompt, ids if batch.decoder is None else [0, *ids])


@pytest.mark.parametrize("ends", [(), ENDS], ids=["no end", "ends"])
@pytest.mark.parametrize("method", ["none", "vectors"])
@pytest.mark.parametrize("name", FOUR)
def test_greedy_is_that_of_transformers(name: str, method: str, ends: tuple[int, ...]) -> None:
    ours = prompt(name, method, ends)
    made = generate(ours, rows(ours), max_new_tokens=STEPS)
    assert made == theirs(ours, ends=ends)
    assert ends or max(len(text.split()) for text in made) == STEPS


@pytest.mark.parametrize("ends", [(), ENDS], ids=["no end", "ends"])
@pytest.mark.parametrize("method", ["none", "vectors"])
@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("penalty", [1.0, -0.5, 2.0])
def test_beam_search_is_that_of_transformers(name: str, method: str, ends: tuple[int, ...], penalty: float) -> None:
    ours = prompt(name, method, ends)
    made = generate(ours, rows(ours), max_new_tokens=STEPS, beams=3, length_penalty=penalty)
    assert made == theirs(ours, ends=ends, num_beams=3, length_penalty=penalty)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_prefix_is_a_prefilled_cache(name: str, beams: int) -> None:
    ours = prompt(name, "prefix")
    batch = ours.batch(rows(ours), side="left")
    store = tf.DynamicCache()
    for layer, pair in enumerate(ours.inject(batch).prefix or ()):
        store.update(*(x.detach().expand(len(batch), -1, -1, -1) for x in pair), layer)
    front = torch.ones(len(batch), P, dtype=torch.long)  # any ids: their keys and values are in the cache
    store.batch_repeat_interleave(beams)
    with torch.no_grad():
        made = library(name).generate(
            input_ids=torch.cat([front, batch.input_ids], 1),
            attention_mask=torch.cat([front, batch.mask.long()], 1),
            past_key_values=store,
            eos_token_id=2,
            num_beams=beams,
            max_new_tokens=STEPS,
            do_sample=False,
        )
    expected = [plain(ours, ids) for ids in made[:, P + batch.input_ids.shape[1] :].tolist()]
    assert generate(ours, rows(ours), max_new_tokens=STEPS, beams=beams) == expected
    assert expected != generate(prompt(name), rows(ours), max_new_tokens=STEPS, beams=beams)


@pytest.mark.parametrize("method", ["none", "vectors", "prefix"])
@pytest.mark.parametrize("name", [*FOUR, "mistral", "gemma3_text", "falcon", "bloom"])
def test_a_cache_changes_nothing(name: str, method: str) -> None:
    if method == "prefix" and name in ("falcon", "bloom"):
        pytest.skip("takes no prefix")
    ours = prompt(name, method)
    assert generate(ours, rows(ours), max_new_tokens=STEPS) == [slow(ours, row) for row in rows(ours)]


@pytest.mark.parametrize("beams", [1, 3])
def test_an_injection_that_depends_on_the_text_is_made_once_and_stays_with_its_row(beams: int) -> None:
    ours = prompt("llama", "looking", ENDS)
    method = ours.method
    assert isinstance(method, Looking)
    made = generate(ours, rows(ours), max_new_tokens=STEPS, beams=beams)
    assert method.calls == 1
    assert made == [generate(ours, [row], max_new_tokens=STEPS, beams=beams)[0] for row in rows(ours)]
    longer = prompt("llama", "looking")
    assert generate(longer, rows(longer), max_new_tokens=STEPS) == [slow(longer, row) for row in rows(longer)]


@pytest.mark.parametrize(
    "options", [{}, {"beams": 3}, {"temperature": 1.5, "top_p": 0.9}], ids=["greedy", "beam", "sample"]
)
@pytest.mark.parametrize("method", ["vectors", "prefix"])
@pytest.mark.parametrize("name", FOUR)
def test_a_row_does_not_depend_on_the_others(name: str, method: str, options: dict[str, float]) -> None:
    ours = prompt(name, method, ENDS[::3])
    whole = generate(ours, rows(ours), max_new_tokens=STEPS, **options)
    others = generate(ours, rows(ours, ("w3 w4 w5 w6 w7 w8 w9", TEXTS[1], "w44 w45")), max_new_tokens=STEPS, **options)
    assert whole[1] == others[1]
    assert whole[0] == generate(ours, rows(ours)[:1], max_new_tokens=STEPS, **options)[0]


def test_rows_of_different_length_share_no_batch_where_padding_counts_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = prompt("llama", "vectors")
    expected = generate(ours, rows(ours), max_new_tokens=STEPS)
    monkeypatch.setattr(ours.backbone, "pads_left", False)  # a batch that is padded on the left is refused now
    with pytest.raises(Unsupported, match="SP-E417"):
        begin(ours, rows(ours), STEPS)
    assert generate(ours, rows(ours), max_new_tokens=STEPS) == expected


def test_sampling_at_a_temperature_near_zero_is_greedy() -> None:
    ours = prompt("llama", "vectors")
    greedy = generate(ours, rows(ours), max_new_tokens=STEPS)
    assert generate(ours, rows(ours), max_new_tokens=STEPS, temperature=1e-9) == greedy
    assert generate(ours, rows(ours), max_new_tokens=STEPS, temperature=5.0, top_k=1) == greedy
    assert generate(ours, rows(ours), max_new_tokens=STEPS, temperature=5.0, top_p=1e-9) == greedy
    assert generate(ours, rows(ours), max_new_tokens=STEPS, temperature=5.0) != greedy


def test_a_seed_decides_what_is_sampled() -> None:
    ours = prompt("gpt2", "vectors")
    twice = [generate(ours, rows(ours), max_new_tokens=STEPS, temperature=2.0, seed=s) for s in (1, 1, 2)]
    assert twice[0] == twice[1] != twice[2]
    same = generate(ours, rows(ours)[:1] * 2, max_new_tokens=STEPS, temperature=2.0)
    assert same[0] != same[1]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (8, 0.8)])
def test_samples_follow_the_distribution_of_transformers(top_k: int, top_p: float) -> None:
    scores = torch.randn(1, 20) * 2
    wanted = tf.TemperatureLogitsWarper(1.3)(None, scores)
    wanted = tf.TopKLogitsWarper(top_k)(None, wanted) if top_k else wanted
    wanted = tf.TopPLogitsWarper(top_p)(None, wanted).softmax(-1)[0]
    count = 4000
    settings = Settings(temperature=1.3, top_k=top_k, top_p=top_p)
    drawn = pick(scores.expand(count, -1), settings, generators(count))
    found = torch.bincount(drawn, minlength=20) / count
    assert not found[wanted == 0].any()
    assert (found - wanted).abs().max() < 0.04  # five standard deviations of a chance of one half


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
@pytest.mark.parametrize("beams", [1, 3])
def test_repetition_is_discouraged_as_transformers_does(beams: int) -> None:
    ours = prompt("llama", "vectors")
    free, held = (generate(ours, rows(ours), max_new_tokens=20, repetition=r, beams=beams) for r in (1.0, 1.8))
    options = {"max_new_tokens": 20, "repetition_penalty": 1.8, "num_beams": beams}
    # One by one: in a batch, transformers does not count as many new tokens of a row as it has padding.
    assert held == [theirs(ours, (text,), **options)[0] for text in TEXTS]
    assert held != free


@pytest.mark.parametrize("name", FOUR)
def test_one_beam_is_greedy(name: str) -> None:
    ours = prompt(name, "vectors")
    endless = Ending(words(), frozenset())
    with torch.no_grad():
        one = beam(*begin(ours, rows(ours), STEPS), endless, Settings())
        assert one == decode(*begin(ours, rows(ours), STEPS), endless, Settings(), generators(3))


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_stops_before_a_stop_string_wherever_tokens_end(beams: int) -> None:
    ours = prompt("llama", "vectors")
    free = generate(ours, rows(ours), max_new_tokens=STEPS)[0]
    stop = free[7:12]  # from the middle of one word to the middle of another
    made = generate(ours, rows(ours), max_new_tokens=STEPS, stop=["never", stop], beams=beams)[0]
    assert " " in stop
    assert stop not in made
    assert beams > 1 or made == free[: free.index(stop)]


def test_no_token_is_written_after_a_stop_string() -> None:
    ours = prompt("llama", "vectors")
    free = generate(ours, rows(ours), max_new_tokens=STEPS)[0].split()
    stream, room = begin(ours, rows(ours)[:1], STEPS)
    ids = decode(stream, room, Ending(words(), frozenset({2}), (free[3],)), Settings(), generators(1))[0]
    assert len(ids) == free.index(free[3]) + 1


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", FOUR)
def test_an_answer_has_at_most_so_many_tokens(name: str, beams: int) -> None:
    ours = prompt(name)
    longest = max(len(text.split()) for text in generate(ours, rows(ours), max_new_tokens=4, beams=beams))
    assert longest == 4


@pytest.mark.parametrize("method", ["vectors", "prefix"])
def test_a_row_stops_where_the_backbone_can_take_no_more(method: str) -> None:
    ours = prompt("gpt2", method)  # 64 positions
    short = rows(ours, ("w5 w6",))[0]  # two words, and P = 4 vectors or keys and values
    long = replace(short, ids=short.ids + [5] * 55, slots=short.slots + [TEXT] * 55, labels=[])
    assert lengths(ours, [long, short]) == [64 - 61 + 1, 64 - 6 + 1]  # the last token of an answer is not read again


def test_the_decoder_stops_where_it_has_no_more_positions() -> None:
    ours = prompt("bart")
    assert lengths(ours, rows(ours)) == [64] * 3  # the start token and 63 of the 64 words


def lengths(prompt: Prompt, rows: list[Row]) -> list[int]:
    """How many tokens the answers get where nothing ends them, and beams give them as many."""
    endless = Ending(words(), frozenset())
    with torch.no_grad():
        greedy = decode(*begin(prompt, rows, 1000), endless, Settings(), generators(len(rows)))
        best = beam(*begin(prompt, rows, 1000), endless, Settings(beams=2))
    assert [len(ids) for ids in best] == [len(ids) for ids in greedy]
    return [len(ids) for ids in greedy]


def generators(count: int) -> list[torch.Generator]:
    return [generator(0, i) for i in range(count)]


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_row_longer_than_the_backbone_can_take_is_refused(name: str) -> None:
    ours = prompt(name, "prefix")
    row = Row([5] * 61, [TEXT] * 61, decoder=rows(ours)[0].decoder)
    with pytest.raises(DataError, match=r"SP-E104 found 65 tokens.*at most 64"):
        generate(ours, [row])


def test_dropout_is_off_while_writing_and_back_on_afterwards() -> None:
    ours = prompt("llama", "prefix")
    ours.method = PrefixTuning(ours.backbone.spec, families.start(ours.backbone), dropout=0.5)
    ours.train()
    assert generate(ours, rows(ours)) == generate(ours, rows(ours))
    assert ours.method.training


def test_no_rows_give_no_answers() -> None:
    assert generate(prompt("llama"), []) == []


def test_predict_writes_the_answers_of_a_generation_task() -> None:
    ours = prompt("t5", "prefix")
    examples = [Example({"text": text}) for text in TEXTS]
    found = [prediction.answer for prediction in ours.predict(examples, batch_size=2, max_new_tokens=T, beams=2)]
    assert found == generate(ours, rows(ours), max_new_tokens=T, beams=2)


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("SP-E240", {"beams": 0}),
        ("SP-E240", {"max_new_tokens": 0}),
        ("SP-E241", {"temperature": -0.1}),
        ("SP-E241", {"temperature": float("nan")}),
        ("SP-E241", {"repetition": 0.0}),
        ("SP-E241", {"beams": 2, "length_penalty": float("inf")}),
        ("SP-E242", {"temperature": 1.0, "top_p": 0.0}),
        ("SP-E242", {"temperature": 1.0, "top_p": 1.1}),
        ("SP-E242", {"temperature": 1.0, "top_k": -1}),
        ("SP-E243", {"beams": 2, "temperature": 1.0}),
        ("SP-E244", {"top_k": 5}),
        ("SP-E244", {"top_p": 0.5}),
        ("SP-E244", {"length_penalty": 2.0}),
        ("SP-E245", {"stop": "end"}),
        ("SP-E245", {"stop": ["end", ""]}),
    ],
)
def test_options_that_cannot_be_followed_are_refused(code: str, options: dict[str, object]) -> None:
    ours = prompt("llama")
    with pytest.raises(RecipeError, match=code):
        generate(ours, rows(ours), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_rows_that_have_an_answer_are_refused(name: str) -> None:
    ours = prompt(name)
    with pytest.raises(RecipeError, match="SP-E246"):
        generate(ours, [ours.row(Example({"text": "w5 w6"}, "w7"))])


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_backbones_that_do_not_write_are_refused(name: str) -> None:
    backbone = families.backbone(name)
    method = PromptTuning(backbone.spec, families.start(backbone))
    with pytest.raises(SoftpromptError, match=r"SP-E420.*\((encoder|vision)\)"):
        generate(Prompt(backbone, method, LanguageModel(), None, Task("generation")), [])


def test_samples_do_not_depend_on_the_size_of_the_batch() -> None:
    writer = prompt("llama", "vectors")
    examples = [Example({"text": " ".join(f"w{10 + i + j}" for j in range(3 + i % 3))}) for i in range(6)]
    drawn = [
        [made.answer for made in writer.predict(examples, batch_size=size, temperature=1.0, max_new_tokens=5)]
        for size in (1, 2, 6)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) > 1
