"""Prefix tuning equals its formula, P[i] = MLP(P'[i]), written out, and PEFT's where PEFT reaches."""

from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
from families import D, H, L, P, answer, backbone, batch, leaves, model, start, tokens
from torch import Tensor, nn
from torch.testing import assert_close

from softprompt.backbones import Backbone
from softprompt.core import Batch, Injection, Spec, Start
from softprompt.methods import Method, find
from softprompt.methods.prefix import PrefixTuning, Stack

M = 16  # the bottleneck of the tests
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "FEATURE_EXTRACTION"}


def built(name: str, **options: Any) -> Method:
    return find("prefix")(backbone(name).spec, start(backbone(name)), **options)


def run(frozen: Backbone, data: Batch, given: Injection) -> Tensor:
    """Logits, or BERT's states: PEFT's prefix wants BERT without a head."""
    result = frozen(data, given).hidden if frozen.name == "bert" else answer(frozen, data, given)
    assert result is not None
    return result


def other(name: str, **options: Any) -> nn.Module:
    bare = model("bert").bert if name == "bert" else model(name)
    heads = backbone(name).spec.kv_heads
    config = peft.PrefixTuningConfig(
        task_type=TASKS[name],
        num_virtual_tokens=P,
        token_dim=heads * D,
        num_attention_heads=heads,
        num_layers=L,
        **options,
    )
    return peft.get_peft_model(bare, config).eval()


def run_peft(theirs: nn.Module, data: Batch) -> Tensor:
    decoder = {} if data.decoder is None else {"decoder_input_ids": data.decoder.input_ids}
    out = theirs(input_ids=data.input_ids, attention_mask=data.mask.long(), **decoder)
    return out.last_hidden_state if "last_hidden_state" in out else out.logits


