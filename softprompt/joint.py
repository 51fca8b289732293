"""A LoRA of the backbone that is trained together with a prompt, and leaves the folder of an adapter that PEFT reads.

PEFT refuses to combine the two. Here a method still never touches a model: the LoRA is PEFT's own, put into a copy of
the model's modules that shares every weight, so the frozen backbone stays as it is. After training the LoRA is merged
into another copy, as `backbone.adapter` merges any, and the prompt is scored on that one and bound to it. (LoRA: Hu et
al. 2021, arXiv:2106.09685.)
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from softprompt import canary, untrained
from softprompt.adapter import CONFIG, WEIGHTS
from softprompt.backbones import Backbone, wrap
from softprompt.backbones.load import changed
from softprompt.backbones.lora import merge
from softprompt.container import write_foreign
from softprompt.errors import RecipeError
from softprompt.evaluate import Report, evaluate, scores
from softprompt.files import write_atomically
from softprompt.methods import Group
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import ADAPTER
from softprompt.sections import LoraSection
from softprompt.sizes import Stack

Listener = Callable[[dict[str, Any]], None]
ROWS = 2  # training rows that show which layers the loss reaches
LASTING = "a LoRA is trained in the layers below, so their states change"


class Joint(Prompt):
    """A prompt over a backbone with a LoRA, both trained; B is zero at first, so it begins as the prompt alone."""

    def __init__(self, prompt: Prompt, backbone: Backbone, weights: list[nn.Parameter], unit: float) -> None:
        super().__init__(backbone, prompt.method, prompt.head, prompt.template, prompt.task)
        self.__dict__["prompt"] = prompt  # no submodule: its method and head are those of this one
        self.lora = nn.ParameterList(weights)
        self.unit = unit  # the LoRA's rate in rates of the prompt

    @property
    @override
    def alone(self) -> Prompt:
        prompt: Prompt = self.__dict__["prompt"]
        return prompt

    @override
    def groups(self) -> list[Group]:
        return [*super().groups(), Group(list(self.lora), self.unit)]


def build(given: Plan, backbone: Backbone, listen: Listener = lambda event: None) -> Prompt:
    """The untrained prompt of a plan, with the LoRA that the recipe may ask for; `backbone` is left as it is.

    Raises `RecipeError` where the rest of the recipe does not go with a LoRA, where the package peft is absent, and for
    targets that are no linear layers of this model, or that no loss reaches.
    """
    if not given.recipe.lora.rank:
        return untrained.build(given, backbone)
    check(given)
    return graft(untrained.build(alone(given), backbone), given, listen)


def graft(prompt: Prompt, given: Plan, listen: Listener = lambda event: None) -> Joint:
    """A prompt with the LoRA of a plan beside it; raises `RecipeError` as `build` does."""
    settings, rate = given.recipe.lora, given.recipe.optim.lr
    own = twin(prompt.backbone)
    if own.fingerprint != prompt.backbone.fingerprint:  # which says what was done to it after loading
        found, do = f"a backbone with an adapter or rounded weights beside lora.rank={settings.rank}", "load it without"
        raise RecipeError("SP-E831", found, "a backbone as its files have it", do)
    torch.manual_seed(given.recipe.train.seed)
    made = add_lora(own, settings)
    weights = reached(Prompt(own, prompt.method, prompt.head, prompt.template, prompt.task), made, given)
    numbers, unread = sum(weight.numel() for weight in weights), (len(made) - len(weights)) // 2
    told = f"; the loss does not depend on {unread} others" if unread else ""
    text = f"a LoRA of {numbers:,} numbers in {len(weights) // 2} layers is trained beside the prompt{told}"
    listen({"event": "note", "text": text})
    assert rate != "auto"
    return Joint(prompt, own, weights, settings.lr / rate)


def alone(given: Plan) -> Plan:
    """The plan without its LoRA."""
    return replace(given, recipe=given.recipe.model_copy(update={"lora": LoraSection()}))


def check(given: Plan) -> None:
    """Raise `RecipeError` for settings that a LoRA in training does not go with, before anything is built."""
    recipe = given.recipe
    if find_spec("peft") is None:
        raise RecipeError("SP-E266", "no package peft", "the package that LoRA comes from", "pip install peft")
    kept = recipe.train.cache in ("memory", "file")
    for clash, key, expected in (
        (recipe.backbone.quantize != "none", "backbone.quantize", "whole weights, into which it can be merged"),
        (recipe.backbone.adapter is not None, "backbone.adapter", "one adapter under a prompt"),
        (kept, "train.cache", "states that are computed anew, because the LoRA changes them"),
    ):
        if clash:
            raise RecipeError("SP-E831", f"{key} beside lora.rank={recipe.lora.rank}", expected, f"leave {key} out")


def twin(backbone: Backbone) -> Backbone:
    """The backbone in modules of its own, over the same weights: what is put into one is not in the other."""
    shared = (*backbone.model.parameters(), *backbone.model.buffers())
    model = copy.deepcopy(backbone.model, {id(tensor): tensor for tensor in shared})
    made = wrap(model, backbone.tokenizer, backbone.name)
    made.__dict__["undivided"] = lambda below, injection: LASTING
    return made


def add_lora(backbone: Backbone, settings: LoraSection) -> list[nn.Parameter]:
    """LoRA in linear layers, by PEFT's own code and without dropout; its matrices in float32, of which B is zero.

    Raises `RecipeError` SP-E832 for targets that name anything else.
    """
    from peft import LoraConfig, inject_adapter_in_model

    model, targets = backbone.model, list(settings.targets)
    alpha: Any = settings.alpha or 2 * settings.rank  # PEFT takes other than whole numbers too
    try:
        inject_adapter_in_model(
            LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=targets or "all-linear"), model
        )
    except ValueError as error:
        raise off_target(f"{error}".splitlines()[0][:200]) from error
    layers = adapted(backbone)
    absent = [name for name in targets if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
    if absent:
        raise off_target(f"no layer {absent[0]!r}")
    words = model.get_input_embeddings()
    for name, layer in layers.items():
        weight = getattr(layer.base_layer, "weight", None)
        if weight is None or weight.dim() != 2 or isinstance(layer.base_layer, nn.Embedding):
            raise off_target(f"{name}, a {type(layer.base_layer).__name__}")
        if weight is getattr(words, "weight", None):
            raise off_target(f"{name}, whose weights are the word embeddings too")
    model.to(backbone.device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    return weights


def adapted(backbone: Backbone) -> dict[str, Any]:
    """The layers that have a LoRA, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in backbone.model.named_modules() if isinstance(module, LoraLayer)}


