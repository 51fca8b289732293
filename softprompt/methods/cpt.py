"""CPT: the prompt begins as worked examples, stays near them, and learns to predict their labels too.

Blau, Kimhi, Belinkov, Bronstein, Baskin 2024, "Context-aware Prompt Tuning: Advancing In-Context Learning with
Adversarial Methods", arXiv:2410.17222, section 3: projected gradient descent on the embeddings of a context, by the
loss of the labels of the context and of the rows, where the examples at the end of the context count most.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt.core import IGNORE, Batch, Injection, Spec, Start
from softprompt.methods.base import Group, Method
from softprompt.methods.prompt_tuning import PromptTuning


class CPT(Method):
    """Initial vectors [P, H] plus a change [P, H], each row of which stays within a ball around zero.

    `types` has a letter for every vector: i input, f format, l label (never changed); empty: all are input. Radii are
    `epsilon` (input) and `format_epsilon`, in units of the length of a typical embedding, rms * sqrt(H). With
    `context`, labels are predicted from what is before them, as those of the rows are: every run of letters l is the
    label of one example, the last counts `decay` as much as that of a row, the one before it `decay` ** 2, and so on.

    Raises `ValueError` for other letters, another number of them, radii that are not above 0, a decay outside (0, 1],
    and labels to predict where the vectors are no tokens, or the model is not causal.
    """

    paper = 'Blau, Kimhi, Belinkov, Bronstein, Baskin 2024, "Context-aware Prompt Tuning", 2410.17222'
    summary = "the vectors of an initial text, moved by no more than a radius"
    default_init = "text"

    def __init__(
        self,
        spec: Spec,
        start: Start,
        *,
        types: str = "",
        epsilon: float = 0.1,
        format_epsilon: float = 0.1,
        context: bool = True,
        decay: float = 0.95,
    ) -> None:
        super().__init__(spec, start)
        self.types, self.epsilon, self.format_epsilon = types, epsilon, format_epsilon
        self.context, self.decay = context, decay
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
        self.teaches = context and "l" in letters
        if self.teaches:
            read = torch.tensor([letter != "l" for letter in letters])
            self.register_buffer("labels", tokens(spec, start, decay).masked_fill(read, IGNORE))  # [P]
            self.register_buffer("weights", weights(letters, decay))  # [P]

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        if not self.training:
            return Injection(embeds=self.vectors(self.within(self.change))[None])
        with torch.no_grad():  # the step of projected gradient descent that follows the optimiser's
            self.change.copy_(self.within(self.change))
        # Scores and dev losses are those of the rows: the context is for training alone.
        lesson = (self.get_buffer("labels"), self.get_buffer("weights")) if self.teaches else None
        return Injection(embeds=self.vectors(self.change)[None], lesson=lesson)

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


def weights(letters: str, decay: float) -> Tensor:
    """How much each label of a context counts, [P]: `decay` to the power of its example's place from the end."""
    found, after = [], [*letters[1:], ""]
    place = 0
    for letter, following in zip(reversed(letters), reversed(after), strict=True):
        place += letter == "l" and following != "l"  # the last token of a label, seen from the end
        found.append(decay**place if letter == "l" else 0.0)
    return torch.tensor(found[::-1])


def tokens(spec: Spec, start: Start, decay: float) -> Tensor:
    """The tokens [P] of a context; raises `ValueError` where its labels cannot be predicted."""
    if spec.kind != "causal":
        raise ValueError(f"labels of a context on a {spec.kind} model, which predicts none of them; set context=false")
    if start.ids is None:
        raise ValueError("labels of a context that are no tokens; set init.text, or context=false")
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay}; a number above 0, at most 1")
    return start.ids
