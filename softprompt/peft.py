"""Prompts from and to folders of Hugging Face PEFT: `adapter_config.json` beside `adapter_model.safetensors`.

PEFT puts a prompt in front of everything, BOS and CLS included: what `{soft:20}{bos}{text}` says here. A prefix is one
row of [layer, key or value, head] for every place, the keys as the layers use them, after rotation.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softprompt.adapter import Adapter, dealt, read_config, read_tensor, refuse, undealt, write_adapter
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.choices import default_template
from softprompt.core import TEXT, Spec
from softprompt.data import TaskKind
from softprompt.methods import find
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.template import parse
from softprompt.untrained import build

TASKS = {"causal": "CAUSAL_LM", "encoder": "FEATURE_EXTRACTION", "seq2seq": "SEQ_2_SEQ_LM"}
# Families whose answers were compared with PEFT's (tests/test_peft.py); any other is refused, not hoped for.
PROMPTS = {"llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "opt", "phi", "phi3", "olmo2", "gpt2"}
PROMPTS |= {"bert", "roberta", "xlm-roberta", "electra", "t5", "mt5", "bart", "pegasus"}
PREFIXES = PROMPTS - {"bart", "pegasus"}  # with PEFT their text begins after the prefix, here at position 0


def import_peft(
    folder: str | Path,
    backbone: Backbone,
    *,
    kind: TaskKind | None = None,
    template: str | None = None,
    labels: tuple[str, ...] = (),
    words: dict[str, str] | None = None,
) -> Artifact:
    """The prompt of a PEFT adapter (prompt tuning, P-tuning, prefix tuning) as an artifact for this backbone.

    With `labels` it classifies by `words` (by default the labels themselves), without them it writes. The default
    template has the prompt where PEFT has it. An adapter only names its model: that `backbone` is the right one is
    checked by sizes alone. PEFT keeps a second half of an encoder-decoder's prompt that it never reads; so do we not.
    Raises `ArtifactError` for anything but such an adapter, and `RecipeError` for settings that do not fit.
    """
    place = Path(folder)
    config, tensor = read_config(place), read_tensor(place)
    check_fit(config, backbone, place)
    task = kind or ("classification" if labels else "generation")
    if task not in ("classification", "generation"):
        raise refuse(
            "SP-E337",
            f"an adapter for {task}, which needs a trained head",
            "classification by words, or generation",
            "give labels and words, or train a prompt for this task",
            place,
        )
    prompt, recipe = untrained(config, backbone, task, template, labels, words or {})
    prompt.method.load_state_dict(unpack(config, tensor, prompt.method.spec, place))
    return Artifact.of(prompt.eval(), recipe, {}, parents=(place.resolve().name,))


def untrained(
    config: Adapter,
    backbone: Backbone,
    kind: str,
    template: str | None,
    labels: tuple[str, ...],
    words: dict[str, str],
) -> tuple[Prompt, dict[str, Any]]:
    """A prompt of the adapter's shape, its vectors still to be filled in, and its recipe."""
    name = "prefix" if config.peft_type == "PREFIX_TUNING" else "prompt_tuning"
    head = "verbalizer" if kind == "classification" else "lm"
    text = template or default_template(find(name), backbone, head, ["text"]).replace("{soft}", "{soft}{bos}")
    options = {"reach": "decoder"} if name == "prefix" and backbone.spec.kind == "seq2seq" else {}
    recipe = make_recipe(
        {
            "task": {"kind": kind, "template": text, "head": head, "labels": labels, "words": words},
            "method": {"name": name, "length": config.num_virtual_tokens, "options": options},
            "init": {"kind": "random"},
        }
    )
    told = {key: part for key, part in recipe.shared().items() if key != "init"}
    return build(Plan(recipe, [], [], [], labels, {}), backbone), told


