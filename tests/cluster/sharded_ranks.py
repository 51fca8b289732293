"""What every rank of tests/cluster/test_sharded.py does: the runs of a folder one after the other, and what it held."""

import json
import sys
from pathlib import Path

import torch.distributed as dist
from torch.distributed.tensor import DTensor

from softprompt.backbones import load_backbone
from softprompt.errors import RecipeError
from softprompt.recipe import load_recipe
from softprompt.training import resume, train


def held(result):
    """Numbers of the backbone on this rank, by weight, and of the whole; and whether weights are the whole ones."""
    weights = dict(result.prompt.backbone.model.named_parameters())
    parts = {name: weight.to_local() for name, weight in weights.items() if isinstance(weight, DTensor)}
    return {
        "all": sum(weight.numel() for weight in weights.values()),
        "here": sum(parts.get(name, weight).numel() for name, weight in weights.items()),
        "stored": sum(part.untyped_storage().nbytes() // part.element_size() for part in parts.values()),
        "whole": [name for name in weights if name not in parts],
    }


def main(folder):
    found, notes = {}, {}
    for path in sorted(folder.glob("*.yaml")):
        heard = []
        result = train(load_recipe(path), folder / "two" / path.stem, listen=heard.append)
        found[path.stem] = held(result)
        notes[path.stem] = [event["text"] for event in heard if event["event"] == "note"]
    resume(folder / "half")
    refused = ""
    try:
        load_backbone(folder / "t5", shard="layers")
    except RecipeError as error:
        refused = error.code
    (folder / f"rank-{dist.get_rank()}.json").write_text(
        json.dumps({"held": found, "notes": notes, "refused": refused})
    )


main(Path(sys.argv[1]))
