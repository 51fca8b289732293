"""What every method owes, whatever it is; a new file in `softprompt/methods` is tested here without a change."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import B, D, H, L, P, answer, backbone, batch, leaves, real, start, take
from torch import Tensor
from torch.testing import assert_close

from softprompt.backbones import Backbone
from softprompt.core import Batch, Injection
from softprompt.errors import RecipeError, Unsupported
from softprompt.methods import Method, find, names, option_names

PAGES = Path(__file__).parents[2] / "docs" / "methods"
FAMILIES = ["llama", "gpt2", "bert", "t5", "bart", "vit"]
OPTIONS: dict[str, list[dict[str, Any]]] = {  # beside the defaults, which every method is tested with
    "adapt": [
        {"form": "dense", "penalty": 0.5},
        {"rank": 2},
        {"form": "bottleneck", "bottleneck": 8},
        {"form": "multiplicative"},
        {"form": "gated"},
    ],
    "attempt": [{"sources": 3, "bottleneck": 8, "temperature": 0.5}],
    "cpt": [{"types": "fiil", "format_epsilon": 0.02, "context": False}],
    "ctpt": [{"dimension": 8, "heads": 2}],
    "dept": [{"rank": 2, "tokens": 8}, {"rank": 5, "tokens": 16}],
    "idpg": [{"bottleneck": 8, "phm": 4}],
    "mpt": [{"factor_rate": 0.5}],
    "p_tuning": [{"encoder": "mlp"}],
    "pt_moe": [{"experts": 3, "top_k": 3, "rank": 4}],
    "prefix": [{"bottleneck": 16}, {"layers": "1-2"}, {"reach": "encoder"}, {"reach": "cross", "bottleneck": 8}],
    "xprompt": [{"pieces": 8}],
    "residual": [{"bottleneck": 16}, {"bottleneck": 8, "separate": True}],
    "transprompt": [{"share": 0.2}],
    "vpt": [{"deep": False}],
    "wayward": [{"gamma": 2.0}],
    "smop": [{"top_k": 2}, {"top_k": 4, "noise": 0.0}],
}
ROUTED = {"attempt", "pt_moe", "rounded", "smop"}  # begin near its direction only: experts differ, shares scale
CASES = [(name, options) for name in names() for options in [{}, *OPTIONS.get(name, [])]]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(name: str, options: dict[str, Any], frozen: Backbone, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    try:
        return find(name)(frozen.spec, start(frozen), **options)
    except Unsupported as refusal:
        pytest.skip(str(refusal))


def rows(method: Method, family: str) -> Batch:
    """A batch of a family; the slots of a text are in its rows, those of an image directly after CLS."""
    data = batch(family, slots=method.length if method.slots else 0)
    return replace(data, vectors=method.length) if family == "vit" and method.slots else data


def inject(method: Method, frozen: Backbone, data: Batch) -> Injection:
    images = data.pixels is not None  # which have no token embeddings
    return method(data, torch.zeros(B, 0, H) if images else frozen.tokens(data.input_ids))


def run(method: Method, frozen: Backbone, data: Batch) -> Tensor:
    return answer(frozen, data, inject(method, frozen, data))


@every_family
@every_case
def test_every_parameter_gets_a_gradient_and_none_of_the_backbone(
    name: str, options: dict[str, Any], family: str
) -> None:
    frozen = backbone(family)
    method = build(name, options, frozen).train()
    given = inject(method, frozen, rows(method, family))
    loss = answer(frozen, rows(method, family), given).square().mean()
    (loss if given.penalty is None else loss + given.penalty).backward()
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key
    assert all(weight.grad is None for weight in frozen.parameters())


@every_family
@every_case
def test_permuting_the_batch_permutes_the_result(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    method = build(name, options, frozen).eval()
    data, order = rows(method, family), [2, 0, 1]
    near = run(method, frozen, take(data, order))
    assert_close(near, run(method, frozen, data)[order], atol=1e-5, rtol=1e-4)


@every_family
@every_case
def test_what_stands_in_the_padding_is_irrelevant(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    method = build(name, options, frozen).eval()
    data = rows(method, family)
    if data.pixels is not None:
        pytest.skip("images have no padding")
    changed = Batch(data.input_ids.masked_fill(~data.mask, 9), data.mask, data.slots, decoder=data.decoder)
    inside = real(data)
    ours, theirs = run(method, frozen, changed)[inside], run(method, frozen, data)[inside]
    assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@every_family
@every_case
def test_a_seed_gives_the_same_bits(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    one, two = (build(name, options, frozen, seed=5) for _ in range(2))
    for key, tensor in one.state_dict().items():
        assert tensor.equal(two.state_dict()[key]), key
    runs = []
    for method in (one, two):
        torch.manual_seed(6)  # as every step of a training does: routers are noisy in train mode
        runs.append(run(method, frozen, rows(method, family)))
    assert runs[0].equal(runs[1])


@every_family
@every_case
def test_the_folded_method_is_the_method(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    method = build(name, options, frozen).eval()
    with torch.no_grad():  # away from where it began, as training would
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folded, data = method.fold().eval(), rows(method, family)
    assert folded.length == method.length == P
    assert folded.slots == method.slots
    for ours, theirs in zip(leaves(inject(folded, frozen, data)), leaves(inject(method, frozen, data)), strict=True):
        assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert_close(run(folded, frozen, data), run(method, frozen, data), atol=1e-6, rtol=1e-5)
    again = folded.fold()
    assert [p.shape for p in again.parameters()] == [p.shape for p in folded.parameters()]


@every_family
@every_case
def test_folding_does_not_change_the_method(name: str, options: dict[str, Any], family: str) -> None:
    method = build(name, options, backbone(family))
    before = {key: tensor.clone() for key, tensor in method.state_dict().items()}
    folded = method.fold()
    assert folded is method or not {p.data_ptr() for p in folded.parameters()} & {
        p.data_ptr() for p in method.parameters()
    }
    assert all(tensor.equal(before[key]) for key, tensor in method.state_dict().items())


def keys_and_values(family: str, layers: int = L) -> int:
    return 2 * layers * P * backbone(family).spec.kv_heads * D


FOLDED = {  # parameters by family, from the papers: a prompt is l*d, a prefix 2*L*l*(kv heads)*(head size) a stack
    "prompt_tuning": lambda family, options: P * H,
    "adapt": lambda family, options: P * H,
    "ctpt": lambda family, options: P * H,
    "mpt": lambda family, options: P * H,
    "p_tuning": lambda family, options: P * H,
    "transprompt": lambda family, options: P * H,
    "vpt": lambda family, options: (L if options.get("deep", True) else 1) * P * H,
    "xprompt": lambda family, options: P * H,
    "prefix": lambda family, options: sum(stacks(family, options)),
}


def stacks(family: str, options: dict[str, Any]) -> list[int]:
    """The numbers of keys and values of every stack that a prefix reaches."""
    low, _, high = options.get("layers", "").partition("-")
    layers = int(high) - int(low) + 1 if low else L
    several = family in ("t5", "bart") and options.get("reach", "all") == "all"
    return [keys_and_values(family, layers)] * (3 if several else 1)


def count(method: Method) -> int:
    return sum(parameter.numel() for parameter in method.parameters())


@every_family
@every_case
def test_the_folded_method_has_as_many_parameters_as_its_paper_says(
    name: str, options: dict[str, Any], family: str
) -> None:
    if name not in FOLDED:
        pytest.skip(f"{name} has its own count in its own test")
    method = build(name, options, backbone(family))
    assert count(method.fold()) == FOLDED[name](family, options)


@every_family
@every_case
def test_training_begins_at_the_start(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    method, begin = build(name, options, frozen).eval(), start(frozen)
    given = inject(method, frozen, rows(method, family))
    if given.embeds is not None and name in ROUTED:
        assert torch.cosine_similarity(given.embeds[0].flatten(), begin.embeds.flatten(), dim=0) > 0.98
    elif given.embeds is not None:
        assert_close(given.embeds[0], begin.embeds, atol=1e-5, rtol=1e-5)
    side = given.decoder or Injection()
    for made, wanted in ((given.prefix, begin.prefix), (side.prefix, begin.decoder), (side.cross, begin.cross)):
        for ours, theirs in zip(made or (), wanted or (), strict=made is not None):
            if ours is not None:
                assert theirs is not None
                assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if given.deep is not None:
        assert_close(given.deep[0][0], begin.embeds, atol=1e-5, rtol=1e-5)
    assert {given.embeds, given.prefix, given.deep} != {None} or side != Injection()


@every_family
@every_case
def test_options_build_the_method_again(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    method = build(name, options, frozen)
    assert options.items() <= method.options().items()
    assert list(method.options()) == option_names(find(name))
    again = build(name, method.options(), frozen)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in method.state_dict().items()}


@every_family
@every_case
def test_every_parameter_has_one_learning_rate(name: str, options: dict[str, Any], family: str) -> None:
    method = build(name, options, backbone(family))
    grouped = [id(parameter) for group in method.groups() for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in method.parameters())
    assert all(group.unit > 0 and math.isfinite(group.unit) for group in method.groups())


@every_family
@every_case
def test_a_row_alone_is_the_row_in_its_batch(name: str, options: dict[str, Any], family: str) -> None:
    frozen = backbone(family)
    method = build(name, options, frozen).eval()
    data = rows(method, family)
    whole = run(method, frozen, data)
    for row in range(B):
        inside = real(take(data, [row])).expand(1, whole.shape[1])
        alone = run(method, frozen, take(data, [row]))
        assert_close(alone[inside], whole[row : row + 1][inside], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", names())
def test_a_method_works_somewhere_and_refuses_by_code_elsewhere(name: str) -> None:
    refused = []
    for family in FAMILIES:
        try:
            find(name)(backbone(family).spec, start(backbone(family)))
        except Unsupported as refusal:
            refused.append(refusal.code)
    assert set(refused) <= {"SP-E410"}
    assert len(refused) < len(FAMILIES)


@pytest.mark.parametrize("name", names())
def test_a_method_says_what_it_is(name: str) -> None:
    method = find(name)
    assert method.paper
    assert method.summary
    assert "\n" not in method.summary
    assert method.default_init
    assert method.default_head


@pytest.mark.parametrize("name", [name for name in names() if find(name).__module__.startswith("softprompt.")])
def test_a_method_of_ours_has_a_page_that_says_what_pages_say(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert f"`{find(name).__module__.replace('.', '/')}.py`" in page
    assert "\n**When" in page
    assert "\n**Numbers.**" in page
    assert "eviation" in page or "No paper" in page


def test_an_unknown_method_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"SP-E210 .*did you mean 'prefix'"):
        find("prefx")
