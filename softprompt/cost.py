"""What a run will cost, worked out before its first step: tokens, operations, bytes kept for the backward pass.

The model is not run to know this: sizes come from its layers, lengths from the encoded rows. A frozen model passes
gradients to activations and never to weights, so a token costs two operations a weight forward and two back, where
training the weights would take four back. Beside it stands the same run as Hugging Face PEFT lays it out: the prompt
in every row, every row as long as the longest of its batch, logits everywhere. Seconds are measured on one batch.

Not counted: the method's own network, embeddings, element-wise work. Attention counts every pair it is given, masked
or not.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from softprompt import ranks
from softprompt.core import Row
from softprompt.engine import parted
from softprompt.heads import LanguageModel, Verbalizer
from softprompt.joint import with_lora
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.run import Event, Listener, Log, restore, snapshot
from softprompt.sizes import (
    FLASH,
    Load,
    fronted,
    image_tokens,
    keeps,
    outside,
    packed,
    padded,
    places,
    prefix_length,
    reaches,
    read_stack,
    size,
    spare,
    trimmed,
)

SHORT = 0.5  # seconds under which a trial is repeated, because the first one also warms up


@dataclass(frozen=True)
class Cost:
    """A run in numbers; `peft_` is the same run with the prompt and padding in every row, and logits everywhere."""

    steps: int  # optimiser steps that are left
    epoch_tokens: int  # tokens that one pass over the data runs through the model
    peft_epoch_tokens: int
    operations: int  # floating-point operations of all steps
    peft_operations: int
    kept_bytes: int  # kept for the backward pass of the largest batch, weights not counted
    peft_kept_bytes: int


@dataclass(frozen=True)
class Bill:
    """What one batch costs."""

    tokens: int
    operations: float
    kept: float


def announce(prompt: Prompt, plan: Plan, rows: list[Row], step: int, log: Log | None, listen: Listener) -> None:
    """Tell `listen` what the steps after `step` will cost, and about how many seconds they take.

    Before the first step, the log is told too, but not of seconds: it is the same in every repetition.
    """
    model = Model(prompt, plan, rows)
    event: Event = {"event": "cost", "step": step, **asdict(model.run(step))}
    if log is not None and step == 0:
        log.write(event)
    listen(event | {"seconds": round(model.seconds(event["operations"], step), 1)})


def rehearse(recipe: Any, listen: Listener) -> None:
    """The cost of a recipe, without training: `listen` gets the events "plan" and "cost", and nothing is written."""
    from softprompt.joint import build
    from softprompt.plan import make_plan
    from softprompt.training import open_backbone, prepared, set_threads  # which imports this module

    backbone = open_backbone(recipe)
    set_threads(recipe)
    plan = make_plan(recipe, backbone)
    prompt = build(plan, backbone, listen)
    listen({"event": "plan", "plan": plan, "prompt": prompt})
    announce(prompt, plan, prepared(prompt, plan, listen)[0], 0, None, listen)


class Model:
    """What batches of a plan cost on its backbone: `ours` as they will be run, `theirs` as PEFT would run them."""

    def __init__(self, prompt: Prompt, plan: Plan, rows: list[Row]) -> None:
        self.prompt, self.plan, self.settings = prompt, plan, plan.recipe.train
        self.batches = list(epoch(plan, rows))
        backbone: Any = prompt.alone.backbone
        batch = prompt.batch(self.batches[0])
        with torch.no_grad():
            injection = prompt.inject(batch)
        self.packs = batch.packing is not None and not backbone.unpackable(batch, injection)
        self.fronts = prompt.fronts and not backbone.unfronted(batch, injection)
        mixed = self.settings.precision == "bfloat16" and backbone.dtype.itemsize > 2
        self.trims = getattr(backbone, "trims", False) and prompt.head.reads == "logits" and not self.windowed(backbone)
        self.size = 2 if mixed else backbone.dtype.itemsize
        reads, config = prompt.head.reads == "logits", backbone.model.config.get_text_config()
        parts, own = stacks(backbone, decoder=reads), stacks(prompt.backbone, decoder=reads)
        self.trained = [sum(weight.numel() for weight in part.parameters() if weight.requires_grad) for part in own]
        both = zip(parts, own, strict=True)
        self.stacks = [with_lora(read_stack(part, config, self.size), mine) for part, mine in both]
        self.reaches = reaches(injection, self.stacks)
        if any(self.trained):  # a LoRA, and as a rule in every layer
            self.reaches = [(1.0, tokens) for _, tokens in self.reaches]
        below = rows[0].below
        self.known = below.layer / self.stacks[0].layers if below else 0.0
        inside = {id(module) for part in parts for module in part.modules()}
        speaking = outside(backbone.model, inside, config) if reads else []
        self.vocabulary, self.speaking = max([out for _, out in speaking], default=0), sum(a * b for a, b in speaking)
        one_pass = isinstance(prompt.head, Verbalizer) and prompt.head.one_pass
        self.remembers = isinstance(prompt.head, LanguageModel) and not one_pass  # the softmax over the vocabulary
        self.copied = 2 * (sum(stack.linear for stack in self.stacks) + self.speaking) if mixed else 0
        self.prefix = prefix_length(injection)
        self.image = image_tokens(config, injection) if backbone.spec.kind == "vision" else 0

    @staticmethod
    def windowed(backbone: Any) -> bool:
        """Whether the last layer sees a window only."""
        return bool(backbone.windowed(backbone.spec.layers - 1))

    def run(self, step: int) -> Cost:
        """The cost of the run from optimiser step `step` on."""
        ours, theirs = [self.ours(rows) for rows in self.batches], [self.theirs(rows) for rows in self.batches]
        share = (self.plan.steps - step) / self.plan.steps_per_epoch
        return Cost(
            steps=self.plan.steps - step,
            epoch_tokens=sum(bill.tokens for bill in ours),
            peft_epoch_tokens=sum(bill.tokens for bill in theirs),
            operations=int(share * sum(bill.operations for bill in ours)),
            peft_operations=int(share * sum(bill.operations for bill in theirs)),
            kept_bytes=int(max(bill.kept for bill in ours)),
            peft_kept_bytes=int(max(bill.kept for bill in theirs)),
        )

    def ours(self, rows: list[Row]) -> Bill:
        """A batch as it will be run, in parts where it is run so."""
        bills = [self.part(rows) for rows in parted(self.prompt, rows)]
        kept = max(bill.kept for bill in bills)
        return Bill(sum(bill.tokens for bill in bills), sum(bill.operations for bill in bills), kept)

    def part(self, rows: list[Row]) -> Bill:
        """Rows of one forward."""
        kind = self.prompt.backbone.spec.kind
        packs = self.packs and len(rows) > 1
        if kind == "vision" or (kind == "seq2seq" and not packs):
            return self.theirs(rows, self.known)
        labels = [places(row.decoder or row) for row in rows]
        positions = len(rows) * len(set().union(*labels))
        if packs and len(self.stacks) > 1:  # the decoder reads padded states
            decoder = padded([size(row.decoder) for row in rows if row.decoder], 0, padded(list(map(size, rows)), 0))
            return self.bill([packed(rows, 0, shares=False), decoder], decoder.tokens, self.known, packed=True)
        if packs:
            load = packed(rows, self.prefix, shares=kind == "causal")
            return self.bill([load], sum(map(len, labels)), self.known, packed=True)
        if self.fronts and len(rows) > 1:
            return self.bill([fronted(rows)], positions, self.known)
        return self.bill([padded(list(map(size, rows)), self.prefix)], positions, self.known)

    def theirs(self, rows: list[Row], known: float = 0.0) -> Bill:
        """A batch with padding, the prompt in every row, and logits at every position."""
        loads = [padded([self.image or size(row) for row in rows], self.prefix)]
        if len(self.stacks) > 1:
            loads.append(padded([size(row.decoder) for row in rows if row.decoder], self.prefix, loads[0]))
        return self.bill(loads, loads[-1].tokens, known)

    def bill(self, loads: list[Load], logits: int, known: float, *, packed: bool = False) -> Bill:
        """Tokens, operations and bytes of one load a stack, with logits at so many positions.

        `known` is the share of layers that are not run, because their states are known.
        """
        operations = 4.0 * self.speaking * logits
        kept = self.copied + (4.0 * self.vocabulary * logits if self.remembers else 0.0)
        for stack, trained, load, (share, tokens) in zip(self.stacks, self.trained, loads, self.reaches, strict=True):
            again = share if self.settings.checkpointing else 0.0
            linear = stack.linear * load.tokens + stack.attentions * stack.hidden * stack.narrow * spare(load)
            entry = 0 if tokens or not share else stack.entry * load.tokens  # no gradient goes back through these
            operations += 2 * (linear * (1 - known + share + again) - entry + trained * load.tokens)
            operations += 4 * stack.wide * stack.layers * load.pairs * (1 - known + FLASH * share + again)
            kept += share * keeps(stack, load, self.size, packed=packed, again=self.settings.checkpointing)
            if packed and self.trims and 2 * logits <= load.tokens:
                fewer, less = trimmed(stack, load, logits, self.size, back=share > 0, again=again > 0)
                operations, kept = operations - fewer, kept - less
        return Bill(sum(load.tokens for load in loads), operations, kept)

    def seconds(self, operations: float, step: int) -> float:
        """About how long so many operations take, and dev scores after `step`: measured on the first batch."""
        rows = self.batches[0]
        speed = self.ours(rows).operations / self.trial(rows)
        every = self.settings.evaluate_every or self.plan.steps_per_epoch
        times = -(-self.plan.steps // every) - step // every
        forward = sum(self.ours(rows).operations for rows in self.batches) / 2
        return (operations + times * forward * len(self.plan.dev) / max(1, len(self.plan.train))) / speed

    def trial(self, rows: list[Row]) -> float:
        """Seconds of one batch, forward and back; weights and random numbers are left as they were."""
        from softprompt.training import mixed  # which imports this module

        before, was_training, spent = snapshot(self.prompt), self.prompt.training, 0.0
        self.prompt.train()
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                began = time.perf_counter()
                with mixed(self.prompt.backbone, self.settings.precision):
                    loss = self.prompt.loss(self.prompt.batch(rows))
                if loss.requires_grad:
                    torch.autograd.grad(loss, list(self.prompt.parameters()), allow_unused=True)
                if loss.is_cuda:
                    torch.cuda.synchronize()
                spent = time.perf_counter() - began
                if ranks.most(int(spent > SHORT)):  # all alike: ranks may share the backbone
                    break
        self.prompt.train(was_training)
        restore(self.prompt, before)
        return spent


def stacks(backbone: Any, *, decoder: bool) -> list[nn.Module]:
    """The stacks of layers that a batch runs through, the decoder of an encoder-decoder where it is asked for."""
    parts: list[nn.Module] = [backbone.trunk if backbone.spec.kind == "vision" else backbone.stack()]
    return parts + ([backbone.model.get_decoder()] if backbone.spec.kind == "seq2seq" and decoder else [])


def epoch(plan: Plan, rows: list[Row]) -> Iterator[list[Row]]:
    """The batches of the first pass over the data."""
    from softprompt.training import order  # which imports this module

    settings = plan.recipe.train
    for number in range(plan.steps_per_epoch):
        chosen = order(len(rows), settings.batch_size * settings.accumulate, settings.seed, number)
        for at in range(0, len(chosen), settings.batch_size):
            yield [rows[i] for i in chosen[at : at + settings.batch_size]]
