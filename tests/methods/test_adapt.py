"""A frozen source and a small change equal their formulas, and are the source to the last bit before the first step."""

from pathlib import Path
from typing import Any, get_args

import pytest
import tiny_runs
import torch
from families import H, P, answer, backbone, batch, start
from torch import Tensor
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import Example, Spec, Start
from softprompt.methods.adapt import Form, ResidualAdapter
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.plan import make_plan
from softprompt.training import train
from softprompt.untrained import build

BASE = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)
FORMS = get_args(Form)
every_form = pytest.mark.parametrize("form", FORMS)


def built(form: Form, family: str = "llama", **options: Any) -> ResidualAdapter:
    torch.manual_seed(3)
    frozen = backbone(family)
    return ResidualAdapter(frozen.spec, start(frozen), form=form, bottleneck=8, **options).eval()


def moved(form: Form, **options: Any) -> ResidualAdapter:
    method = built(form, **options)
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return method


def given(method: ResidualAdapter) -> Tensor:
    embeds = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert embeds is not None
    return embeds[0].detach()


@every_form
@pytest.mark.parametrize("scale", [0.02, 1.0, 50.0])
def test_at_step_0_it_is_its_source_bit_for_bit(form: Form, scale: float) -> None:
    vectors = torch.randn(P, H, generator=torch.Generator().manual_seed(1)) * scale
    spec = Spec("causal", hidden=H, states=H, layers=2, kv_heads=2, head_dim=8, rms=scale)
    assert torch.equal(given(ResidualAdapter(spec, Start(vectors), form=form)), vectors)


@every_form
@torch.no_grad()
def test_the_model_answers_at_step_0_as_with_the_source_to_the_last_bit(form: Form) -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    plain = PromptTuning(frozen.spec, start(frozen))
    ours, theirs = (answer(frozen, data, m(data, torch.zeros(0))) for m in (built(form), plain))
    assert torch.equal(ours, theirs)


def network(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network on one vector [H], written out."""
    part = {name.removeprefix("change.network."): value for name, value in weights.items()}
    made = part["up.weight"] @ (part["down.weight"] @ x + part["down.bias"]).clamp(min=0) + part["up.bias"]
    normed = (made - made.mean()) / (made.var(correction=0) + 1e-5).sqrt()
    return normed * part["norm.weight"] + part["norm.bias"]


def written(form: Form, now: dict[str, Tensor], then: dict[str, Tensor], a: Tensor, i: int, rms: float) -> Tensor:
    """Vector i of the prompt by the formula of its form, from the source vector a [H]."""
    if form == "dense":
        return a + now["change.value"][i]
    if form == "low_rank":
        made = [sum(w["change.left"][i, r] * w["change.right"][r] for r in range(4)) for w in (now, then)]
        return a + made[0] - made[1]
    if form == "bottleneck":
        return a + network(now, a / rms) - network(then, a / rms)
    if form == "multiplicative":
        return a * now["change.row"][i] * now["change.column"]
    return a * now["change.gates"][i] + now["change.shift"]


@every_form
@torch.no_grad()
def test_the_prompt_is_the_formula(form: Form) -> None:
    method, source = moved(form), start(backbone("llama")).embeds
    made, then = given(method), built(form).state_dict()
    for i in range(P):
        wanted = written(form, method.state_dict(), then, source[i], i, method.spec.rms)
        assert_close(made[i], wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(made, source, atol=1e-2)


COUNTS = {  # l = 100, d = 768, rank 4, width 32
    "dense": 100 * 768,
    "low_rank": 4 * (100 + 768),
    "bottleneck": 2 * 768 * 32 + 32 + 768 + 2 * 768,
    "multiplicative": 100 + 768,
    "gated": 100 + 768,
}


@every_form
def test_it_trains_as_many_numbers_as_the_form_has(form: Form) -> None:
    method = ResidualAdapter(BASE, Start(torch.zeros(100, 768)), form=form)
    assert sum(p.numel() for p in method.parameters()) == COUNTS[form]


def test_a_short_prompt_has_a_change_of_the_rank_that_it_can_have() -> None:
    method = ResidualAdapter(BASE, Start(torch.zeros(2, 768)))
    assert sum(p.numel() for p in method.parameters()) == 2 * (2 + 768)


@every_form
def test_the_source_stays_as_it_is_while_the_change_is_trained(form: Form) -> None:
    method, data = built(form).train(), batch("llama", slots=P)
    before = {name: value.clone() for name, value in method.named_buffers()}
    step = torch.optim.Adam(method.parameters(), 0.1)
    for _ in range(3):
        step.zero_grad()
        answer(backbone("llama"), data, method(data, torch.zeros(0))).square().mean().backward()
        step.step()
    assert all(value.equal(before[name]) for name, value in method.named_buffers())
    assert not given(method).equal(before["source"])


def test_the_penalty_is_the_mean_size_of_the_change_and_only_in_training() -> None:
    method, data = moved("dense", penalty=0.5), batch("llama", slots=P)
    away = (given(method) - start(backbone("llama")).embeds).abs().mean() / method.spec.rms
    asked = method.train()(data, torch.zeros(0)).penalty
    assert asked is not None
    assert_close(asked.detach(), 0.5 * away, atol=1e-6, rtol=1e-5)
    assert method.eval()(data, torch.zeros(0)).penalty is None
    assert moved("dense").train()(data, torch.zeros(0)).penalty is None


@pytest.mark.parametrize("options", [{"rank": -1}, {"rank": P + 1}, {"bottleneck": 0}, {"penalty": -0.1}])
def test_sizes_that_make_no_change_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rank=.*bottleneck=.*penalty="):
        ResidualAdapter(backbone("llama").spec, start(backbone("llama")), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    return tiny_runs.open_model(folder)


@pytest.mark.parametrize("form", ["low_rank", "bottleneck"])
def test_a_run_begins_at_its_source_and_its_file_is_a_plain_prompt(
    form: Form, folder: Path, model: Backbone, tmp_path: Path
) -> None:
    source = train(tiny_runs.recipe(folder, "train.epochs=1"), tmp_path / "source", backbone=model).artifact
    settings = ["method.name=adapt", f"method.options={{form: {form}, bottleneck: 4}}", f"init.source={source}"]
    made = tiny_runs.recipe(folder, *settings)
    began = build(make_plan(made, model), model).method.fold().state_dict()["prompt"]
    assert torch.equal(began, Artifact.load(source).tensors["method.prompt"])
    result = train(made, tmp_path / "run", backbone=model)
    stored = Artifact.load(result.artifact)
    assert (stored.card.method.name, stored.card.method.trained_as) == ("prompt_tuning", "adapt")
    assert stored.card.parents == ("prompt.safetensors",)
    assert not stored.tensors["method.prompt"].equal(began)
    examples = [Example({"text": f"w{10 + i} w{60 + i}"}) for i in range(4)]
    assert stored.bind(model).predict(examples) == result.prompt.predict(examples)
