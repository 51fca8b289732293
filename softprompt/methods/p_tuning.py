"""P-tuning: prompt vectors anywhere in a template, made by a small encoder that is discarded after training.

Liu et al. 2021, "GPT Understands, Too", arXiv:2103.10385, section 3.2: h_i = MLP([LSTM forward; LSTM backward]).
"""

from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method, network_unit, start_at
from softprompt.methods.prompt_tuning import PromptTuning


class PTuning(Method):
    """Pseudo-token embeddings E [P, H] and an encoder h = encoder(E) [P, H]; stored as h alone."""

    paper = 'Liu, Zheng, Du, Ding, Qian, Yang, Tang 2021, "GPT Understands, Too", 2103.10385'
    summary = "P vectors anywhere in the template, through a BiLSTM or an MLP"

    def __init__(self, spec: Spec, start: Start, *, encoder: Literal["lstm", "mlp"] = "lstm") -> None:
        super().__init__(spec, start)
        self.encoder = encoder
        self.prompt = nn.Parameter(start.embeds.clone())  # E [P, H]
        # The authors' code has two shapes: H/2 per direction (LAMA) and H (few-shot). This is the first, rounded up.
        half = (spec.hidden + 1) // 2
        width = 2 * half if encoder == "lstm" else spec.hidden
        self.lstm = nn.LSTM(spec.hidden, half, num_layers=2, bidirectional=True) if encoder == "lstm" else None
        self.inner, self.outer = nn.Linear(width, spec.hidden), nn.Linear(spec.hidden, spec.hidden)
        start_at(self.outer, self.features().detach(), start.embeds)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.encode()[None])

    def features(self) -> Tensor:
        """What the last layer reads, [P, H]. The encoder sees E at unit scale: embeddings alone would not move it."""
        x = self.prompt / self.spec.rms
        x = x if self.lstm is None else self.lstm(x)[0]
        return nn.functional.relu(self.inner(x))

    def encode(self) -> Tensor:
        """The prompt vectors h [P, H] that the model reads."""
        encoded: Tensor = self.outer(self.features())
        return encoded

    @override
    def groups(self) -> list[Group]:
        network = [p for name, p in self.named_parameters() if name != "prompt" and not name.startswith("outer")]
        # The last layer writes embeddings, so its weights are smaller than torch's by the scale of the embeddings.
        unit = network_unit(self.spec.hidden)
        outer = Group(list(self.outer.parameters()), unit * self.spec.rms)
        return [Group([self.prompt], self.spec.rms), Group(network, unit), outer]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.encode().detach()))

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)
