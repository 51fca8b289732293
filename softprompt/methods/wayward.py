"""Wayward prompts: prompt tuning that is held near the embeddings of a text, whatever that text says.

Khashabi, Lyu, Min, Qin, Richardson, Welleck, Hajishirzi, Khot, Sabharwal, Singh, Choi 2022, "Prompt Waywardness: The
Curious Case of Discretized Interpretation of Continuous Prompts", arXiv:2112.08348: loss + gamma ||P - E(text)||^2 / P.
"""

from torch import Tensor
from typing_extensions import override

from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods.base import Method
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.methods.smop import reads_text


class Wayward(PromptTuning):
    """P vectors [P, H] that begin at a text and are pulled back to it; stored as a plain prompt.

    The text is the start of the run (`init.text`). `gamma` is what it costs, in units of the mean loss, when every
    coordinate is one embedding rms away from it. Raises `ValueError` where it is negative, `Unsupported` for images.
    """

    paper = 'Khashabi, Lyu, Min, Qin, Richardson, Welleck et al. 2022, "Prompt Waywardness", 2112.08348'
    summary = "P vectors among the input embeddings, held near those of a given text"
    default_init = "text"

    def __init__(self, spec: Spec, start: Start, *, gamma: float = 0.1) -> None:
        super().__init__(spec, start)
        reads_text(spec)
        if not gamma >= 0:
            raise ValueError(f"gamma={gamma}, which must not be negative")
        self.gamma = gamma
        self.register_buffer("target", start.embeds.clone())  # saved with the state of a run

    @override
    def forward(self, batch: Batch, text: Tensor) -> Injection:
        # Scores and dev losses are those of the task: the penalty is for training alone.
        return Injection(embeds=self.prompt[None], penalty=self.penalty() if self.training else None)

    def penalty(self) -> Tensor:
        """What being away from the text costs: gamma times the mean squared distance in embedding rms; [].

        Deviation: the paper sums over the H coordinates as they are, so that one gamma (0.01 in
        google-research/prompt-tuning) means something else for every backbone; ours is the paper's times H rms^2.
        """
        away = (self.prompt - self.get_buffer("target")) / self.spec.rms
        return self.gamma * away.square().mean()

    @override
    def fold(self) -> Method:
        return PromptTuning(self.spec, Start(self.prompt.detach()))