def unpack(config: Adapter, tensor: Tensor, spec: Spec, place: Path) -> dict[str, Tensor]:
    """The tensors of our method from the one of PEFT; raises `ArtifactError` where it does not fit the backbone."""
    length, stacks = config.num_virtual_tokens, 2 if spec.kind == "seq2seq" else 1
    depth = spec.decoder_layers or spec.layers
    prefix = config.peft_type == "PREFIX_TUNING"
    width = spec.kv_heads * spec.head_dim if prefix else spec.hidden
    copies = config.num_transformer_submodules or stacks
    shape = (length, 2 * depth * width) if prefix else (length * copies, width)
    sizes = [
        ("shape", tuple(tensor.shape), shape),
        ("token_dim", config.token_dim, width),
        ("num_transformer_submodules", copies, stacks if prefix else min(copies, stacks)),
    ]
    if prefix:  # the numbers by which PEFT cuts a row
        sizes += [
            ("num_layers", config.num_layers, depth),
            ("num_attention_heads", config.num_attention_heads, spec.kv_heads),
        ]
    for what, found, expected in sizes:
        if found is not None and found != expected:
            raise refuse(
                "SP-E333",
                f"{what} {found}",
                f"{expected}, which fits this backbone",
                "load the model that the adapter was trained on",
                place,
            )
    if not prefix:
        return {"prompt": tensor[:length].clone()}
    made = tensor.view(length, depth, 2, spec.kv_heads, spec.head_dim).permute(1, 2, 3, 0, 4)  # [L, 2, K, P, D]
    unit = torch.ones(depth, 2, 1, 1, 1)
    if spec.kind == "seq2seq":
        made = made[[dealt(i, depth) for i in range(depth)]]
        return {"stacks.decoder.prefix": made, "stacks.decoder.unit": unit}
    return {"stacks.encoder.prefix": made.contiguous(), "stacks.encoder.unit": unit}


def export_peft(artifact: Artifact, folder: str | Path, backbone: Backbone | None = None) -> list[str]:
    """Write a folder that PEFT loads; the notes say what of the artifact a PEFT adapter does not hold.

    `backbone` is needed where fixed tokens (BOS, CLS, words of the template) stand in front of the prompt: their
    embeddings become virtual tokens too. Raises `ArtifactError` (SP-E334 to E336) for prompts that PEFT would answer
    otherwise with, and E320 for a backbone that is not the prompt's.
    """
    card, place = artifact.card, Path(folder)
    if backbone is not None:
        artifact.check_backbone(backbone)
    families = {"prompt_tuning": PROMPTS, "prefix": PREFIXES}.get(card.method.name)
    if families is None or card.backbone.family not in families:
        raise refuse(
            "SP-E334",
            f"a {card.method.name} prompt for {card.backbone.family}",
            "a method and a family for which PEFT gives the same answers",
            "use softprompt itself for this prompt",
            artifact.where,
        )
    tensor, notes = in_front(artifact, backbone) if card.method.name == "prompt_tuning" else in_layers(artifact)
    write_adapter(place, tensor, settings(artifact, len(tensor)))
    return [*notes, *left_behind(artifact)]


def settings(artifact: Artifact, length: int) -> dict[str, Any]:
    """The contents of `adapter_config.json`."""
    card = artifact.card.backbone
    common = {
        "base_model_name_or_path": card.name,
        "inference_mode": True,
        "num_virtual_tokens": length,
        "task_type": TASKS[card.kind],
    }
    if artifact.card.method.name == "prompt_tuning":
        return common | {"peft_type": "PROMPT_TUNING", "token_dim": card.hidden, "num_transformer_submodules": 1}
    (made,) = (tensor for name, tensor in artifact.method_tensors().items() if name.endswith(".prefix"))
    depth, _, heads, _, width = made.shape
    return common | {
        "peft_type": "PREFIX_TUNING",
        "num_attention_heads": heads,
        "num_layers": depth,
        "num_transformer_submodules": 2 if card.kind == "seq2seq" else 1,
        "prefix_projection": False,
        "token_dim": heads * width,
    }


