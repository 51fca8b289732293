"""Bidirectional encoders, with or without a head that predicts words."""

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from softprompt.backbones.layers import acting, swapped
from softprompt.backbones.packing import OneStack
from softprompt.core import Batch, Injection, Kind, Output
from softprompt.errors import Unsupported


class Encoder(OneStack):
    """A bidirectional encoder: BERT, RoBERTa, ELECTRA, DistilBERT; with or without its masked-language head."""

    kind: Kind = "encoder"
    causal = False
    speaks = False  # whether its head says the same of states one by one; found out at load

    def forward(self, batch: Batch, injection: Injection, *, columns: Tensor | None = None) -> Output:
        """As `Backbone.forward`; logits need a checkpoint with a masked-language head."""
        self.accept(batch, injection)
        prefixes = self.prefixes(injection)
        if columns is None:
            output = Output(hidden=self.run(batch, injection, prefixes))
        elif self.model is self.stack():
            raise Unsupported(
                "SP-E414",
                f"no masked-language head in {self.name or 'this encoder'}",
                "a backbone that predicts words",
                "train a classifier head instead (`--set task.head=classifier`)",
            )
        elif self.speaks:
            output = Output(logits=self.spoken(self.run(batch, injection, prefixes)[:, columns]), columns=columns)
        else:
            logits = self.reader(batch.below)(**self.arguments(batch, injection, prefixes)).logits
            output = Output(logits=logits[:, columns], columns=columns)
        if prefixes is not None:
            prefixes.check()
        return output

    @override
    def words(self, model: Any, given: dict[str, Any], places: Tensor) -> Tensor:
        states = model.base_model(**given).last_hidden_state.index_select(1, places)
        return self.spoken(states).transpose(0, 1)

    def spoken(self, states: Tensor) -> Tensor:
        """What the model's own head says to states [B, J, H] of its last layer: logits [B, J, V]."""
        answer = BaseModelOutput(last_hidden_state=states)
        stack = acting(self.model.base_model, lambda *_, **__: answer)
        logits: Tensor = swapped(self.model, (), {self.model.base_model_prefix: stack})(inputs_embeds=states).logits
        return logits
