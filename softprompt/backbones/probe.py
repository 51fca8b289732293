"""What a backbone can really do, found out once at load: the library's own support flags are unreliable.

Silence is the bug class of this field, so nothing is believed. The seam must reproduce the bare model; padding on the
left must not change a row; and a text whose first part is given as recorded keys and values must yield the states of
the whole text. What fails is refused with its reason, before anyone can train on it.
"""

import torch
from torch import Tensor

from softprompt.backbones.base import Backbone, close, gap
from softprompt.backbones.encoder import Encoder
from softprompt.backbones.packing import OneStack, trimmable
from softprompt.backbones.seq2seq import relative_bias
from softprompt.backbones.text import Text, tokens_only
from softprompt.core import Injection, Prefix
from softprompt.errors import BackboneError

LENGTH, FRONT = 6, 3  # tokens of the probe text, and how many of them become a prefix


def probe(backbone: Backbone) -> None:
    """Fill `backbone.unsupported`; raise `BackboneError` where even plain text comes out wrong."""
    if not isinstance(backbone, Text):
        return
    ids = probe_ids(backbone)
    with torch.no_grad():
        whole = backbone.run(tokens_only(ids), Injection(), None)
        bare = backbone.stack()(input_ids=ids).last_hidden_state
        family = backbone.model.config.model_type
        if not close(whole, bare):
            raise BackboneError(
                "SP-E402",
                f"states that differ by {gap(whole, bare):.1e} from the model's own for {family}",
                "the same states through the seam as without it",
                "use a family listed in docs/backbones.md and report this one",
            )
        backbone.pads_left = pads_left(backbone, ids, whole)
        # BART's kin count positions inside the model and cannot be told of a prefix, so there it takes no positions and
        # cannot stand in for text; that every layer reads it is checked at each use.
        countable = backbone.takes_positions or relative_bias(backbone.attention_modules) is not None
        if countable and "prefix" not in backbone.unsupported and not replays(backbone, ids, whole):
            backbone.refuse(("prefix", "prefix_mask"), "a prefix of real keys and values does not act like the text")
        if isinstance(backbone, Encoder) and backbone.model is not backbone.stack():
            backbone.speaks = close(backbone.spoken(whole), backbone.model(input_ids=ids).logits)
        if isinstance(backbone, OneStack):
            backbone.trims = backbone.model is not backbone.stack() and trimmable(backbone, ids)


def probe_ids(backbone: Backbone) -> Tensor:
    """Six ordinary token ids [1, 6], spread over the vocabulary, none of them special."""
    special = {0, 1, 2, 3} if backbone.tokenizer is None else set(backbone.tokenizer.all_special_ids)
    rows = backbone.model.get_input_embeddings().weight.shape[0]
    plain = [i for i in range(rows // 8, rows) if i not in special]
    return torch.tensor([plain[:: max(1, len(plain) // LENGTH)][:LENGTH]], device=backbone.device)


def pads_left(backbone: Text, ids: Tensor, whole: Tensor) -> bool:
    """A row padded on the left has the states of the row alone."""
    pad = ids[:, :1].expand(-1, 2)
    mask = torch.ones(1, ids.shape[1] + 2, dtype=torch.bool, device=ids.device)
    mask[:, :2] = False
    return close(backbone.run(tokens_only(torch.cat([pad, ids], 1), mask), Injection(), None)[:, 2:], whole)


def replays(backbone: Text, ids: Tensor, whole: Tensor) -> bool:
    """The second part of a text, after the recorded keys and values of the first, has the states of the whole text."""
    recorded = backbone.record(tokens_only(ids)).prefix
    front: Prefix = tuple((pair[0][:, :, :FRONT], pair[1][:, :, :FRONT]) for pair in recorded if pair is not None)
    injection = Injection(prefix=front)
    states = backbone.run(tokens_only(ids[:, FRONT:]), injection, backbone.prefixes(injection))
    return close(states, whole[:, FRONT:])
