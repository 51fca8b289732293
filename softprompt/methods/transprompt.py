"""TransPrompt: prompt vectors from two encoders, a universal one that similar tasks share and one of the task's own.

Wang, Wang, Qiu, Huang, Gao 2021, "TransPrompt: Towards an Automatic Transferable Prompting Framework for Few-shot Text
Classification", EMNLP 2021: P_m = MLP((E*(e) + E_m(e)) / 2). Deviation: the paper tunes the backbone too; here it is
frozen, or learns a LoRA (`lora.rank`). For one target this file is all there is; `siblings` makes methods that share e,
E* and the MLP.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method, network_unit, start_at
from softprompt.methods.prompt_tuning import PromptTuning


class TransPrompt(Method):
    """Pseudo tokens e [P, H], BiLSTMs E* and E_m, and an MLP; stored as the vectors [P, H] that they make.

    `share` is how much of the mean is E*: half in the paper, 0.2 in the authors' code. Raises `ValueError` for a share
    outside 0 to 1.
    """

    paper = 'Wang, Wang, Qiu, Huang, Gao 2021, "TransPrompt: ... Transferable Prompting Framework", EMNLP 2021'
    summary = "P vectors among the input embeddings, from a universal encoder and one of the task's own"

    def __init__(self, spec: Spec, start: Start, *, share: float = 0.5) -> None:
        super().__init__(spec, start)
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}, which must be from 0 to 1")
        self.share = share
        self.prompt = nn.Parameter(start.embeds.clone())  # e [P, H]
        half = (spec.hidden + 1) // 2
        self.universal = nn.LSTM(spec.hidden, half, num_layers=2, bidirectional=True)  # E*
        self.own = nn.LSTM(spec.hidden, half, num_layers=2, bidirectional=True)  # E_m
        self.inner, self.outer = nn.Linear(2 * half, spec.hidden), nn.Linear(spec.hidden, spec.hidden)
        start_at(self.outer, self.features(share).detach(), start.embeds)

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        return Injection(embeds=self.encode(self.share)[None])

    def features(self, share: float) -> Tensor:
        """What the last layer reads, [P, H], with so much of E*; encoders see e at unit scale, as in `p_tuning`."""
        x = self.prompt / self.spec.rms
        mixed = share * self.universal(x)[0] + (1 - share) * self.own(x)[0]
        return nn.functional.relu(self.inner(mixed))

    def encode(self, share: float) -> Tensor:
        """The prompt vectors [P, H] with so much of E*; 1 is the prompt of a task that was never seen."""
        encoded: Tensor = self.outer(self.features(share))
        return encoded

    @override
    def groups(self) -> list[Group]:
        # The last layer writes embeddings, so its weights are smaller than torch's by the scale of the embeddings.
        unit = network_unit(self.spec.hidden)
        networks = [*self.universal.parameters(), *self.inner.parameters()]
        outer = Group(list(self.outer.parameters()), unit * self.spec.rms)
        return [
            Group([self.prompt], self.spec.rms),
            Group(networks, unit),
            outer,
            Group([*self.own.parameters()], unit),
        ]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.encode(self.share).detach()))

    def siblings(self, count: int) -> "list[TransPrompt]":
        """`count` methods, the first of them this one; e, E* and the MLP of all are the same, whose gradients add up.

        All E_m are as this one's, so that every task begins at the start. An optimiser must be given what is shared
        once: the last of `groups()` alone is the task's own.
        """
        made = [self, *(type(self)(self.spec, Start(self.prompt.detach()), share=self.share) for _ in range(count - 1))]
        for method in made[1:]:
            method.own.load_state_dict(self.own.state_dict())
            method.prompt, method.universal = self.prompt, self.universal
            method.inner, method.outer = self.inner, self.outer
        return made

    def unseen(self) -> Method:
        """The prompt of a task that took no part, as plain vectors: MLP(E*(e)), without an encoder of its own."""
        with torch.no_grad():
            return PromptTuning(self.spec, Start(self.encode(1.0).clone()))

    @property
    @override
    def length(self) -> int:
        return len(self.prompt)
