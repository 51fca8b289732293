"""A real tiny Llama in which one prompt is best, planted by hand: some times the word `w100`.

Attention is uniform and hands on the embeddings; nothing else is there. Of the width, coordinate 0 says the class of a
word of the text, coordinate 1 pushes the answer to one side. The last word of every row pushes the other way with the
weight of as many `w100`, so that every prompt with fewer gives one answer to all texts.
"""

import csv
import random
from functools import cache
from pathlib import Path

import tokenizers_tiny
import torch
import transformers as tf

from softprompt.backbones import Backbone, wrap
from softprompt.recipe import Recipe, make_recipe

H, TRIGGER, TAIL = 16, 100, 7
NORM = H**0.5
POOLS = (range(10, 20), range(20, 30))  # words of the two classes, whose names are w5 and w6
TEXT = 4  # words of a text
SIZE, LENGTH = 640, 3


@cache
def backbone(size: int = SIZE, length: int = LENGTH) -> Backbone:
    """A model of `size` words whose best prompt has `length` of them, with its tokenizer; id i is the word `w<i>`."""
    push = (length - 1) * NORM / (length + TEXT + 1)  # what the triggers yield, less what the last word itself hands on
    config = tf.LlamaConfig(
        vocab_size=size, hidden_size=H, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=False, max_position_embeddings=64, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = tf.LlamaForCausalLM(config).eval()
        layer = model.model.layers[0]
        for name in ("q_proj", "k_proj"):
            getattr(layer.self_attn, name).weight.zero_()
        layer.self_attn.v_proj.weight.copy_(torch.eye(H))
        layer.self_attn.o_proj.weight.copy_(torch.eye(H))
        layer.mlp.down_proj.weight.zero_()
        table = torch.randn(size, H)
        table[:, 0], table[:, 1] = 0.0, torch.rand(size) * 0.6 - 0.3
        for pool, sign in zip(POOLS, (-1.0, 1.0), strict=True):
            table[list(pool), 0] = 0.8 * sign
        table[TRIGGER] = torch.eye(H)[1] * NORM
        table[TAIL] = 0.0
        table[TAIL, 1] = -push
        rest = table[:, 2:]
        wanted = (H - table[:, :2].square().sum(1)).clamp(min=0).sqrt()
        table[:, 2:] = rest / rest.norm(dim=1, keepdim=True).clamp(min=1e-6) * wanted[:, None]
        table[TAIL, 2:] = 0.0
        model.model.embed_tokens.weight.copy_(table)
        model.lm_head.weight.copy_(table)
        model.lm_head.weight[5], model.lm_head.weight[6] = 0.0, 0.0
        model.lm_head.weight[5, :2], model.lm_head.weight[6, :2] = -0.75, 0.75
    return wrap(model, tokenizers_tiny.words(size), "planted")


def write(path: Path, count: int, seed: int) -> Path:
    """Texts of four words of a class's pool."""
    rng = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            text = " ".join(f"w{rng.choice(POOLS[i % 2])}" for _ in range(TEXT))
            writer.writerow([text, ("w5", "w6")[i % 2]])
    return path


def recipe(folder: Path) -> Recipe:
    """The task over files in `folder`."""
    return make_recipe(
        {
            "data": {
                "train": str(write(folder / "train.csv", 24, 0)),
                "dev": str(write(folder / "dev.csv", 8, 1)),
                "test": str(write(folder / "test.csv", 20, 2)),
                "allow_leakage": True,
            },
            "task": {"template": "{soft} {text} w7 {mask}", "kind": "classification", "head": "verbalizer"},
            "train": {"threads": 1},
        }
    )
