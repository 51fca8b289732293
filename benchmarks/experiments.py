"""The experiments of docs/lab: what is claimed, the commands that test it, and the contrast that decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Side = tuple[int, str, str]  # which command, task, method; every such side is at all training examples


@dataclass(frozen=True)
class Experiment:
    """A claim, the commands that test it, and the contrast that decides: the sum of `plus` less that of `minus`."""

    claim: str
    commands: tuple[str, ...]  # each a comparison, in a folder of its own; or what has to be trained before
    plus: tuple[Side, ...]
    minus: tuple[Side, ...]
    kind: str = "mean"  # or "steady" (spread of minus over that of plus), "calibration", "gap" (of minus over plus)


def sides(task: str, methods: Sequence[str], command: int = 0) -> tuple[Side, ...]:
    return tuple((command, task, method) for method in methods)


def gap_run(model: str, seed: int) -> Path:
    """The folder of a prompt with full fine-tuning beside it."""
    return Path(f"runs/lab/gap-{model.rpartition('/')[2]}-{seed}")


GAP_SEEDS = range(5)
MODELS = ("softprompt/tiny", "softprompt/nano")
DRAWN = "--over lr=0.03..0.5"  # lower ones cannot move a prompt in so few steps
COMMON = f"--seeds 3 --trials 2 {DRAWN} --set train.threads=1"
RATES = ("0.05", "0.1", "0.5")  # at 0.02 a prefix cannot move in so few steps, and is refused
PLAIN = [f"prompt_tuning+optim.lr={rate}" for rate in RATES]
ENCODERS = {"p_tuning": "p_tuning", "residual": "residual", "prefix with an MLP": "prefix+method.options.bottleneck=64"}
ENCODED = [f"{method}+optim.lr={rate}" for method in ENCODERS.values() for rate in RATES]
SOURCES = ("source", "other-source")
FROM = [f"prompt_tuning+init.source=runs/lab/{name}/prompt.safetensors" for name in SOURCES]

EXPERIMENTS = {
    "start": Experiment(
        "Prompts that begin at words of the vocabulary are better than ones that begin at random (Lester et al. 2021, "
        "section 3.2)",
        (
            "compare docs/lab/start.yaml --methods prompt_tuning+init.kind=vocabulary,prompt_tuning+init.kind=random,"
            f"prompt_tuning+init.kind=labels --seeds 5 --trials 2 {DRAWN}",
        ),
        sides("start", ["prompt_tuning+init.kind=vocabulary"]),
        sides("start", ["prompt_tuning+init.kind=random"]),
    ),
    "depth": Experiment(
        "On sequence labelling, vectors in every layer are better than as many in the text alone (Liu et al. 2022, "
        "P-Tuning v2, section 4)",
        (
            "compare docs/lab/depth.yaml --methods prompt_tuning,prefix,prefix+method.options.layers=0-1,"
            f"prefix+method.options.layers=2-3,prefix+method.length=5,prefix+method.length=50 {COMMON}",
        ),
        sides("depth", ["prefix"]),
        sides("depth", ["prompt_tuning"]),
    ),
    "steady": Experiment(
        "What makes the vectors by a network (P-tuning, residual, prefix with an MLP) depends less on rate and seed "
        "than the vectors themselves (Li and Liang 2021; Razdaibiedina et al. 2023)",
        (f"compare docs/lab/steady.yaml --methods {','.join(PLAIN + ENCODED)} --seeds 3 --trials 1",),
        sides("steady", ENCODED),
        sides("steady", PLAIN),
        "steady",
    ),
    "twin": Experiment(
        "A prompt calls on what the weights have learnt: on a twin of random weights it is worth less",
        (
            f"compare docs/lab/twin.yaml --methods prompt_tuning,prefix {COMMON}",
            f"compare docs/lab/twin.yaml --methods prompt_tuning,prefix {COMMON} --model runs/lab/random",
        ),
        sides("twin", ["prompt_tuning"]),
        sides("twin", ["prompt_tuning"], 1),
    ),
    "shift": Experiment(
        "Fewer trained numbers lose less where the domain shifts: prompt tuning less than prefix (after Lester et al. "
        "2021, section 5, who compare with full fine-tuning)",
        (f"compare docs/lab/home.yaml docs/lab/away.yaml --methods prompt_tuning,prefix {COMMON}",),
        (*sides("away", ["prompt_tuning"]), *sides("home", ["prefix"])),
        (*sides("home", ["prompt_tuning"]), *sides("away", ["prefix"])),
    ),
    "calibration": Experiment(
        "Prompt tuning answers with better calibrated probabilities than prefix tuning (smaller expected calibration "
        "error, Guo et al. 2017)",
        (f"compare docs/lab/home.yaml --methods prompt_tuning,prefix {COMMON}",),
        sides("home", ["prompt_tuning"]),
        sides("home", ["prefix"]),
        "calibration",
    ),
    "transfer": Experiment(
        "A prompt that begins at that of a similar task is better than one from scratch (Vu et al. 2022, SPoT)",
        (
            f"compare docs/lab/transfer.yaml --methods prompt_tuning,{','.join(FROM)} {COMMON}",
            *(f"train docs/lab/{name}.yaml --run runs/lab/{name}" for name in SOURCES),
        ),
        sides("transfer", FROM[:1]),
        sides("transfer", ["prompt_tuning"]),
    ),
    "similar": Experiment(
        "A similar source is better than a dissimilar one (Vu et al. 2022; Su et al. 2022)",
        (f"compare docs/lab/transfer.yaml --methods {','.join(FROM)} {COMMON}",),
        sides("transfer", FROM[:1]),
        sides("transfer", FROM[1:]),
    ),
    "scale": Experiment(
        "The larger backbone is better with the same recipe (Lester et al. 2021, figure 1)",
        (
            f"compare docs/lab/scale.yaml --methods prompt_tuning,prefix {COMMON}",
            f"compare docs/lab/scale.yaml --methods prompt_tuning,prefix {COMMON} --model softprompt/nano",
        ),
        sides("scale", ["prompt_tuning"]),
        sides("scale", ["prompt_tuning"], 1),
    ),
    "gap": Experiment(
        "The larger the backbone, the less a prompt is behind full fine-tuning on the same plan (Lester et al. 2021, "
        "figure 1); default rates of the prompt, dev chooses that of fine-tuning out of three",
        tuple(
            f"train docs/lab/scale.yaml --model {model} --compare full --seed {seed} --run {gap_run(model, seed)}"
            for model in MODELS
            for seed in GAP_SEEDS
        ),
        sides("gap", MODELS[:1]),
        sides("gap", MODELS[1:]),
        "gap",
    ),
}
