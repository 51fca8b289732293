"""The backbone, the prompts and the requests of serve.py."""

from typing import Any

import peft
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from train import SIZES as TRAINED
from train import pad, texts

from softprompt.backbones import wrap
from softprompt.core import Start
from softprompt.heads import Head, LanguageModel, Verbalizer
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task, without_prompt
from softprompt.serve.contract import Answer, Request, Sampling
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.limits import Limits
from softprompt.template import Template

SIZES = {
    "15M": TRAINED["15M"],
    "60M": {
        "vocab_size": 8192,
        "hidden_size": 640,
        "num_hidden_layers": 10,
        "num_attention_heads": 10,
        "intermediate_size": 1920,
    },
}
TASKS, ALIVE, NEW, TEXT = 64, 32, 16, 32
WORDS = ((20,), (21,))


def tokenizer(size: int) -> Any:
    """Word i is token i, but for the two special ones."""
    special = {0: "<pad>", 3: "<unk>"}
    made = Tokenizer(models.WordLevel({special.get(i, f"w{i}"): i for i in range(size)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>"
    )


def build_model(size: str) -> Any:
    """A random Llama whose answers do not end early."""
    torch.manual_seed(0)
    made: Any = tf.LlamaForCausalLM(tf.LlamaConfig(tie_word_embeddings=True, **SIZES[size])).eval()
    made.generation_config.eos_token_id = None
    return made


class Bench:
    """One backbone, the prompts of all tasks on it, and the same prompts in PEFT."""

    def __init__(self, size: str, m: int, scored: int) -> None:
        vocabulary = SIZES[size]["vocab_size"]
        model = build_model(size)
        self.size, self.m, self.scored = size, m, scored
        self.backbone = wrap(model, tokenizer(vocabulary))
        g = torch.Generator().manual_seed(1)
        spec = self.backbone.spec
        self.vectors = [torch.randn(m, spec.hidden, generator=g) * spec.rms for _ in range(TASKS)]
        self.texts = texts(scored, TEXT, vocabulary, seed=2)
        self.bare = build_model(size)  # PEFT's own copy
        self.peft: Any = None
        for i, vectors in enumerate(self.vectors):
            config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=m)
            if self.peft is None:
                self.peft = peft.get_peft_model(self.bare, config, adapter_name=f"t{i}")
            else:
                self.peft.add_adapter(f"t{i}", config)
            self.peft.prompt_encoder[f"t{i}"].embedding.weight.data.copy_(vectors)
        self.peft.eval()

    def prompt(self, i: int, head: Head, task: Task) -> Prompt:
        """Task i."""
        method = PromptTuning(self.backbone.spec, Start(self.vectors[i]))
        mask = "" if task.kind == "generation" else "{mask}"
        return Prompt(self.backbone, method, head, Template("{soft}{text}" + mask, self.backbone, length=self.m), task)

    def engine(self, kind: str, tasks: int) -> PromptEngine:
        """An engine that serves tasks t0, t1... and `bare`, the same question to the backbone alone."""
        engine = PromptEngine(self.backbone, Limits(rows=ALIVE, waiting=self.scored))
        for i in range(tasks):
            if kind == "write":
                made = self.prompt(i, LanguageModel(), Task("generation", new_tokens=NEW))
            else:
                made = self.prompt(i, Verbalizer([list(word) for word in WORDS]), Task("classification", ("a", "b")))
            engine.add(f"t{i}", "1", made)
        engine.add("bare", "1", without_prompt(made))
        return engine

    def text(self, i: int) -> dict[str, str]:
        """Text i as a client sends it."""
        return {"text": " ".join(f"w{token}" for token in self.texts[i].tolist())}

    def ask(self, engine: PromptEngine, kind: Any, count: int, tasks: int) -> list[Answer]:
        """Requests all at once, task by turns (of 0 tasks: the backbone alone); their answers."""
        sampling = Sampling(max_new_tokens=NEW)
        requests = [
            Request(f"t{i % tasks}" if tasks else "bare", self.text(i), kind, sampling=sampling) for i in range(count)
        ]
        return [handle.result() for handle in [engine.submit(request) for request in requests]]

    @torch.inference_mode()
    def peft_scores(self) -> list[list[float]]:
        """Log-probabilities of the class words, task by task."""
        found: list[list[float]] = [[]] * self.scored
        for task in range(TASKS):
            self.peft.set_adapter(f"t{task}")
            mine = range(task, self.scored, TASKS)
            rows = [self.texts[i] for i in mine]
            mask = pad([torch.ones_like(row) for row in rows], 0)
            logits = self.peft(input_ids=pad(rows, 0), attention_mask=mask).logits
            last = logits[torch.arange(len(rows)), self.m + mask.sum(1) - 1]
            logs = last[:, [word[0] for word in WORDS]].log_softmax(-1)
            for i, row in zip(mine, logs.tolist(), strict=True):
                found[i] = row
        return found

    @torch.inference_mode()
    def peft_written(self, tasks: int) -> list[str]:
        """New tokens, request by request."""
        found = []
        for i in range(ALIVE):
            self.peft.set_adapter(f"t{i % tasks}")
            ids = self.texts[i][None]
            made = self.peft.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0
            )
            found.append(" ".join(f"w{token}" for token in made[0, -NEW:].tolist()))
        return found
