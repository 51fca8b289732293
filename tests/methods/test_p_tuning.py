"""P-tuning equals its formula, h_i = MLP([LSTM forward; LSTM backward]), written out, and PEFT's encoder."""

import peft
import pytest
import speakers
import torch
from families import H, P, answer, backbone, batch, model, start
from torch import Tensor, nn
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.core import TEXT, Batch, Spec, Start
from softprompt.methods import Method, find


def made(encoder: str) -> Method:
    frozen = backbone("llama")
    method = find("p_tuning")(frozen.spec, start(frozen), encoder=encoder)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return method


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def one_direction(weights: dict[str, Tensor], suffix: str, x: Tensor) -> Tensor:
    """Hochreiter and Schmidhuber's cell with a forget gate, step by step over x [P, M]."""
    hidden = cell = torch.zeros(H // 2)
    states = []
    for step in x:
        gates = weights[f"lstm.weight_ih_{suffix}"] @ step + weights[f"lstm.bias_ih_{suffix}"]
        gates = gates + weights[f"lstm.weight_hh_{suffix}"] @ hidden + weights[f"lstm.bias_hh_{suffix}"]
        enter, forget, candidate, leave = gates.chunk(4)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states)


@torch.no_grad()
def test_the_lstm_encoder_is_the_formula() -> None:
    method = made("lstm")
    weights = method.state_dict()
    x = weights["prompt"] / method.spec.rms
    for layer in range(2):
        forward = one_direction(weights, f"l{layer}", x)
        backward = one_direction(weights, f"l{layer}_reverse", x.flip(0)).flip(0)
        x = torch.cat([forward, backward], 1)
    wanted = linear(weights, "outer", linear(weights, "inner", x).clamp(min=0))
    given = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert_close(given[0], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_mlp_encoder_is_the_formula() -> None:
    method = made("mlp")
    weights = method.state_dict()
    hidden = linear(weights, "inner", weights["prompt"] / method.spec.rms).clamp(min=0)
    given = method(batch("llama", slots=P), torch.zeros(0)).embeds
    assert_close(given[0], linear(weights, "outer", hidden), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("encoder", "network"), [("lstm", 4 * (H * H // 2 + H * H // 4 + H)), ("mlp", 0)])
def test_training_has_as_many_parameters_as_the_paper_says(encoder: str, network: int) -> None:
    """l*d + LSTM + 2(d^2 + d); an LSTM has 4 gates of input, state and two biases, 2 directions, 2 layers."""
    recurrent = 2 * 2 * 4 * (H // 2) * (H + H // 2 + 2) if network else 0
    assert sum(p.numel() for p in made(encoder).parameters()) == P * H + recurrent + 2 * (H * H + H)


def test_bert_base_has_the_numbers_of_the_paper_and_stores_the_vectors_alone() -> None:
    """Nine pseudo-tokens, as in the LAMA experiments: vectors, LSTM, MLP; all but the vectors are discarded."""
    spec = Spec("encoder", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64)
    method = find("p_tuning")(spec, Start(torch.randn(9, 768)))
    assert sum(p.numel() for p in method.parameters()) == 6_912 + 7_090_176 + 1_181_184
    assert sum(p.numel() for p in method.fold().parameters()) == 6_912


TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "FEATURE_EXTRACTION"}


def other(name: str) -> nn.Module:
    config = peft.PromptEncoderConfig(
        task_type=TASKS[name],
        num_virtual_tokens=P,
        num_transformer_submodules=1,
        token_dim=H,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=H // 2,
        encoder_num_layers=2,
        encoder_dropout=0.0,
    )
    return peft.get_peft_model(model(name), config).eval()


def run_peft(theirs: nn.Module, data: Batch) -> Tensor:
    decoder = {} if data.decoder is None else {"decoder_input_ids": data.decoder.input_ids}
    result: Tensor = theirs(input_ids=data.input_ids[:, P:], attention_mask=data.mask[:, P:].long(), **decoder).logits
    return result


@pytest.mark.parametrize("name", TASKS)
def test_logits_and_gradients_equal_those_of_peft(name: str) -> None:
    frozen, data, theirs = backbone(name), batch(name, slots=P, first=0), other(name)
    method = find("p_tuning")(frozen.spec, start(frozen))
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.copy_(method.prompt / frozen.spec.rms)
    encoder.lstm_head.load_state_dict(method.lstm.state_dict())
    encoder.mlp_head[0].load_state_dict(method.inner.state_dict())
    encoder.mlp_head[2].load_state_dict(method.outer.state_dict())
    inside = data.mask if data.decoder is None else data.decoder.mask
    ours = answer(frozen, data, method(data, frozen.tokens(data.input_ids)))[inside]
    wanted = run_peft(theirs, data)[inside]
    assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    ours.square().mean().backward()
    wanted.square().mean().backward()
    assert_close(method.outer.weight.grad, encoder.mlp_head[2].weight.grad, atol=1e-5, rtol=1e-4)
    assert_close(method.prompt.grad * frozen.spec.rms, encoder.embedding.weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_what_peft_stores_is_a_prompt_here(name: str) -> None:
    frozen, data, theirs = backbone(name), batch(name, slots=P, first=0), other(name)
    stored = theirs.get_prompt_embedding_to_save("default")
    folded = find("prompt_tuning")(frozen.spec, Start(stored.float()))
    inside = data.mask if data.decoder is None else data.decoder.mask
    ours = answer(frozen, data, folded(data, frozen.tokens(data.input_ids)))[inside]
    assert_close(ours, run_peft(theirs, data)[inside], atol=1e-5, rtol=1e-5)


def test_a_template_may_have_pieces_between_anchors_and_the_encoder_is_not_in_the_file() -> None:
    cloze = {"template": "{soft:1}{text} ?{soft:2}{mask} .{soft:1}"}
    prompt = speakers.prompt("bert", "p_tuning", task=cloze)
    example = speakers.examples("verbalizer")[0]
    row, reader = prompt.row(example, labelled=False), prompt.backbone.tokenizer
    shown = [
        f"<{slot}>" if slot != TEXT else reader.convert_ids_to_tokens(i)
        for i, slot in zip(row.ids, row.slots, strict=True)
    ]
    words = reader.tokenize(str(example.fields["text"]))
    assert shown == ["[CLS]", "<0>", *words, "?", "<1>", "<2>", "[MASK]", ".", "<3>", "[SEP]"]
    artifact = Artifact.of(prompt.eval(), {}, {})
    assert artifact.method_tensors().keys() == {"prompt"}
    (ours,), (theirs,) = (made.predict([example]) for made in (artifact.bind(speakers.speaker("bert")), prompt))
    assert ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_vectors_may_stand_anywhere_in_the_text() -> None:
    frozen, method = backbone("bert"), find("p_tuning")(backbone("bert").spec, start(backbone("bert")))
    data = batch("bert", slots=P)
    slots = torch.full_like(data.slots, TEXT)
    slots[:, [0, 2, 5, 8]] = torch.tensor([2, 0, 1, 3])
    scattered = Batch(data.input_ids, data.mask, slots)
    given = method.fold()(scattered, frozen.tokens(data.input_ids))
    with torch.no_grad():
        embedded = frozen.tokens(data.input_ids).clone()
        embedded[:, [2, 5, 0, 8]] = method.encode()
        wanted = frozen.model(inputs_embeds=embedded, attention_mask=data.mask.long()).logits
    assert_close(answer(frozen, scattered, given)[data.mask], wanted[data.mask], atol=1e-5, rtol=1e-5)
