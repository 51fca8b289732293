"""PEFT and softprompt answer alike: what one writes, the other reads, and what cannot be equal is refused."""

import ast
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import families
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from tokenizers_tiny import words
from torch import Tensor

import softprompt
from softprompt.adapter import read_config
from softprompt.artifact import Artifact
from softprompt.backbones import Backbone, wrap
from softprompt.core import Example, Injection
from softprompt.errors import ArtifactError, RecipeError
from softprompt.peft import PREFIXES, PROMPTS, TASKS, export_peft, import_peft
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.untrained import build

P = 4
FOUR = ["llama", "gpt2", "t5", "bert"]
TEXTS = ["w7 w9 w11 w20", "w30 w31", "w8"]
CLASSES = {"good": "w50", "bad": "w60"}


@cache
def frozen(name: str) -> Backbone:
    """A tiny backbone whose tokenizer puts BOS, CLS, SEP or EOS where its family does."""
    tokenizer = words(families.V, pad=int("roberta" in name))
    front = {"gpt2": "", "t5": "", "mt5": ""}.get(name, "w6")
    back = "</s>" if families.backbone(name).spec.kind in ("encoder", "seq2seq") else ""
    frame = " ".join(part for part in (front, "$A", back) if part)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=frame, special_tokens=[("w6", 6), ("</s>", 2)]
    )
    tokenizer.mask_token = "w4"
    return wrap(families.model(name), tokenizer, name)


def trained(
    name: str, method: str = "prompt_tuning", template: str = "", head: str = "verbalizer", **options: Any
) -> Prompt:
    """A prompt that does something, as if it had been trained."""
    soft = "" if method == "prefix" else f"{{soft:{P}}}"
    recipe = make_recipe(
        {
            "method": {"name": method, "length": P, "options": options},
            "task": {"kind": "classification", "head": head, "template": template or f"{soft}{{text}} {{mask}}"}
            | {"words": CLASSES},
            "init": {"kind": "random"},
        }
    )
    prompt = build(Plan(recipe, [], [], [], tuple(CLASSES), {}), frozen(name)).eval()
    with torch.no_grad():
        for weight in prompt.method.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return prompt


def artifact(prompt: Prompt) -> Artifact:
    return Artifact.of(prompt, {}, {})


def ours(prompt: Prompt) -> tuple[Tensor, Any]:
    """Logits at every place [B, T, V] of padded rows, and the batch."""
    batch = prompt.batch([prompt.row(Example({"text": text}), labelled=False) for text in TEXTS])
    side = batch.input_ids if batch.decoder is None else batch.decoder.input_ids
    with torch.no_grad():
        logits = prompt.backbone(batch, prompt.inject(batch), columns=torch.arange(side.shape[1])).logits
    return logits, batch


def theirs(model: Any, batch: Any) -> Tensor:
    """PEFT's logits for the same rows, without the tokens that its virtual tokens stand for."""
    config = model.peft_config["default"]
    front = 0 if config.peft_type == "PREFIX_TUNING" else config.num_virtual_tokens
    given = {"input_ids": batch.input_ids[:, front:], "attention_mask": batch.mask[:, front:].long()}
    if batch.decoder is not None:
        given["decoder_input_ids"] = batch.decoder.input_ids
    with torch.no_grad():
        return model(**given).logits


def gap(prompt: Prompt, model: Any) -> float:
    """The largest difference between both at real tokens."""
    mine, batch = ours(prompt)
    real = (batch if batch.decoder is None else batch.decoder).mask
    return (theirs(model, batch) - mine)[real].abs().max().item()


def effect(prompt: Prompt) -> float:
    """How much the prompt changes, so that equality cannot come from two prompts that do nothing."""
    mine, batch = ours(prompt)
    side = batch.input_ids if batch.decoder is None else batch.decoder.input_ids
    empty = torch.zeros_like(prompt.method.prompt)[None] if prompt.method.slots else None
    with torch.no_grad():
        bare = prompt.backbone(batch, Injection(embeds=empty), columns=torch.arange(side.shape[1])).logits
    return (bare - mine).abs().max().item()


