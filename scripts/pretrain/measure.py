"""How good a backbone is on what was held out: bits per byte of running text, exact answers to skills."""

from collections import defaultdict
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scripts.pretrain.batches import LENGTHS, rows
from scripts.pretrain.corpus import Corpus

BRIEF = 1000  # samples of a look during training


@torch.no_grad()
def measure(model: nn.Module, corpus: Corpus, tokens: int, *, brief: bool = False) -> dict[str, Any]:
    """Bits per byte by source, and by task the share of answers whose every token is the likeliest one.

    Bits per byte = nats of all predicted tokens / (ln 2 x bytes of the text); greedy answers are judged with the
    right answer fed so far, so the share is that of greedy decoding.
    """
    nats: dict[str, float] = defaultdict(float)
    sizes: dict[str, int] = defaultdict(int)
    right: dict[str, list[float]] = defaultdict(list)
    order = np.random.default_rng(0).permutation(len(corpus.lengths))[: BRIEF if brief else None]
    place = np.searchsorted(LENGTHS, corpus.lengths[order] - 1)
    for bucket, length in enumerate(LENGTHS):
        members = order[place == bucket]
        width = max(1, tokens // length)
        for at in range(0, len(members), width):
            chosen = members[at : at + width]
            for sample, lost, exact in judge(model, corpus, chosen, length):
                name = corpus.names[corpus.sources[sample]]
                if "/" in name:
                    right[name.partition("/")[2]].append(exact)
                else:
                    nats[name] += lost
                    sizes[name] += int(corpus.sizes[sample])
    by_source = {name: nats[name] / log(2) / sizes[name] for name in sorted(nats)}
    by_task = {name: sum(values) / len(values) for name, values in sorted(right.items())}
    return {
        "bits_per_byte": sum(nats.values()) / log(2) / max(1, sum(sizes.values())),
        "exact": sum(by_task.values()) / max(1, len(by_task)),  # mean over tasks
        "by_source": {name: round(value, 4) for name, value in by_source.items()},
        "by_task": {name: round(value, 4) for name, value in by_task.items()},
    }


def judge(model: nn.Module, corpus: Corpus, chosen: Any, length: int) -> list[tuple[int, float, float]]:
    """For each sample: its index, the nats of its tokens, and 1 where its whole answer is the likeliest."""
    batch = rows(corpus, chosen, length)
    device = next(model.parameters()).device
    ids, labels = batch.ids.to(device), batch.labels.to(device)
    logits: Tensor = model(input_ids=ids).logits.float()
    lost = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    hit = (logits.argmax(-1) == labels) | (labels < 0)
    inside = torch.arange(length, device=device)[None] >= torch.as_tensor(corpus.answers[chosen] - 1)[:, None].to(
        device
    )
    exact = (hit | ~inside).all(1).float()
    return list(zip(chosen.tolist(), lost.sum(1).tolist(), exact.tolist(), strict=True))
