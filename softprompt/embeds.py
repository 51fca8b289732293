"""A prompt as embeddings, for engines that take a whole input as vectors (vLLM's `prompt_embeds`).

What such an engine reads is one vector for every token; so only prompts that are vectors in the text, the same for
every text, and that answer in text, can be handed to it. A folder holds them and a page that says what stands around.
"""

from collections.abc import Iterator
from pathlib import Path

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.backbones.embedded import locate
from softprompt.canary import rows
from softprompt.container import write_foreign
from softprompt.core import Injection
from softprompt.errors import ArtifactError, Unsupported
from softprompt.files import write_atomically
from softprompt.pieces import Piece
from softprompt.prompt import Prompt

# Families whose answers from embeddings were compared with ours (tests/test_embeds.py); any other is not hoped for.
FAMILIES = {"llama", "mistral", "qwen3"}
PAGE = """# A prompt for {model}, as vectors

`prompt.safetensors` holds its {count} vectors as `prompt_embeds`, float32 [{count}, {hidden}]. An engine that takes
embeddings has to be given those of the whole input:

```python
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL = {model!r}
tokenizer = AutoTokenizer.from_pretrained(MODEL)
table = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).get_input_embeddings()
soft = load_file("prompt.safetensors")["prompt_embeds"]


def words(ids):
    return table(torch.tensor(ids, dtype=torch.long)).detach()


def text(form, columns, end=""):
    return words(tokenizer(form.format_map(columns).rstrip(end), add_special_tokens=False).input_ids)


def embeds(columns):
    return torch.cat([{parts}])
```

With vLLM, in an environment of its own:

```python
from vllm import LLM, SamplingParams

engine = LLM(MODEL, dtype={dtype!r}, enable_prompt_embeds=True)
inputs = [{{"prompt_embeds": embeds({columns!r})}}]
settings = SamplingParams(temperature=0, max_tokens={most}, stop_token_ids={ends})
print(engine.generate(inputs, settings)[0].outputs[0].text.strip())
```

A text that is too long for the model is not cut here.
"""


def export_embeds(artifact: Artifact, folder: str | Path, backbone: Backbone) -> None:
    """Write `prompt.safetensors` and a README.md that says how to use it.

    Raises `Unsupported` SP-E429 for a prompt that vectors in the text cannot say or that needs more than a model's own
    weights, and `ArtifactError` SP-E320 for a backbone that is not the prompt's.
    """
    for key, value in artifact.card.recipe.get("backbone", {}).items():
        if key in ("adapter", "quantize") and value not in (None, "none"):
            raise refused(f"a prompt on a backbone with backbone.{key}={value}", "one on a model's own weights")
    prompt, place = artifact.bind(backbone), Path(folder)
    made = vectors(prompt).embeds
    assert made is not None
    soft = made[0].detach().float().cpu().contiguous()
    page = PAGE.format(
        model=str(Path(model).absolute()) if Path(model := locate(backbone.name)).exists() else model,
        count=len(soft),
        hidden=soft.shape[1],
        parts=", ".join(parts(prompt)),
        dtype=artifact.card.backbone.dtype,
        columns=dict.fromkeys(prompt.template.fields, "..."),
        most=prompt.task.new_tokens,
        ends=ends(prompt),
    )
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"a folder that cannot be made: {error.strerror}"
        raise ArtifactError("SP-E338", found, "a folder", "choose another", where=str(place)) from error
    write_foreign(place / "prompt.safetensors", {"prompt_embeds": soft})
    write_atomically(place / "README.md", page.encode())


def parts(prompt: Prompt) -> Iterator[str]:
    """What the input is put together from, as expressions of the page: `Template.write` in other words."""
    template, form, soft = prompt.template, "", 0
    pieces = template.pieces
    if not any(piece.kind == "bos" for piece in pieces):
        pieces = [Piece("bos"), *pieces]
    for piece in [*pieces, Piece("soft")]:  # the last one ends the last text
        if piece.kind in ("text", "field"):
            form += f"{{{piece.value}}}" if piece.kind == "field" else piece.value.replace("{", "{{").replace("}", "}}")
            continue
        if form:
            spaces = ", ' '" if piece.kind == "mask" else ""  # they belong to the answer's first token
            yield f"text({form!r}, columns{spaces})"
        form = ""
        if piece.kind == "soft" and piece.count:
            yield f"soft[{soft}:{soft + piece.count}]"
            soft += piece.count
        elif piece.kind == "bos" and template.front:
            yield f"words({template.front})"
        elif piece.kind == "sep":
            yield f"words([{template.tokenizer.sep_token_id}])"


def ends(prompt: Prompt) -> list[int]:
    """The tokens that end an answer, as `generate` knows them."""
    named = getattr(prompt.backbone.model.generation_config, "eos_token_id", None)
    found = {prompt.template.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return sorted(found - {None})


def vectors(prompt: Prompt) -> Injection:
    """What the method puts into every text alike; raises `Unsupported` SP-E429 for anything but vectors in the text."""
    check_family(prompt.backbone)
    if prompt.task.kind != "generation":
        raise refused(f"a prompt for {prompt.task.kind}", "one that answers in text: others have a head of their own")
    made, others = (prompt.inject(prompt.batch(part)) for part in (rows(prompt), rows(prompt)[:1]))
    more = [name for name, value in vars(made).items() if value is not None and name not in ("embeds", "penalty")]
    if more:
        raise refused(f"a prompt with {' and '.join(more)}", "vectors in the text alone")
    if made.embeds is None or others.embeds is None or len(made.embeds) != 1 or not made.embeds.equal(others.embeds):
        raise refused("vectors that depend on the text", "the same vectors for every text")
    return made


def check_family(backbone: Backbone) -> None:
    """Raise `Unsupported` SP-E429 for a family whose answers from embeddings were not compared with ours."""
    family = backbone.model.config.model_type
    if backbone.spec.kind != "causal" or family not in FAMILIES:
        raise refused(f"a prompt for {family}", f"one of {', '.join(sorted(FAMILIES))}")


def refused(found: str, expected: str) -> Unsupported:
    """The error for what an engine of embeddings cannot do."""
    return Unsupported("SP-E429", found, f"for vLLM: {expected}", "serve it with the built-in engine: softprompt serve")