def in_front(artifact: Artifact, backbone: Backbone | None) -> tuple[Tensor, list[str]]:
    """The embeddings [P', H] of everything up to the last prompt vector, which must be the same in every row."""
    card = artifact.card
    kinds = [piece.kind for piece in parse(card.template.text, card.method.length)]
    until = len(kinds) - kinds[::-1].index("soft")
    if {"field", "mask"} & set(kinds[:until]):
        raise refuse(
            "SP-E335",
            f"a prompt inside or after the text, in template {card.template.text!r}",
            "all vectors in front of the text, where PEFT puts them",
            "train with a template such as '{soft:20}{text}'",
            artifact.where,
        )
    vectors = artifact.method_tensors()["prompt"].float()
    if set(kinds[:until]) == {"soft"} and "bos" in kinds:
        return vectors, []
    if backbone is None:
        raise refuse(
            "SP-E335",
            f"template {card.template.text!r} without its tokenizer",
            "to know which tokens stand in front of the prompt",
            "give the backbone",
            artifact.where,
        )
    template = artifact.template(backbone, prefix=0)
    draft, _ = template.write(dict.fromkeys(template.fields, ""))
    end = max(i for i, slot in enumerate(draft.slots) if slot != TEXT) + 1
    front = backbone.tokens(torch.tensor([draft.ids[:end]], device=backbone.device))[0].float().cpu()
    slots = torch.tensor(draft.slots[:end])
    front[slots != TEXT] = vectors[slots[slots != TEXT]]
    fixed = [i for i, slot in zip(draft.ids[:end], draft.slots, strict=False) if slot == TEXT]
    text = template.tokenizer.decode(fixed)
    notes = [f"{text!r} stands among the {end} virtual tokens: give PEFT texts without it"] if fixed else []
    return front, notes


def in_layers(artifact: Artifact) -> tuple[Tensor, list[str]]:
    """The keys and values of all layers as rows [P, 2 L K D], in the order in which PEFT deals them out."""
    card = artifact.card.backbone
    tensors = {name: tensor for name, tensor in artifact.method_tensors().items() if name.endswith(".prefix")}
    side = "decoder" if card.kind == "seq2seq" else "encoder"
    made = tensors.get(f"stacks.{side}.prefix")  # [L, 2, K, P, D]
    whole = made is not None and len(tensors) == 1 and (side == "decoder" or len(made) == card.layers)
    if made is None or not whole:
        given = ", ".join(f"{len(t)} {name.split('.')[1]} layers" for name, t in tensors.items())
        raise refuse(
            "SP-E336",
            f"keys and values for {given}",
            "all layers; of an encoder-decoder, those of the decoder's self-attention alone: PEFT reaches no others",
            "train with method.options.reach=decoder" if side == "decoder" else "train without method.options.layers",
            artifact.where,
        )
    if side == "decoder":
        made = undealt(made, artifact.where)
    return made.permute(3, 0, 1, 2, 4).flatten(1).float().contiguous(), []


def left_behind(artifact: Artifact) -> list[str]:
    """What a PEFT adapter has no place for."""
    card = artifact.card
    head = f"head {card.head.name!r}"
    answers = f" and its classes ({', '.join(card.task.labels[:20])})" if card.task.labels else ""
    trained = any(name.startswith("head.") for name in artifact.tensors)
    ours = f"the trained {head}{answers}: PEFT gives hidden states" if trained else f"{head}{answers}"
    return [f"not in the adapter: template {card.template.text!r}", f"not in the adapter: {ours}"]


def check_fit(config: Adapter, backbone: Backbone, place: Path) -> None:
    """Raise `ArtifactError` where the adapter is for another kind of model, or where answers were never compared."""
    family, kind = backbone.model.config.model_type, backbone.spec.kind
    prefix = config.peft_type == "PREFIX_TUNING"
    if family not in (PREFIXES if prefix else PROMPTS):
        raise refuse(
            "SP-E334",
            f"an adapter of type {config.peft_type} for {family}",
            "a method and a family for which PEFT gives the same answers",
            "train a prompt for this backbone",
            place,
        )
    if config.task_type != TASKS[kind]:
        raise refuse(
            "SP-E333",
            f"task_type {config.task_type}",
            f"{TASKS[kind]}, for this {kind} backbone",
            "load the model that the adapter was trained on",
            place,
        )
