"""The folder of a finished backbone: float16 weights, tokenizer, checksums and a card."""

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import GenerationConfig, LlamaForCausalLM

CHECKED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def finish(model: LlamaForCausalLM, out: Path, start: Path | None = None) -> Path:
    """Write `out/model` in the transformers layout and return it; `start` is the folder that training began from.

    float16, not bfloat16: the weights are of ordinary size, and three more bits of each cost nothing.
    """
    place = out / "model"
    place.mkdir(exist_ok=True)
    config = model.config
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.float16
    config.save_pretrained(str(place))
    weights = {key: value.detach().cpu().half().contiguous() for key, value in model.state_dict().items()}
    weights.pop("lm_head.weight")  # tied to the embeddings
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(str(place))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(out / "corpus" / "tokenizer" / name, place / name)
    (place / "facts.json").write_text(json.dumps(facts(model, out, start), indent=1) + "\n")
    (place / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    sums = {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in CHECKED}
    (place / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n")
    return place


def facts(model: LlamaForCausalLM, out: Path, start: Path | None) -> dict[str, Any]:
    """What a card has to say: sizes, settings, the last measurement, sources and licences, machine and versions."""
    state = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    measured = [event for event in curve if "bits_per_byte" in event]
    before = json.loads((start / "facts.json").read_text()) if start else {}
    teacher = {"name": "all-MiniLM-L6-v2", "licence": "Apache-2.0"} if state["settings"]["teach"] else None
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "settings": state["settings"],
        "seconds": round(state["state"]["seconds"]),
        "machine": f"{platform.machine()}, {hardware}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "held_out": measured[-1],
        "curve": [{k: e[k] for k in ("step", "tokens", "bits_per_byte", "exact")} for e in measured],
        "losses": [{k: e[k] for k in ("step", "loss")} for e in curve if "loss" in e],
        "before": {key: before[key] for key in ("settings", "seconds", "held_out", "losses") if key in before} or None,
        "teacher": teacher,
        **json.loads((out / "corpus" / "facts.json").read_text()),
    }
