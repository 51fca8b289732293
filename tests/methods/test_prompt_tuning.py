"""Prompt tuning equals PEFT's."""

import peft
import pytest
import torch
from families import H, P, answer, backbone, batch, model, real, start
from torch.testing import assert_close

from softprompt.methods import find

TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "FEATURE_EXTRACTION"}


@pytest.mark.parametrize("name", TASKS)
def test_logits_and_gradients_equal_those_of_peft(name: str) -> None:
    frozen, data = backbone(name), batch(name, slots=P, first=0)  # PEFT puts the prompt in front, before [CLS] too
    method = find("prompt_tuning")(frozen.spec, start(frozen))
    config = peft.PromptTuningConfig(
        task_type=TASKS[name], num_virtual_tokens=P, num_transformer_submodules=1, token_dim=H
    )
    other = peft.get_peft_model(model(name), config).eval()
    table = other.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        table.copy_(method.prompt)
    decoder = {} if data.decoder is None else {"decoder_input_ids": data.decoder.input_ids}
    theirs = other(input_ids=data.input_ids[:, P:], attention_mask=data.mask[:, P:].long(), **decoder).logits
    ours = answer(frozen, data, method(data, frozen.tokens(data.input_ids)))
    inside = real(data)
    assert_close(ours[inside], theirs[inside], atol=1e-5, rtol=1e-5)
    ours[inside].square().mean().backward()
    theirs[inside].square().mean().backward()
    assert_close(method.prompt.grad, table.grad, atol=1e-5, rtol=1e-4)


def test_the_prompt_is_a_copy_of_its_start() -> None:
    begin = start(backbone("llama"))
    method = find("prompt_tuning")(backbone("llama").spec, begin)
    with torch.no_grad():
        method.prompt.zero_()
    assert begin.embeds.abs().sum() > 0