def reach(name: str, method: str) -> dict[str, Any]:
    """PEFT reaches the decoder's self-attention alone."""
    return {"reach": "decoder"} if method == "prefix" and name in families.SEQ2SEQ else {}


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_an_exported_prompt_answers_in_peft_as_it_does_here(name: str, method: str, tmp_path: Path) -> None:
    if method == "prefix" and name not in PREFIXES:
        with pytest.raises(ArtifactError, match="SP-E334"):
            export_peft(artifact(trained(name, method, **reach(name, method))), tmp_path)
        return
    prompt = trained(name, method, **reach(name, method))
    assert effect(prompt) > 1e-2
    export_peft(artifact(prompt), tmp_path, frozen(name))
    assert gap(prompt, peft.PeftModel.from_pretrained(families.model(name), tmp_path)) < 1e-5


@pytest.mark.parametrize("name", FOUR)
def test_a_folded_p_tuning_prompt_is_exported_as_prompt_tuning(name: str, tmp_path: Path) -> None:
    prompt = trained(name, "p_tuning", template=f"{{soft:{P}}}{{bos}}{{text}} {{mask}}")
    notes = export_peft(artifact(prompt), tmp_path)  # {bos} says where it stands, so no backbone is needed
    assert json.loads((tmp_path / "adapter_config.json").read_text())["num_virtual_tokens"] == P
    assert gap(prompt, peft.PeftModel.from_pretrained(families.model(name), tmp_path)) < 1e-5
    assert [note for note in notes if "virtual" in note] == []


def test_fixed_tokens_in_front_of_the_prompt_become_virtual_tokens(tmp_path: Path) -> None:
    prompt = trained("llama", template="w5 w7 {soft:4}{text} {mask}")
    notes = export_peft(artifact(prompt), tmp_path, frozen("llama"))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["num_virtual_tokens"] == P + 3
    assert "'w6 w5 w7'" in notes[0]
    assert gap(prompt, peft.PeftModel.from_pretrained(families.model("llama"), tmp_path)) < 1e-5


def test_the_notes_name_what_peft_has_no_place_for(tmp_path: Path) -> None:
    notes = " ".join(export_peft(artifact(trained("gpt2")), tmp_path, frozen("gpt2")))
    assert "template" in notes
    assert "verbalizer" in notes
    assert "good, bad" in notes


def test_a_trained_head_is_named_as_left_behind(tmp_path: Path) -> None:
    notes = export_peft(artifact(trained("bert", "prefix", "{text}", "classifier")), tmp_path)
    assert any("trained head 'classifier'" in note for note in notes)


ADAPTERS: dict[str, Callable[..., Any]] = {
    "prompt": lambda **given: peft.PromptTuningConfig(**given),
    "p-mlp": lambda **given: peft.PromptEncoderConfig(**given, encoder_hidden_size=16),
    "p-lstm": lambda **given: peft.PromptEncoderConfig(
        **given, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
    ),
    "prefix": lambda **given: peft.PrefixTuningConfig(**given),
    "projected": lambda **given: peft.PrefixTuningConfig(**given, prefix_projection=True, encoder_hidden_size=16),
}


def adapter(name: str, kind: str, folder: Path, **given: Any) -> Any:
    """A PEFT model with a random prompt, saved in `folder`."""
    config = ADAPTERS[kind](task_type=TASKS[frozen(name).spec.kind], num_virtual_tokens=P, **given)
    model = peft.get_peft_model(families.model(name), config).eval()
    with torch.no_grad():
        for weight in model.prompt_encoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", sorted(ADAPTERS))
