"""Tiny random models with the kind of tokenizer of their family, examples for every task, and prompts over them."""

import re
import string
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import families
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from softprompt.backbones import Backbone, wrap
from softprompt.core import Example
from softprompt.methods import find, names
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.untrained import build

P = 4
CORPUS = (
    "The film was a joy from its first scene to its last , warm and funny and very well played . A dull and endless "
    "evening : nobody laughed , and the seats were hard ; I left early . My new card was lost in the post , when will "
    "the second one arrive ? It is good , it is bad , so yes or no !"
)


def fast(made: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def pieces(text: str) -> dict[str, None]:
    """Every beginning of every word, shortest first: what merging a word from its left makes."""
    return {word[:end]: None for word in text.split() for end in range(1, len(word) + 1)}


def numbered(*names: str) -> dict[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def merged(words: dict[str, None]) -> list[tuple[str, str]]:
    return [(word[:-1], word[-1]) for word in words if len(word) > 1]


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's: lower case, [CLS] text [SEP], a mask."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = re.findall(r"\w+", CORPUS.lower())
    letters = sorted({*CORPUS.lower(), *string.ascii_lowercase} - {" "})
    made = Tokenizer(
        models.WordPiece(
            numbered(*special, *letters, *(f"##{letter}" for letter in letters), *words), unk_token="[UNK]"
        )
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return fast(made, **names)


@cache
def bytelevel() -> PreTrainedTokenizerFast:
    """As GPT-2's: any text in bytes, a space belongs to the word after it, no BOS, no padding token."""
    words = pieces(" ".join(f"Ġ{word} {word}" for word in re.findall(r"\w+", CORPUS)))
    vocabulary = numbered("<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *words)
    made = Tokenizer(models.BPE(vocabulary, merged(words)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return fast(made, eos_token="<|endoftext|>")


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama's: words begin with an underscore, unknown characters fall back to bytes, BOS in front."""
    words = pieces(" ".join(f"▁{word}" for word in re.findall(r"\w+", CORPUS)))
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocabulary = numbered(*special, *(f"<0x{i:02X}>" for i in range(256)), "▁", *string.ascii_letters, *words)
    made = Tokenizer(models.BPE(vocabulary, merged(words), byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return fast(made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


@cache
def unigram() -> PreTrainedTokenizerFast:
    """As T5's: EOS behind the text."""
    words = [f"▁{word}" for word in re.findall(r"\w+", CORPUS)]
    scores = dict.fromkeys(["<pad>", "</s>", "<unk>"], 0.0)
    scores |= dict.fromkeys(["▁", *sorted({*CORPUS, *string.ascii_letters} - {" "})], -9.0)
    scores |= {word: -5.0 - i / 100 for i, word in enumerate(words)}
    made = Tokenizer(models.Unigram(list(scores.items()), unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return fast(made, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "llama": sentencepiece,
    "gpt2": bytelevel,
    "bert": wordpiece,
    "silent": wordpiece,
    "t5": unigram,
    "bart": unigram,
}
MODELS: dict[str, Callable[[int], nn.Module]] = {
    "llama": lambda v: tf.LlamaForCausalLM(tf.LlamaConfig(**families.GROUPED | {"vocab_size": v})),
    "gpt2": lambda v: tf.GPT2LMHeadModel(tf.GPT2Config(**families.GPT | {"vocab_size": v})),
    "bert": lambda v: tf.BertForMaskedLM(tf.BertConfig(**families.WORDS | {"vocab_size": v})),
    "silent": lambda v: tf.BertModel(tf.BertConfig(**families.WORDS | {"vocab_size": v})),  # predicts no words
    "t5": lambda v: tf.T5ForConditionalGeneration(tf.T5Config(**families.T5 | {"vocab_size": v})),
    "bart": lambda v: tf.BartForConditionalGeneration(tf.BartConfig(**families.BART | {"vocab_size": v})),
    "vit": lambda v: tf.ViTModel(tf.ViTConfig(**families.IMAGES)),
}
TEXTS = ["llama", "gpt2", "bert", "t5"]
SEEING = ("vpt",)  # methods for images alone
READING = [name for name in names() if name not in SEEING]


def fresh(family: str, seed: int = 7) -> Backbone:
    """A new random model of a family with its tokenizer; another seed gives other weights of the same shapes."""
    reader = TOKENIZERS[family]() if family in TOKENIZERS else processor()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = MODELS[family](len(reader) if family in TOKENIZERS else 0).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
    return wrap(model, reader, f"tiny-{family}")


@cache
def speaker(family: str) -> Backbone:
    """The same, shared by tests that leave it as it is."""
    return fresh(family)


def processor() -> Any:
    return tf.ViTImageProcessor(size={"height": 16, "width": 16})


@cache
def pictures() -> list[Path]:
    from PIL import Image

    folder = Path(tempfile.mkdtemp())
    paths = [folder / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.new("RGB", (20, 12), (60 * i, 255 - 60 * i, 90)).save(path)
    return paths


SENTENCES = ("A warm and funny film", "I left early", "The seats were hard and the evening dull", "A joy")
LABELS: dict[str, tuple[Any, ...]] = {
    "classification": ("good", "bad", "bad", "good"),
    "generation": ("a good film", "a bad one", "very bad", "yes"),
    "regression": (4.5, 1.0, -2.0, 3.25),
    "tagging": tuple(tuple("B" if word[0] in "AT" else "O" for word in text.split()) for text in SENTENCES),
}
KINDS = {
    "verbalizer": "classification",
    "classifier": "classification",
    "lm": "generation",
    "regressor": "regression",
    "tagger": "tagging",
}
TEMPLATES = {"verbalizer": "{text} It is {mask}", "lm": "{text} It is {mask}"}


def examples(head: str, family: str = "llama") -> list[Example]:
    """Four labelled examples of the task that a head is for."""
    labels = LABELS[KINDS[head]]
    if family == "vit":
        return [Example({}, label, image) for label, image in zip(labels, pictures(), strict=True)]
    split = head == "tagger"
    return [
        Example({"text": tuple(text.split()) if split else text}, label, where=f"made up:{i}")
        for i, (text, label) in enumerate(zip(SENTENCES, labels, strict=True), 1)
    ]


def prompt(
    family: str,
    method: str = "prompt_tuning",
    head: str = "verbalizer",
    *,
    backbone: Backbone | None = None,
    options: dict[str, Any] | None = None,
    length: int = P,
    **more: Any,
) -> Prompt:
    """A prompt that does something, as if it had been trained; `more` are sections of the recipe."""
    kind = KINDS[head]
    text = "" if family == "vit" else TEMPLATES.get(head, "{text}")
    slots = find(method).slots
    task = {"kind": kind, "head": head, "template": ("{soft}" if slots else "") + text, "new_tokens": 5}
    recipe = make_recipe(
        {
            "task": task | more.pop("task", {}),
            "method": {"name": method, "length": length, "options": options or {}},
            "init": {"kind": "text" if not slots and family != "vit" else "random"} | more.pop("init", {}),
            **more,
        }
    )
    labels = {"classification": ("bad", "good"), "tagging": ("B", "O")}.get(kind, ())
    made = build(Plan(recipe, examples(head, family), [], [], labels, {}), backbone or speaker(family))
    with torch.no_grad():
        for group in made.method.groups():
            for weight in group.parameters:
                weight.add_(torch.randn_like(weight) * 0.5 * group.unit)
    return made.eval()