@pytest.mark.parametrize("name", TASKS)
def test_states_and_gradients_equal_those_of_peft(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    method = built(name, reach="decoder").fold()  # PEFT reaches nothing else of an encoder-decoder
    assert isinstance(method, PrefixTuning)
    theirs = other(name)
    table = theirs.prompt_encoder["default"].embedding.weight  # [P, L * 2 * K * D]
    stack = next(iter(method.parts().values()))
    # PEFT concatenates its keys and values of an encoder-decoder with themselves before it cuts them into layers, so
    # layer i of the decoder reads pair 2i mod L. Were L even, layers i and i + L/2 would share theirs.
    order = [2 * i % L for i in range(L)] if name == "t5" else list(range(L))
    with torch.no_grad():
        table.view(P, L, -1)[:, order] = stack.prefix.permute(3, 0, 1, 2, 4).reshape(P, L, -1)
    inside = data.mask if data.decoder is None else data.decoder.mask
    ours = run(frozen, data, method(data, frozen.tokens(data.input_ids)))[inside]
    wanted = run_peft(theirs, data)[inside]
    assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    ours.square().mean().backward()
    wanted.square().mean().backward()
    gradient = stack.prefix.grad.permute(3, 0, 1, 2, 4).reshape(P, L, -1)
    assert_close(gradient, table.grad.view(P, L, -1)[:, order], atol=1e-5, rtol=1e-4)


def test_the_mlp_equals_that_of_peft() -> None:
    frozen, data, method = backbone("gpt2"), batch("gpt2"), built("gpt2", bottleneck=M)
    theirs = other("gpt2", prefix_projection=True, encoder_hidden_size=M)
    encoder, stack = theirs.prompt_encoder["default"], method.parts()["encoder"]
    stack.get_buffer("unit").fill_(1.0)  # PEFT knows no scale of keys and values
    with torch.no_grad():
        encoder.embedding.weight.copy_(stack.source)
    encoder.transform[0].load_state_dict(stack.inner.state_dict())
    encoder.transform[2].load_state_dict(stack.outer.state_dict())
    ours = run(frozen, data, method(data, frozen.tokens(data.input_ids)))
    assert_close(ours[data.mask], run_peft(theirs, data)[data.mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_mlp_is_the_formula(name: str) -> None:
    method = built(name, bottleneck=M)
    for parameter in method.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    given = method(batch(name), torch.zeros(0))
    side = given.decoder or Injection()
    made = {"encoder": given.prefix, "decoder": side.prefix, "cross": side.cross}
    heads = backbone(name).spec.kv_heads
    for where, stack in method.parts().items():
        weights = stack.state_dict()
        for j in range(P):
            hidden = torch.tanh(weights["inner.weight"] @ weights["source"][j] + weights["inner.bias"])
            flat = weights["outer.weight"] @ hidden + weights["outer.bias"]
            wanted = flat.view(L, 2, heads, D) * weights_unit(stack)
            for layer in range(L):
                key, value = made[where][layer]
                assert_close(key[0, :, j], wanted[layer, 0], atol=1e-5, rtol=1e-5)
                assert_close(value[0, :, j], wanted[layer, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "several"), [("llama", 1), ("bert", 1), ("t5", 3), ("bart", 3)])
def test_training_has_as_many_parameters_as_the_paper_says(name: str, several: int) -> None:
    """l*d + d*m + m + m*2Ld + 2Ld a stack, where 2Ld are the keys and values of one place in all layers."""
    place = 2 * L * backbone(name).spec.kv_heads * D
    count = sum(parameter.numel() for parameter in built(name, bottleneck=M).parameters())
    assert count == several * (P * H + H * M + M + M * place + place)


def test_published_sizes_have_the_numbers_of_the_papers() -> None:
    """GPT-2 medium, 10 vectors, a bottleneck of 512: trained and stored; P-tuning v2 on BERT-base, 16 vectors."""
    medium = Spec("causal", hidden=1024, states=1024, layers=24, kv_heads=16, head_dim=64)
    method = PrefixTuning(medium, Start(torch.randn(10, 1024)), bottleneck=512)
    assert sum(weight.numel() for weight in method.parameters()) == 25_750_016
    assert sum(weight.numel() for weight in method.fold().parameters()) == 491_520
    base = Spec("encoder", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64)
    direct = PrefixTuning(base, Start(torch.randn(16, 768)))
    assert sum(weight.numel() for weight in direct.parameters()) == 294_912


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("reach", ["encoder", "decoder", "cross"])
def test_a_reach_is_that_stack_alone(name: str, reach: str) -> None:
    given = built(name, reach=reach)(batch(name), torch.zeros(0))
    side = given.decoder or Injection()
    made = {"encoder": given.prefix, "decoder": side.prefix, "cross": side.cross}
    assert [where for where, stack in made.items() if stack is not None] == [reach]


@pytest.mark.parametrize("reach", ["encoder", "decoder", "cross", "all"])
def test_layers_choose_layers_of_every_stack_that_is_reached(reach: str) -> None:
    given = built("t5", reach=reach, layers="1-2")(batch("t5"), torch.zeros(0))
    side = given.decoder or Injection()
    for stack in (given.prefix, side.prefix, side.cross):
        assert stack is None or [pair is not None for pair in stack] == [False, True, True]


@pytest.mark.parametrize("layers", ["3", "2-3", "2-1"])
def test_layers_that_are_not_there_are_refused(layers: str) -> None:
    with pytest.raises(ValueError, match="layers"):
        built("llama", layers=layers)


def test_a_start_of_another_shape_is_refused() -> None:
    frozen, begin = backbone("llama"), start(backbone("llama"))
    wrong = Start(begin.embeds, start(backbone("llama"), length=P + 1).prefix)
    with pytest.raises(ValueError, match="cannot start a prefix"):
        find("prefix")(frozen.spec, wrong)


@pytest.mark.parametrize("bottleneck", [0, M])
def test_a_prefix_that_begins_as_a_text_acts_as_that_text(bottleneck: int) -> None:
    frozen = backbone("llama")
    method = built("llama", bottleneck=bottleneck).eval()
    ids = torch.cat([torch.arange(10, 10 + P).expand(3, -1), batch("llama").input_ids], 1)
    whole = frozen(tokens(ids), Injection()).hidden
    late = tokens(ids[:, P:])
    ours = frozen(late, method(late, torch.zeros(0))).hidden
    assert_close(ours, whole[:, P:], atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_only_and_is_not_folded() -> None:
    method = built("llama", dropout=0.5)
    data = batch("llama")
    trained = leaves(method.train()(data, torch.zeros(0)))
    assert any((x == 0).any() for x in trained)
    assert not any((x == 0).any() for x in leaves(method.eval()(data, torch.zeros(0))))
    folded = leaves(method.fold().train()(data, torch.zeros(0)))
    assert not any((x == 0).any() for x in folded)


def weights_unit(stack: Stack) -> Tensor:
    """The scale [L, 2, 1, 1] of a stack's keys and values."""
    return stack.get_buffer("unit")[..., 0]


def test_keys_and_values_move_in_units_of_their_own_scale() -> None:
    frozen = backbone("llama")
    begin = start(frozen)
    assert begin.prefix is not None
    large = tuple((pair[0] * 100, pair[1]) for pair in begin.prefix if pair is not None)
    method = PrefixTuning(frozen.spec, replace(begin, prefix=large))
    before = method(batch("llama"), torch.zeros(0)).prefix
    with torch.no_grad():
        for weight in method.parameters():
            weight.add_(0.1)
    after = method(batch("llama"), torch.zeros(0)).prefix
    assert before is not None
    assert after is not None
    for old, new in zip(before, after, strict=True):
        for part in (0, 1):
            assert_close((new[part] - old[part]).mean(), 0.1 * old[part].square().mean().sqrt())