@pytest.mark.parametrize("name", FOUR)
def test_an_imported_adapter_answers_here_as_it_does_in_peft(name: str, kind: str, tmp_path: Path) -> None:
    model = adapter(name, kind, tmp_path / "adapter")
    made = import_peft(tmp_path / "adapter", frozen(name), labels=tuple(CLASSES), words=CLASSES)
    made.save(tmp_path / "prompt.safetensors")
    prompt = Artifact.load(tmp_path / "prompt.safetensors").bind(frozen(name))
    assert effect(prompt) > 1e-2
    assert gap(prompt, model) < 1e-5
    assert made.card.parents == ("adapter",)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_without_labels_an_imported_adapter_writes(name: str, tmp_path: Path) -> None:
    adapter(name, "prompt", tmp_path)
    made = import_peft(tmp_path, frozen(name))
    assert (made.card.task.kind, made.card.head.name) == ("generation", "lm")
    assert isinstance(made.bind(frozen(name)).predict([Example({"text": "w7"})], max_new_tokens=2)[0].answer, str)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
@pytest.mark.parametrize("name", FOUR)
def test_import_then_export_keeps_every_bit_that_peft_reads(name: str, kind: str, tmp_path: Path) -> None:
    adapter(name, kind, tmp_path / "one")
    export_peft(import_peft(tmp_path / "one", frozen(name), labels=tuple(CLASSES), words=CLASSES), tmp_path / "two")
    one, two = (
        load_file(tmp_path / part / "adapter_model.safetensors")["prompt_embeddings"] for part in ("one", "two")
    )
    assert torch.equal(one[:P], two)


