"""Whether a backbone and a prompt can run in the step of all tasks: asked of the configuration, then tried."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softprompt import canary
from softprompt.backbones.base import gap
from softprompt.core import Output, Row
from softprompt.errors import Unsupported
from softprompt.prompt import Prompt
from softprompt.serve.engine.cache import Cache
from softprompt.serve.engine.compiled import Compiled, private
from softprompt.serve.engine.ragged import Ragged, Segment
from softprompt.serve.engine.reader import Reader
from softprompt.serve.engine.writing import Writing

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
COARSE = 5e-2
STRETCHED = ("dynamic", "longrope")  # rotary tables that follow the longest position of a step, whoever's it is


def eligible(backbone: Any) -> bool:
    """A causal model whose layers attend through the registry, to everything, at positions that can be told."""
    if backbone.spec.kind != "causal" or not backbone.attention_modules or not backbone.takes_positions:
        return False
    config = backbone.model.config.get_text_config()
    rotary = str(getattr(config, "rope_parameters", None)) + str(getattr(config, "rope_scaling", None))
    if any(kind in rotary for kind in STRETCHED):
        return False
    if backbone.windows == 0:
        return True
    limit, window = backbone.spec.positions, getattr(config, "sliding_window", None)
    # A window as long as the context hides nothing. Shorter ones need masks, which the step does not make.
    return bool(backbone.windows > 0 and limit and window and window >= limit)


@dataclass(frozen=True)
class Findings:
    """What a trial found."""

    finite: bool
    off: str  # how the step of all tasks differs from `Prompt`; empty where it does not


@torch.inference_mode()
def trial(prompt: Prompt, compiled: Compiled | None, reader: Reader) -> Findings:
    """Run a fixed text as `Prompt` runs them and, where the backbone can, in the step of all tasks."""
    limit = TOLERANCE.get(prompt.backbone.dtype, COARSE)
    row = max(canary.rows(prompt), key=lambda row: len(row.ids))
    right = plain_states(prompt, row)
    if not bool(right.isfinite().all()) or not eligible(prompt.backbone):
        return Findings(bool(right.isfinite().all()), "")
    try:
        off = gap(ragged_states(prompt, row, compiled, reader), right)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, Unsupported) as error:
        return Findings(True, f"{error}"[:200])
    return Findings(True, "" if off <= limit else f"states off by {off:.1e}")


def plain_states(prompt: Prompt, row: Row) -> Tensor:
    """Last states of a row as `Prompt` runs it: [T, S], or logits where a decoder answers."""
    batch = prompt.batch([row])
    if batch.decoder is not None:
        output: Output = prompt(batch)
        return (output.hidden if output.logits is None else output.logits)[0].float()  # type: ignore[index]
    hidden = prompt.backbone(batch, prompt.inject(batch)).hidden
    return hidden[0].float()  # type: ignore[no-any-return]


def ragged_states(prompt: Prompt, row: Row, compiled: Compiled | None, reader: Reader) -> Tensor:
    """The same as requests are run: behind the compiled front, read in two pieces, the last token as if written."""
    backbone: Any = prompt.backbone
    batch = prompt.batch([row])
    injection = prompt.inject(batch)
    backbone.accept(batch, injection)
    front, count, made = private(injection, len(backbone.attention_modules)), 0, list[Tensor]()
    if compiled is not None:
        count = compiled.match(row)
        front, made = compiled.first(count), [compiled.hidden[:count]]
    embedded = backbone.embed(batch, injection)[:, count:]
    cache, left = Cache(len(backbone.attention_modules), 1), embedded.shape[1]
    cache.reserve(left)
    half = left // 2
    for begin, end in ((0, half), (half, left - 1), (left - 1, left)):
        if begin == end:
            continue
        places = front.places + torch.arange(begin, end, device=backbone.device)[None]
        last = end == left
        segments = [] if last else [Segment(0, end - begin, front, 0, begin)]
        state = Ragged(backbone.attention_modules, segments, Writing([front], [begin]) if last else None, cache)
        made.append(reader.run(embedded[:, begin:end], places, state))
        if sum(window is not None for window in state.windows.values()) != backbone.windows:
            raise Unsupported("SP-E422", "windows that layers do not tell of", "all", "run it plainly")
    return torch.cat(made).float()
