"""Pretrain a vision transformer of 1.2 million parameters on drawn images, and save it in the transformers layout.

    python -m scripts.pretrain_vit.train FOLDER [--steps 2000] [--batch 32] [--seed 0] [--threads 1]

No image is drawn twice, so there are no epochs; the same seed, threads and versions give the same weights. The folder
then is a backbone: `softprompt train DATA --model FOLDER --set method.name=vpt`.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import transformers as tf
from torch import Tensor
from torch.nn import functional as F

from scripts.pretrain_vit.draw import CLASSES, SIDE, batch

SIZES = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
RATE, DECAY, WARMUP = 1e-3, 0.05, 100
HELD_OUT = 2000  # images of another seed, to see what was learned


def new_model(seed: int) -> tf.ViTForImageClassification:
    """A vision transformer with random weights, without dropout."""
    torch.manual_seed(seed)
    names = dict(enumerate(CLASSES))
    config = tf.ViTConfig(
        **SIZES,
        image_size=SIDE,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.06,  # transformers' 0.02 suits layers 768 wide; these learn half as fast with it
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )
    model = tf.ViTForImageClassification(config)
    torch.nn.init.normal_(model.vit.embeddings.position_embeddings, std=0.3)  # heard beside patches from the start
    return model


def tensors(size: int, generator: random.Random) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, 28, 28] in [-1, 1], as the saved processor makes them, and classes [B]."""
    images, labels = batch(size, generator)
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(labels)


def rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to nothing."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def fit(model: tf.ViTForImageClassification, steps: int, size: int, seed: int) -> None:
    """Cross-entropy over the classes, AdamW; `model` is changed in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    generator, began = random.Random(seed), time.monotonic()
    model.train()
    for step in range(steps):
        pixels, labels = tensors(size, generator)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        logits = model(pixel_values=pixels).logits
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            right = (logits.argmax(1) == labels).float().mean()
            print(f"step {step:5}  loss {loss:.3f}  accuracy {right:.3f}  {time.monotonic() - began:.0f} s", flush=True)


@torch.inference_mode()
def accuracy(model: tf.ViTForImageClassification, seed: int) -> float:
    """The share of held-out images that are named rightly."""
    model.eval()
    generator, right = random.Random(f"held out {seed}"), 0
    for _ in range(HELD_OUT // 100):
        pixels, labels = tensors(100, generator)
        right += int((model(pixel_values=pixels).logits.argmax(1) == labels).sum())
    return right / (HELD_OUT // 100 * 100)


def save(model: tf.ViTForImageClassification, folder: Path, facts: dict[str, object]) -> None:
    """Weights, configuration, image processor, and how they came about."""
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    tf.ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    model, began = new_model(chosen.seed), time.process_time()
    fit(model, chosen.steps, chosen.batch, chosen.seed)
    facts: dict[str, object] = {
        "steps": chosen.steps,
        "batch": chosen.batch,
        "seed": chosen.seed,
        "classes": CLASSES,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "accuracy": accuracy(model, chosen.seed),
        "cpu_s": round(time.process_time() - began),
        "versions": {"torch": torch.__version__, "transformers": tf.__version__},
    }
    save(model, chosen.folder, facts)
    print(f"{facts['accuracy']:.3f} on {HELD_OUT} held-out images; saved in {chosen.folder}")


if __name__ == "__main__":
    main()