def test_an_even_number_of_decoder_layers_shares_keys_in_peft_and_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(families.T5, "num_layers", 4)
    tokenizer = frozen("t5").tokenizer
    even = wrap(families.model("t5"), tokenizer, "t5")
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P)
    model = peft.get_peft_model(families.model("t5"), config).eval()
    model.save_pretrained(tmp_path / "shared")
    made = import_peft(tmp_path / "shared", even, labels=tuple(CLASSES), words=CLASSES)
    assert gap(made.bind(even), model) < 1e-5
    export_peft(made, tmp_path / "again")  # layers that share keys have equal ones, which PEFT can hold
    again = peft.PeftModel.from_pretrained(families.model("t5"), tmp_path / "again")
    assert gap(made.bind(even), again) < 1e-5
    made.tensors["method.stacks.decoder.prefix"][0] += 1
    with pytest.raises(ArtifactError, match=r"SP-E336.*odd number"):
        export_peft(made, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "code, name, method, template, options",
    [
        ("SP-E335", "gpt2", "prompt_tuning", "{text} {soft:4} {mask}", {}),
        ("SP-E335", "gpt2", "p_tuning", "{soft:2}{text}{soft:2} {mask}", {}),
        ("SP-E335", "llama", "prompt_tuning", "", {}),  # BOS or not: only the tokenizer knows
        ("SP-E336", "llama", "prefix", "", {"layers": "1-2"}),
        ("SP-E336", "t5", "prefix", "", {}),
        ("SP-E336", "t5", "prefix", "", {"reach": "encoder"}),
        ("SP-E336", "t5", "prefix", "", {"reach": "cross"}),
        ("SP-E334", "bart", "prefix", "", {"reach": "decoder"}),
    ],
)
def test_what_peft_cannot_do_alike_is_not_exported(
    code: str, name: str, method: str, template: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made = artifact(trained(name, method, template, **options))
    with pytest.raises(ArtifactError) as caught:
        export_peft(made, tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_another_backbone_is_refused_on_export(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="SP-E320"):
        export_peft(artifact(trained("gpt2")), tmp_path, frozen("llama"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change keys of an adapter's configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "code, changes",
    [
        ("SP-E331", {"peft_type": "LORA"}),
        ("SP-E331", {"peft_type": ["PROMPT_TUNING"]}),
        ("SP-E330", {"num_virtual_tokens": "4"}),
        ("SP-E330", {"num_virtual_tokens": 0}),
        ("SP-E333", {"num_virtual_tokens": 3}),
        ("SP-E333", {"token_dim": 64}),
        ("SP-E333", {"num_transformer_submodules": 2}),
        ("SP-E333", {"task_type": "SEQ_CLS"}),
        ("SP-E333", {"task_type": None}),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_its_own_code(
    code: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    adapter("gpt2", "prompt", tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(ArtifactError) as caught:
        import_peft(tmp_path, frozen("gpt2"))
    assert caught.value.code == code


@pytest.mark.parametrize("changes", [{"num_attention_heads": 2}, {"num_layers": 6}, {"token_dim": 8}])
def test_a_prefix_that_would_be_cut_otherwise_is_refused(changes: dict[str, int], tmp_path: Path) -> None:
    adapter("gpt2", "prefix", tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(ArtifactError, match="SP-E333"):
        import_peft(tmp_path, frozen("gpt2"))


def test_an_adapter_for_a_larger_model_is_refused(tmp_path: Path) -> None:
    adapter("gpt2", "prompt", tmp_path)
    save_file({"prompt_embeddings": torch.zeros(P, 64)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match=r"SP-E333.*\(4, 64\).*\(4, 32\)"):
        import_peft(tmp_path, frozen("gpt2"))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    adapter("gpt2", "prompt", tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(ArtifactError, match=r"SP-E332.*pickle"):
        import_peft(tmp_path, frozen("gpt2"))
    (tmp_path / "adapter_model.bin").rename(weights)  # under the right name it is still a pickle
    with pytest.raises(ArtifactError, match=r"SP-E303.*save the adapter again"):
        import_peft(tmp_path, frozen("gpt2"))


@pytest.mark.parametrize(
    "code, tensors",
    [
        ("SP-E332", {"prompt_embeddings": torch.zeros(P, 32), "base_model.score.weight": torch.zeros(2, 32)}),
        ("SP-E332", {"other": torch.zeros(P, 32)}),
        ("SP-E305", {"prompt_embeddings": torch.full((P, 32), torch.nan)}),
    ],
)
def test_tensors_that_are_not_one_finite_prompt_are_refused(
    code: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    adapter("gpt2", "prompt", tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ArtifactError, match=code):
        import_peft(tmp_path, frozen("gpt2"))


@pytest.mark.parametrize("size", [0, 7, 40, -1])
def test_a_cut_file_is_refused(size: int, tmp_path: Path) -> None:
    adapter("gpt2", "prompt", tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ArtifactError, match="SP-E302"):
        import_peft(tmp_path, frozen("gpt2"))


def test_a_prefix_for_bart_counts_positions_otherwise_and_is_refused(tmp_path: Path) -> None:
    adapter("bart", "prefix", tmp_path)
    with pytest.raises(ArtifactError, match="SP-E334"):
        import_peft(tmp_path, frozen("bart"))


def test_tasks_that_need_a_trained_head_are_refused(tmp_path: Path) -> None:
    adapter("bert", "prompt", tmp_path)
    with pytest.raises(ArtifactError, match="SP-E337"):
        import_peft(tmp_path, frozen("bert"), kind="tagging", labels=("O",))
    with pytest.raises(RecipeError, match="SP-E208"):  # without labels it would have to write
        import_peft(tmp_path, frozen("bert"))


def test_a_folder_without_an_adapter_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="SP-E308"):
        import_peft(tmp_path, frozen("gpt2"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4) | st.sampled_from(["PROMPT_TUNING", "LORA"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["peft_type", "num_virtual_tokens", "token_dim", "task_type"]), JSON) | JSON)
def test_any_json_is_read_or_refused_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "adapter_config.json").write_text(json.dumps(content))
    try:
        assert read_config(folder).num_virtual_tokens >= 1
    except ArtifactError as error:
        assert error.code in ("SP-E330", "SP-E331")  # noqa: PT017 - either way is right


@pytest.mark.parametrize(
    "text", ["", "{", '{"peft_type": "LORA", "peft_type": "PROMPT_TUNING"}', '{"token_dim": NaN}', "\xff"]
)
def test_text_that_is_not_strict_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match="SP-E330"):
        read_config(tmp_path)


def test_peft_is_imported_only_where_its_lora_is_used_and_only_then() -> None:
    users = {"joint.py", "lora.py"}
    for path in Path(softprompt.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in tree.body if path.name in users else ast.walk(tree):  # theirs stand inside functions
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.split(".")[0] == "peft" for name in names), path
