"""Which words stand for the classes, read off the frozen model. Shin et al. 2020, arXiv:2010.15980, section 2.3."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from softprompt.core import Example, Injection
from softprompt.errors import RecipeError
from softprompt.heads import Verbalizer, columns
from softprompt.prompt import Prompt, by_length
from softprompt.search.candidates import Candidates

STEPS = 200  # of the classifier: it is convex and small
RATE = 0.1
DECAY = 1e-3


def label_words(candidates: Candidates, examples: Sequence[Example]) -> dict[str, str]:
    """A word of one token for every class; costs a forward for every example.

    A linear classifier is trained on the states at the answer; each word is the one that its class's weights score
    highest against the other classes, in log-probability, no word twice. Deviation: one word a class, not a set.
    Raises `RecipeError` for tasks without classes and for models without an output embedding.
    """
    prompt = candidates.worded(())
    readout = prompt.backbone.model.get_output_embeddings()
    if not isinstance(prompt.head, Verbalizer) or readout is None:
        found, do = f"a {prompt.head.name} head or a model without output embeddings", "give task.words"
        raise RecipeError("SP-E634", found, "classes that words stand for", do)
    states = answer_states(prompt, examples, readout)
    target = torch.tensor([prompt.class_of(example) for example in examples], device=states.device)
    weights = classifier(states, target, len(prompt.task.labels))
    words = whole_words(candidates)
    ids = torch.tensor([i for i, _ in words], device=states.device)
    table = readout.weight[ids].float()
    scores = (F.normalize(table, dim=1) @ weights.T).log_softmax(1)  # [W, C]
    chosen: dict[str, str] = {}
    for c, label in enumerate(prompt.task.labels):
        best = int(scores[:, c].argmax())
        chosen[label] = words[best][1]
        scores[best] = -torch.inf
    return chosen


def answer_states(prompt: Prompt, examples: Sequence[Example], readout: torch.nn.Module) -> Tensor:
    """What the output embedding reads [n, H] where each answer begins, standardised."""
    seen: list[Tensor] = []
    handle = readout.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    found: dict[int, Tensor] = {}
    rows = [prompt.row(example, labelled=False) for example in examples]
    try:
        for chosen in by_length(rows, 32):
            batch = prompt.batch([rows[i] for i in chosen])
            wanted, labels = columns(batch), (batch if batch.decoder is None else batch.decoder).labels
            assert labels is not None
            seen.clear()
            with torch.no_grad():
                prompt.backbone(batch, Injection(), columns=wanted)
            places = (labels != -100).int().argmax(1)
            state = seen[-1] if seen[-1].shape[1] == labels.shape[1] else None
            at = places if state is not None else torch.searchsorted(wanted, places)
            picked = seen[-1][torch.arange(len(chosen), device=at.device), at].float()
            found |= zip(chosen, picked, strict=True)
    finally:
        handle.remove()
    states = torch.stack([found[i] for i in range(len(rows))])
    return (states - states.mean(0)) / states.std(0).clamp(min=1e-6)


def classifier(states: Tensor, target: Tensor, classes: int) -> Tensor:
    """The weights [C, H] of a logistic regression on states [n, H]."""
    weights = torch.zeros(classes, states.shape[1], device=states.device, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(states @ weights.T, target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return weights.detach()


def whole_words(candidates: Candidates) -> list[tuple[int, str]]:
    """Tokens that are a whole word where the answer stands, with that word."""
    template, tokenizer = candidates.prompt.template, candidates.tokenizer
    found: list[tuple[int, str]] = []
    for token in candidates.allowed:
        word = candidates.text((token,)).strip()
        if word.isalnum() and template.continue_with(word) == [token]:
            found.append((token, word))
    if len(found) < len(candidates.prompt.task.labels):
        do = "give task.words"
        raise RecipeError("SP-E634", f"{len(found)} words of one token in {type(tokenizer).__name__}", "some", do)
    return found
