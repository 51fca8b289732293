"""What an encoder says sentences mean, for the small model to say too: texts with the vectors of all-MiniLM-L6-v2.

A causal model of a few million parameters learns from next tokens what words are followed by, and little of what they
mean. The encoder was trained on a billion pairs of sentences and is under Apache-2.0, so what it says of our own texts
may be learned and passed on. The state of a text's last token, and the mean of its states, are each taught to name
the vector (a linear map, thrown away afterwards); half of the texts are followed by words that ask for an answer, so
that the state from which an answer is written knows the text.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from scripts.pretrain.skills import skills
from scripts.pretrain.sources import documents
from scripts.pretrain.wordnet import WordNet
from softprompt.backbones.embedded import MINILM, locate

WIDTH = 384  # of the encoder's vectors
LENGTHS = (16, 32, 64)  # tokens with BOS; longer texts are left out
ASKED = ("\nlabel:", "\nanswer:", "\n", " It is", "\nclass:", "\ntype:", "\nThis is", ":")
WORDS, QUESTIONS = 30_000, 60_000  # words of WordNet, questions of the skills
_END = re.compile(r"(?<=[.!?;])\s+|\n+")


@dataclass(frozen=True)
class Lessons:
    """Texts [N] as one flat array of tokens, with the encoder's vectors [N, 384], centred, of length 1."""

    ids: NDArray[np.uint16]
    starts: NDArray[np.int64]  # [N + 1]
    vectors: NDArray[np.float16]


def texts(data: Path, extra: Path, seed: int) -> list[str]:
    """Sentences of the running text, words, and questions, each once."""
    rng = random.Random(seed)
    found = {part.strip() for document in documents(data, extra) for part in _END.split(document.text)}
    words = sorted({word for synset in WordNet(extra / "wordnet").synsets.values() for word in synset.words})
    asked = sorted({skill.prompt.strip() for skill in skills(data, extra, seed) if len(skill.prompt) < 200})
    found |= set(rng.sample(words, min(WORDS, len(words)))) | set(rng.sample(asked, min(QUESTIONS, len(asked))))
    return sorted(text for text in found if 3 <= len(text) <= 300)


def teach(place: Path, tokenizer: PreTrainedTokenizerFast, data: Path, extra: Path, seed: int) -> Lessons:
    """The lessons, made once and kept in `place`; finished ones are read back."""
    path = place / "lessons.npz"
    if not path.exists():
        rng = random.Random(seed)
        plain = texts(data, extra, seed)
        followed = [text + rng.choice(ASKED) if rng.random() < 0.5 else text for text in plain]
        ids = tokenizer(followed, add_special_tokens=False, verbose=False)["input_ids"]
        short = [i for i, one in enumerate(ids) if len(one) < max(LENGTHS)]
        rows = [[tokenizer.bos_token_id, *ids[i]] for i in short]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        flat = np.concatenate([np.asarray(row, dtype=np.uint16) for row in rows])
        with path.with_suffix(".new").open("wb") as file:
            np.savez(file, ids=flat, starts=starts, vectors=vectors([plain[i] for i in short]))
        path.with_suffix(".new").replace(path)
    with np.load(path) as found:
        return Lessons(found["ids"], found["starts"], found["vectors"])


@torch.inference_mode()
def vectors(plain: list[str]) -> NDArray[np.float16]:
    """The encoder's vectors [N, 384]: mean of its last states, centred over all texts, of length 1."""
    tokenizer: Any = AutoTokenizer.from_pretrained(locate(MINILM))
    model = AutoModel.from_pretrained(locate(MINILM)).eval()
    order = sorted(range(len(plain)), key=lambda i: len(plain[i]))
    made = torch.empty(len(plain), WIDTH)
    for at in range(0, len(order), 128):
        chosen = order[at : at + 128]
        batch = tokenizer([plain[i] for i in chosen], padding=True, truncation=True, max_length=96, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model(**batch).last_hidden_state.float()
        real = batch["attention_mask"][..., None].float()
        made[chosen] = F.normalize((states * real).sum(1) / real.sum(1), dim=-1)
        if at % 12800 == 0:
            print(f"texts read by the encoder: {at} of {len(plain)}", flush=True)
    return F.normalize(made - made.mean(0), dim=-1).half().numpy()


class Tongue(nn.Module):
    """Two linear maps from states to the encoder's vectors; used in training only."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.last, self.mean = nn.Linear(hidden, WIDTH), nn.Linear(hidden, WIDTH)

    def forward(self, states: Tensor, ids: Tensor, ends: Tensor, wanted: Tensor) -> Tensor:
        """One minus the cosine of named and wanted vectors, mean of both ways []; states [B, T, H], ends [B]."""
        inside = (torch.arange(ids.shape[1], device=ids.device)[None] <= ends[:, None])[..., None]
        mean = (states * inside).sum(1) / (ends[:, None] + 1)
        last = states[torch.arange(len(ends), device=ends.device), ends]
        named = torch.stack([self.last(last), self.mean(mean)]).float()
        return 1 - F.cosine_similarity(named, wanted[None], dim=-1).mean()


def lessons(taught: Lessons, tokens: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches (ids [B, T], place of the last token [B], vectors [B, 384]) from step `first` on, for ever."""
    lengths = np.diff(taught.starts)
    place = np.searchsorted(LENGTHS, lengths)
    members = [np.flatnonzero(place == i) for i in range(len(LENGTHS))]
    share = np.asarray([len(m) * length for m, length in zip(members, LENGTHS, strict=True)], dtype=float)
    number = first
    while True:
        rng = np.random.default_rng([seed, 1, number])
        at = rng.choice(len(LENGTHS), p=share / share.sum())
        length = LENGTHS[at]
        chosen = rng.choice(members[at], tokens // length)
        ids = np.zeros((len(chosen), length), dtype=np.int64)
        for i, sample in enumerate(chosen):
            ids[i, : lengths[sample]] = taught.ids[taught.starts[sample] : taught.starts[sample + 1]]
        wanted = taught.vectors[chosen].astype(np.float32)
        yield torch.from_numpy(ids), torch.from_numpy(lengths[chosen] - 1), torch.from_numpy(wanted)
        number += 1
