"""CPT: the prompt begins as worked examples and stays near them.

Blau, Kimhi, Belinkov, Bronstein, Baskin 2024, "Context-aware Prompt Tuning: Advancing In-Context Learning with
Adversarial Methods", arXiv:2410.17222, section 3: projected gradient descent on the embeddings of a context.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method
from softprompt.methods.prompt_tuning import PromptTuning


class CPT(Method):
    """Initial vectors [P, H] plus a change [P, H], each row of which stays within a ball around zero.

    `types` has a letter for every vector: i input, f format, l label (never changed); empty: all are input. Radii are
    `epsilon` (input) and `format_epsilon`, in units of the length of a typical embedding, rms * sqrt(H). Raises
    `ValueError` for other letters, another number of them, and radii that are not above 0.
    """

    paper = 'Blau, Kimhi, Belinkov, Bronstein, Baskin 2024, "Context-aware Prompt Tuning", 2410.17222'
    summary = "the vectors of an initial text, moved by no more than a radius"
    default_init = "text"

    def __init__(
        self, spec: Spec, start: Start, *, types: str = "", epsilon: float = 0.1, format_epsilon: float = 0.1
    ) -> None:
        super().__init__(spec, start)
        self.types, self.epsilon, self.format_epsilon = types, epsilon, format_epsilon
        letters = types or "i" * len(start.embeds)
        sizes = {"i": epsilon, "f": format_epsilon, "l": 0.0}
        if set(letters) - set(sizes) or len(letters) != len(start.embeds) or min(epsilon, format_epsilon) <= 0:
            expected = f"{len(start.embeds)} letters of i, f and l, and radii above 0"
            raise ValueError(f"types={types!r}, epsilon={epsilon}, format_epsilon={format_epsilon}; {expected}")
        self.unit = max(epsilon, format_epsilon) * spec.rms
        self.register_buffer("anchor", start.embeds.clone())  # [P, H]
        self.register_buffer("moves", torch.tensor([[float(letter != "l")] for letter in letters]))  # [P, 1]
        radii = torch.tensor([[sizes[letter]] for letter in letters]) * spec.rms * spec.hidden**0.5
        self.register_buffer("radii", radii)  # [P, 1]
        self.change = nn.Parameter(torch.zeros_like(start.embeds))

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        if self.training:  # the step of projected gradient descent that follows the optimiser's
            with torch.no_grad():
                self.change.copy_(self.within(self.change))
        return Injection(embeds=self.vectors(self.change if self.training else self.within(self.change))[None])

    def vectors(self, change: Tensor) -> Tensor:
        """The prompt [P, H]; labels do not move, so they have no gradient either."""
        return self.get_buffer("anchor") + change * self.get_buffer("moves")

    @torch.no_grad()
    def within(self, change: Tensor) -> Tensor:
        """The nearest change [P, H] that is inside its ball."""
        size, radii = change.norm(dim=1, keepdim=True), self.get_buffer("radii")
        nearest: Tensor = change * (radii / size.clamp(min=1e-12)).clamp(max=1.0)
        return nearest

    @override
    def groups(self) -> list[Group]:
        return [Group([self.change], self.unit)]

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.vectors(self.within(self.change)).detach()))

    @property
    @override
    def length(self) -> int:
        return len(self.change)
