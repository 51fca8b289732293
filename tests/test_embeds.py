"""A prompt exported as embeddings writes, under transformers' own `generate`, what it writes here."""

import json
import re

import pytest
import tiny_runs
import torch

from softprompt.artifact import Artifact
from softprompt.cli import main
from softprompt.core import Example, Start
from softprompt.embeds import FAMILIES, export_embeds
from softprompt.errors import Unsupported
from softprompt.heads import LanguageModel, Verbalizer
from softprompt.methods.idpg import IDPG
from softprompt.methods.prefix import PrefixTuning
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task
from softprompt.template import Template

P = 5
TEXTS = ["w7 w9 w11 w20", "w30 {w31}", "w8"]
FORMS = ["{soft} {text}", "{text} w9 {soft:2} {{w4}} {soft:3}{bos}{text} {mask}"]


def save(frozen, path, form=FORMS[0], method=PromptTuning, head=None, task=None):
    torch.manual_seed(3)
    made = method(frozen.spec, Start(torch.randn(P, frozen.spec.hidden) * frozen.spec.rms))
    template = Template(form, frozen, length=P, prefix=0 if "{soft" in form else P)
    prompt = Prompt(frozen, made, head or LanguageModel(), template, task or Task("generation", new_tokens=8)).eval()
    Artifact.of(prompt, {}, {}).save(path)
    return prompt


def export(path, out, model):
    return main(["export", str(path), str(out), "--to", "vllm", "--model", str(model)])


def test_a_prompt_that_needs_more_than_the_models_own_weights_is_refused(tmp_path):
    frozen = tiny_runs.open_model(tmp_path)
    for key, value in (("adapter", "lora"), ("quantize", "int8")):
        Artifact.of(save(frozen, tmp_path / "p.safetensors"), {"backbone": {key: value}}, {}).save(
            tmp_path / f"{key}.s"
        )
        with pytest.raises(Unsupported, match="SP-E429"):
            export_embeds(Artifact.load(tmp_path / f"{key}.s"), tmp_path / key, frozen)
        assert not (tmp_path / key).exists()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_page_of_an_export_makes_the_inputs_that_write_what_the_prompt_writes(family, tmp_path, monkeypatch):
    frozen = tiny_runs.open_model(tmp_path, family)
    for number, form in enumerate(FORMS):
        path, out = tmp_path / f"{number}.safetensors", tmp_path / f"out{number}"
        prompt = save(frozen, path, form)
        assert export(path, out, tmp_path / family) == 0
        monkeypatch.chdir(out)
        page = (out / "README.md").read_text()
        code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        assert "enable_prompt_embeds=True" in code[1]
        ends = json.loads(re.search(r"stop_token_ids=(.*?)\)", code[1])[1])
        said = {}
        exec(code[0], said)
        for text in TEXTS:
            given = said["embeds"]({"text": text})
            batch = prompt.batch([prompt.template.encode(Example({"text": text}))])
            assert given.equal(frozen.embed(batch, prompt.inject(batch))[0])
            with torch.no_grad():
                made = frozen.model.generate(
                    inputs_embeds=given[None], max_new_tokens=8, do_sample=False, eos_token_id=ends
                )
            words = said["tokenizer"].decode(made[0], skip_special_tokens=True)
            assert words.strip() == prompt.predict([Example({"text": text})])[0].answer.strip()
            assert words.strip()


def test_what_vectors_cannot_say_is_refused_in_one_line_that_names_our_engine(tmp_path, capsys):
    frozen = tiny_runs.open_model(tmp_path)
    labels = Task("classification", ("a", "b"))
    cases = {
        "prefix": {"method": PrefixTuning, "form": "{text}"},
        "depend": {"method": IDPG},
        "classification": {"head": Verbalizer([[10], [11]]), "task": labels, "form": "{soft} {text} {mask}"},
    }
    for number, (words, case) in enumerate(cases.items()):
        save(frozen, tmp_path / "p.safetensors", **case)
        assert export(tmp_path / "p.safetensors", tmp_path / f"no{number}", tmp_path / "llama") == 2
        told = capsys.readouterr().err
        assert "SP-E429" in told
        assert words in told
        assert "built-in engine" in told
        assert not (tmp_path / f"no{number}").exists()
    gpt2 = tiny_runs.open_model(tmp_path, "gpt2")
    save(gpt2, tmp_path / "p.safetensors")
    assert export(tmp_path / "p.safetensors", tmp_path / "no", tmp_path / "gpt2") == 2
    assert "SP-E429" in capsys.readouterr().err
