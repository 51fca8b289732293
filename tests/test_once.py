"""A step of several batches runs a method once where its injection is the same for all, and takes the same step."""

from typing import Any

import pytest
import speakers
import torch
from torch import Tensor

from softprompt.core import Batch, Injection
from softprompt.engine import once
from softprompt.methods import Method, names
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.training import step

LOOKING = {"attempt", "dart", "dept", "idpg", "pt_moe", "smop"}  # what they inject depends on the text
OPTIONS: dict[str, dict[str, Any]] = {"cpt": {}, "prefix": {"bottleneck": 8}}


def made(name: str) -> Prompt:
    init = {"init": {"kind": "text"}} if name == "cpt" else {}
    return speakers.prompt("llama", name, options=OPTIONS.get(name, {}), **init).train()


def counted(prompt: Prompt) -> list[int]:
    """Where every forward of the method leaves a mark, whether it ends or not."""
    calls: list[int] = []
    forward = prompt.method.forward

    def counting(batch: Batch, text: Tensor) -> Injection:
        calls.append(1)
        return forward(batch, text)

    prompt.method.__dict__["forward"] = counting
    return calls


@pytest.mark.parametrize("name", [name for name in speakers.READING if name in names()])
def test_methods_that_look_at_the_text_are_found_out(name: str) -> None:
    prompt = made(name)
    state = torch.get_rng_state()
    assert (once(prompt, 2) is None) == (name in LOOKING)
    assert once(prompt, 1) is None
    assert torch.get_rng_state().equal(state)


def stepped(prompt: Prompt, batches: int) -> tuple[float, Tensor]:
    """Loss and gradient of one step over four examples in so many batches."""
    settings = {"batch_size": 4 // batches, "accumulate": batches, "steps": 1}
    recipe = make_recipe({"train": settings, "optim": {"lr": 1e-9, "clip": None}})
    plan = Plan(recipe, speakers.examples("verbalizer"), [], [], (), {})
    rows = [prompt.row(example) for example in plan.train]
    weights = list(prompt.parameters())
    loss, _, _ = step(prompt, plan, rows, torch.optim.SGD(weights, 1e-9), [1e-9], 0)
    return loss, torch.cat([torch.zeros(w.numel()) if w.grad is None else w.grad.flatten() for w in weights])


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ["prompt_tuning", "prefix", "p_tuning", "residual", "wayward", "dept", "smop"])
def test_accumulated_batches_have_the_gradient_of_one_and_run_the_method_once(name: str, packs: bool) -> None:
    answers = []
    for batches in (2, 1):
        prompt = made(name)
        prompt.packs = packs
        calls = counted(prompt)
        answers.append(stepped(prompt, batches))
        # Methods that look are asked once without a batch, which is how they are found out, and once a batch.
        assert len(calls) == (3 if batches == 2 and name in LOOKING else 1)
    (loss, grad), (right, right_grad) = answers
    if name == "smop":  # its router draws noise for every row, and two batches draw it in two parts
        return
    assert loss == pytest.approx(right, rel=1e-5)
    assert (grad - right_grad).norm() / right_grad.norm() < 1e-5
    assert right_grad.norm() > 0


def test_dropout_is_drawn_once_a_step_and_as_the_seed_says() -> None:
    def seen(batches: int) -> list[Tensor]:
        prompt = speakers.prompt("llama", "prefix", options={"dropout": 0.5})
        found: list[Tensor] = []
        answer = prompt.answer

        def noted(batch: Batch, injection: Injection) -> Any:
            assert injection.prefix is not None
            assert injection.prefix[0] is not None
            found.append(injection.prefix[0][0].detach())
            return answer(batch, injection)

        prompt.__dict__["answer"] = noted
        stepped(prompt, batches)
        return found

    first, second, third, fourth = seen(4)
    assert first.equal(second)
    assert second.equal(third)
    assert third.equal(fourth)
    assert (first == 0).any()
    assert first.equal(seen(4)[0])
    assert first.equal(seen(1)[0])  # what one batch would have drawn


class Careless(Method):
    """Looks at the batch only behind the back of whoever tests for attributes: by `len`, by `if`, by arithmetic."""

    def __init__(self, way: str) -> None:
        torch.nn.Module.__init__(self)
        self.way, self.prompt = way, torch.nn.Parameter(torch.ones(speakers.P, 32))

    def forward(self, batch: Batch, text: Tensor) -> Injection:
        ways = {
            "len": lambda: len(batch),
            "if": lambda: 2 if batch else 1,
            "arithmetic": lambda: text * 2,
            "torch": lambda: torch.cat([text, text]),
            "default": lambda: getattr(batch, "tasks", None),
            "loop": lambda: [row for row in text],  # noqa: C416
        }
        ways[self.way]()
        return Injection(embeds=self.prompt[None])


@pytest.mark.parametrize("way", ["len", "if", "arithmetic", "torch", "default", "loop"])
def test_every_way_to_look_is_noticed(way: str) -> None:
    prompt = made("prompt_tuning")
    prompt.method = Careless(way)
    assert once(prompt, 2) is None


def test_an_error_of_the_method_is_not_taken_for_a_look() -> None:
    prompt = made("prompt_tuning")

    def fails(batch: Batch, text: Tensor) -> Injection:
        raise ValueError("a mistake of its own")

    prompt.method.__dict__["forward"] = fails
    with pytest.raises(ValueError, match="a mistake of its own"):
        once(prompt, 2)
