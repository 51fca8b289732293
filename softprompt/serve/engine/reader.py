"""The forward of a step: by the model itself or, where it is built like a Llama, by the weights of its layers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from softprompt.backbones.base import gap
from softprompt.errors import Unsupported
from softprompt.serve.engine.lean import Lean, lean
from softprompt.serve.engine.ragged import Ragged, Segment
from softprompt.serve.engine.table import Front

TOKENS = 24  # of the text that both ways have to agree on
EXACT = 1e-5  # of the scale of its states and logits, in float32


class Reader:
    """Runs steps of a backbone. Where the short way differs from the model on a fixed text, the model itself runs."""

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone
        self.lean: Lean | None = None
        found = lean(backbone)
        if found is not None and agrees(self, found):
            self.lean = found

    def run(self, embedded: Tensor, positions: Tensor, state: Ragged, places: Tensor | None = None) -> Tensor:
        """Last states [N, S] of a step of embeddings [1, N, H], or logits [J, V] at `places` [J]."""
        if self.lean is None:
            return self.plain(embedded, positions, state, places)
        return self.lean.run(embedded, positions + self.backbone.first, state, places)

    def plain(self, embedded: Tensor, positions: Tensor, state: Ragged, places: Tensor | None) -> Tensor:
        """The same by the model; raises `Unsupported` where a layer attends in a way of its own."""
        given: dict[str, Any] = {"packed": state, "use_cache": False, "inputs_embeds": embedded}
        # Four dimensions: transformers hands such a mask through as it is. No layer may have put anything into it.
        given["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embedded.device)
        given["position_ids"] = positions + self.backbone.first
        if places is None:
            made: Tensor = self.backbone.stack()(**given).last_hidden_state
        else:
            made = self.backbone.model(**given, logits_to_keep=places).logits
        state.check()
        return made[0]


@torch.inference_mode()
def agrees(reader: Reader, short: Lean) -> bool:
    """Whether states and logits of a fixed text come out as the model's: scales, caps and odd norms show here."""
    try:
        return all(gap(ours, right) <= EXACT for ours, right in both(reader, short))  # NaN is no agreement
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, Unsupported):
        return False  # other parts than it seemed: the model itself runs


def both(reader: Reader, short: Lean) -> Iterator[tuple[Tensor, Tensor]]:
    """States and logits of the fixed text, the short way and by the model."""
    backbone = reader.backbone
    rows = backbone.model.get_input_embeddings().weight.shape[0]
    ids = torch.linspace(0, rows - 1, TOKENS, device=backbone.device).long()[None]
    embedded, positions = backbone.tokens(ids), torch.arange(TOKENS, device=backbone.device)[None]
    # Half of it at the end of the context: some models scale what they ask by its position (Ministral 3).
    positions[:, TOKENS // 2 :] += max(0, (backbone.spec.positions or 0) - TOKENS)
    nothing = Front((None,) * len(backbone.attention_modules), 0)

    def step() -> Ragged:
        return Ragged(backbone.attention_modules, [Segment(0, TOKENS, nothing)])

    asked = torch.tensor([1, TOKENS - 1], device=backbone.device)
    for places in (None, asked):
        right = reader.plain(embedded, positions, step(), places)
        yield short.run(embedded, positions + backbone.first, step(), places), right
