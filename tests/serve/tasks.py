"""Real prompts with random weights on a tiny model on disk, whose answers tell which task gave them."""

import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.core import Example, Start
from softprompt.heads import Classifier, LanguageModel, Tagger
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task
from softprompt.template import Template

P = 4
TEXTS = [" ".join(f"w{(7 * i + 3 * j) % 80 + 5}" for j in range(3 + i % 6)) for i in range(12)]


def backbone(folder):
    """The tiny Llama in a folder."""
    return tiny_runs.open_model(folder)


def prompt(frozen, name, kind="label", seed=0):
    """A prompt whose labels begin with its name; with another seed, another one of the same name."""
    torch.manual_seed(seed)
    method = PromptTuning(frozen.spec, Start(torch.randn(P, frozen.spec.hidden) * frozen.spec.rms))
    labels = tuple(f"{name}-{i}" for i in range(3))
    if kind == "label":
        head, task = Classifier(frozen.spec.states, 3), Task("classification", labels)
    elif kind == "tags":
        head, task = Tagger(frozen.spec.states, 3), Task("tagging", labels)
    else:
        head, task = LanguageModel(), Task("generation", new_tokens=8)
    template = Template("{soft}w9 {text}", frozen, length=P)
    return Prompt(frozen, method, head, template, task).eval()


def save(made, path, parents=()):
    """A prompt as a file."""
    report = {
        "metric": "accuracy",
        "scores": [{"name": "accuracy", "value": 0.5, "error": 0.1, "n": 20, "seeds": 1}],
        "baselines": {"majority": {"name": "accuracy", "value": 0.4, "error": 0.1, "n": 20, "seeds": 1}},
        "dev": [{"step": 1, "accuracy": 0.3}, {"step": 2, "accuracy": 0.5}],
        "parameters": 10,
    }
    Artifact.of(made, {}, report, parents).save(path)
    return path


def alone(made, text):
    """What a prompt answers by itself."""
    value = tuple(text.split()) if made.task.kind == "tagging" else text
    answer = made.predict([Example({"text": value})])[0].answer
    return " ".join(answer) if isinstance(answer, tuple) else answer