def off_target(found: str) -> RecipeError:
    """The error for layers that cannot have a LoRA here."""
    do = "leave lora.targets out: every linear layer but the output"
    return RecipeError("SP-E832", found, "names of linear layers of this model, such as q_proj", do)


def reached(prompt: Prompt, weights: list[nn.Parameter], given: Plan) -> list[nn.Parameter]:
    """The matrices of a LoRA that the loss depends on; the others are not trained and not counted.

    A classifier does not run what a masked language model speaks with, and nobody reads a pooler.
    """
    with torch.random.fork_rng(devices=[]):
        loss = prompt.loss(prompt.batch([prompt.row(example) for example in given.train[:ROWS]]))
    grads = torch.autograd.grad(loss, weights, allow_unused=True) if loss.requires_grad else [None] * len(weights)
    for weight, grad in zip(weights, grads, strict=True):
        weight.requires_grad_(grad is not None)
    kept = [weight for weight in weights if weight.requires_grad]
    if not kept:
        raise off_target("layers that the loss does not depend on")
    return kept


def save_lora(model: Any, folder: Path) -> None:
    """The LoRA of a model as the two files of PEFT, which `backbone.adapter` and PEFT itself can load.

    The same LoRA gives the same bytes: PEFT would list its layers in the order of a set.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{name}": weight for name, weight in get_peft_model_state_dict(model).items()}
    write_foreign(folder / WEIGHTS, tensors)
    places = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    config = model.peft_config["default"].to_dict() | {"target_modules": sorted(places), "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    write_atomically(folder / CONFIG, json.dumps(plain, indent=2, sort_keys=True).encode())


def finish(
    joint: Joint, given: Plan, run: Path, untrained: dict[str, Tensor], history: list[dict[str, Any]], listen: Listener
) -> tuple[Prompt, Report]:
    """Write the LoRA into `run`; the prompt on the backbone that it is merged into, and the numbers of both there.

    What they have to beat was not adapted: the bare model, the untrained prompt, and this prompt without its LoRA.
    """
    merged = settled(joint, run / ADAPTER, listen)
    before = {name: value for name, value in untrained.items() if not name.startswith("lora.")}
    without = evaluate(joint.alone, given, untrained=before, history=history, listen=listen)
    found = scores(merged, given.test, without.metric, merged.predict(given.test))
    listen({"event": "baseline", "name": "prompt without its LoRA", "score": without.scores[0]})
    beside = without.baselines | {"prompt without its LoRA": without.scores[0]}
    count = sum(weight.numel() for weight in joint.parameters())
    return merged, replace(without, scores=found, baselines=beside, parameters=count)


def settled(joint: Joint, folder: Path, listen: Listener) -> Prompt:
    """The prompt on a copy of its backbone with the LoRA merged in, as `load_backbone(..., adapter=folder)` makes it.

    Merging rounds to the type of the weights; a note says so where that changes answers.
    """
    save_lora(joint.backbone.model, folder)
    bare = joint.alone.backbone
    model, digest = merge(copy.deepcopy(bare.model).cpu(), folder)  # on the CPU, where an adapter is merged at load
    backbone = changed(wrap(model.to(bare.device), bare.tokenizer, bare.name), [digest])
    merged = Prompt(backbone, joint.method, joint.head, joint.template, joint.task).eval()
    gap = (canary.outputs(joint) - canary.outputs(merged)).abs().max().item()
    if not gap <= canary.TOLERANCE.get(backbone.dtype, canary.COARSE):
        text = f"merging the LoRA into {backbone.dtype} weights rounds: log-probabilities move by up to {gap:.2g}"
        listen({"event": "note", "text": text})
    return merged


def with_lora(stack: Stack, part: nn.Module) -> Stack:
    """A stack with what is trained in its layers: weights, and what a token keeps for their gradients.

    That is the input of every such layer, once where queries, keys and values or two gates share it, and its r numbers.
    """
    inputs: dict[tuple[str, int, bool], int] = {}
    numbers = inner = 0
    for name, module in part.named_modules():
        for matrix in (getattr(module, "lora_A", None) or {}).values():
            if matrix.weight.requires_grad:
                parent, _, last = name.rpartition(".")
                rank, wide = matrix.weight.shape
                inputs[parent, wide, last.startswith("o") or last == "c_proj"] = wide
                numbers, inner = numbers + rank * (wide + module.out_features), inner + rank
    return replace(stack, linear=stack.linear + numbers, inner=stack.inner + inner + sum(inputs.values()))
