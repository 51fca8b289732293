"""MPT equals its formula, P* o (u v^T), begins at exactly its source, and learns with two rates."""

from pathlib import Path

import pytest
import speakers
import torch
from families import H, P, backbone, batch, start
from torch import Tensor
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.core import Spec, Start
from softprompt.errors import ArtifactError, RecipeError
from softprompt.methods import Method
from softprompt.methods.mpt import MultitaskPromptTuning, mean_prompt, tasks
from softprompt.optim import make_optimizer
from softprompt.sections import OptimSection

BASE = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)


def given(method: Method) -> Tensor:
    embeds = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert embeds is not None
    return embeds[0].detach()


def moved() -> MultitaskPromptTuning:
    torch.manual_seed(3)
    frozen = backbone("llama")
    method = MultitaskPromptTuning(frozen.spec, start(frozen))
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return method


def test_the_prompt_is_the_formula() -> None:
    method = moved()
    made = given(method)
    for i in range(P):
        for j in range(H):
            wanted = method.shared[i, j] * method.row[i] * method.column[j]
            assert made[i, j].item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-7)


def test_it_begins_at_exactly_its_source() -> None:
    vectors = torch.randn(P, H) * 50
    assert torch.equal(given(MultitaskPromptTuning(backbone("llama").spec, Start(vectors))), vectors)


def test_it_has_as_many_parameters_as_the_paper_says() -> None:
    """ld + (l + d) for a task, 77.6K on T5-base; shared by eight tasks ld / 8 + l + d each, 10.5K."""
    method = MultitaskPromptTuning(BASE, Start(torch.zeros(100, 768)))
    assert sum(p.numel() for p in method.parameters()) == 100 * 768 + 100 + 768 == 77_668
    eight = tasks(BASE, Start(torch.zeros(100, 768)), 8)
    numbers = {id(p): p.numel() for method in eight for p in method.parameters()}
    assert sum(numbers.values()) / 8 == 10_468


def test_the_gradients_are_those_of_the_factors() -> None:
    """du = (G o P*) v, dv = (G o P*)^T u, dP* = G o u v^T."""
    method, grad = moved(), torch.randn(P, H)
    (method.product() * grad).sum().backward()
    through = grad * method.shared.detach()
    row, column = method.row.detach(), method.column.detach()
    assert_close(method.row.grad, through @ column)
    assert_close(method.column.grad, through.T @ row)
    assert_close(method.shared.grad, grad * torch.outer(row, column))


def test_at_the_papers_rate_the_factors_have_the_papers_rate() -> None:
    """0.3 for P*, 0.4 for u and v; the first in units of the embeddings, the others of themselves."""
    _, rates = make_optimizer(OptimSection(lr=0.3), moved().groups(), torch.nn.Identity())
    assert rates == pytest.approx([0.3 * backbone("llama").spec.rms, 0.4])


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_moves_nothing_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="factor_rate"):
        MultitaskPromptTuning(backbone("llama").spec, start(backbone("llama")), factor_rate=rate)


def test_tasks_share_one_prompt_and_their_gradients_add_up() -> None:
    first, second = tasks(backbone("llama").spec, start(backbone("llama")), 2)
    assert first.shared is second.shared
    assert first.row is not second.row
    grads: list[Tensor] = []
    for together in ([first], [second], [first, second]):
        first.shared.grad = None
        torch.stack([(method.product() * (i + 2.0)).sum() for i, method in enumerate(together)]).sum().backward()
        assert first.shared.grad is not None
        grads.append(first.shared.grad)
    assert_close(grads[2], grads[0] + grads[1] * 1.5)


@torch.no_grad()
def test_the_mean_of_tasks_is_that_of_their_prompts_whatever_the_scale_of_their_factors() -> None:
    made = tasks(backbone("llama").spec, start(backbone("llama")), 3)
    made[0].shared.normal_()
    for method, row in zip(made, (1.5, 2.0, 2.5), strict=True):
        method.row.fill_(row)
        method.column.fill_(3 / row)  # the same prompt, 3 P*, in three ways
    assert_close(mean_prompt(made), 3 * made[0].shared)
    assert_close(mean_prompt(made[:1]), made[0].product())
    made[0].row.normal_()
    assert_close(mean_prompt(made[:1]), made[0].product())


def test_a_run_begins_at_its_source_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    stored = Artifact.of(speakers.prompt("llama"), {}, {})
    stored.save(path)
    method = untouched("mpt", path)
    assert torch.equal(given(method), stored.tensors["method.prompt"])


def untouched(name: str, source: Path, length: int = P) -> Method:
    """A method as a run would build it from a source."""
    from softprompt.plan import Plan
    from softprompt.recipe import make_recipe
    from softprompt.untrained import build

    recipe = make_recipe(
        {
            "task": {"kind": "classification", "head": "verbalizer", "template": "{soft}{text} It is {mask}"},
            "method": {"name": name, "length": length},
            "init": {"kind": "prompt", "source": str(source)},
        }
    )
    plan = Plan(recipe, speakers.examples("verbalizer"), [], [], ("bad", "good"), {})
    return build(plan, speakers.speaker("llama")).method


@pytest.mark.parametrize("name", ["adapt", "mpt"])
def test_a_source_of_another_length_space_or_backbone_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    fitting, keyed, foreign = (tmp_path / kind for kind in ("fitting", "keyed", "foreign"))
    Artifact.of(speakers.prompt("llama"), {}, {}).save(fitting)
    Artifact.of(speakers.prompt("llama", "prefix"), {}, {}).save(keyed)
    Artifact.of(speakers.prompt("llama", backbone=speakers.fresh("llama", seed=8)), {}, {}).save(foreign)
    with pytest.raises(RecipeError, match=rf"SP-E231 found shape \({P}, 32\) in fitting; expected \({P + 1}, 32\)"):
        untouched(name, fitting, P + 1)
    with pytest.raises(RecipeError, match=r"SP-E231 found stacks\.encoder\.prefix.* in keyed; expected plain vectors"):
        untouched(name, keyed)
    with pytest.raises(ArtifactError, match=r"SP-E320.*found weights"):
        untouched(name, foreign)
