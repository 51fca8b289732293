"""Serving 64 tasks from one backbone: the engine with prompts, the engine without, and Hugging Face PEFT.

    python benchmarks/serve.py [--rounds 3] [--lengths 20,50,100] [--only scoring] [--quick] [--save]

A random Llama of 15 million parameters, one thread, CPU time of the whole process (tokenising included for the engine,
not for PEFT, which is given ids), the ways taking turns in random order, medians, and ratios within a round. Answers
are compared before anything is timed: scores with PEFT's to 1e-4, written tokens with single requests and with PEFT's
one by one. `--save` writes benchmarks/results/serve.json.

scoring   256 requests (--quick: 64) of 64 tasks, two class words; PEFT: `set_adapter`, then a padded batch a task
decode    32 requests of 32 tasks at once, 16 tokens each; PEFT: `set_adapter` and `generate`, request by request
tasks     the same 32 requests, of 1, 8 and 32 tasks
"""

import argparse
import json
import platform
import random
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers
from train import SIZES, build_model, pad, texts

from softprompt.backbones import wrap
from softprompt.core import Start
from softprompt.heads import Head, LanguageModel, Verbalizer
from softprompt.methods.prompt_tuning import PromptTuning
from softprompt.prompt import Prompt, Task, without_prompt
from softprompt.serve.contract import Answer, Request, Sampling
from softprompt.serve.engine import PromptEngine
from softprompt.serve.engine.scheduler import Limits
from softprompt.template import Template

warnings.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[1]
TASKS, ALIVE, NEW, TEXT = 64, 32, 16, 32
WORDS = ((20,), (21,))
Way = Callable[[], Any]


def tokenizer(size: int) -> Any:
    """Word i is token i, but for the two special ones."""
    special = {0: "<pad>", 3: "<unk>"}
    made = Tokenizer(models.WordLevel({special.get(i, f"w{i}"): i for i in range(size)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>"
    )


class Bench:
    """One backbone, the prompts of all tasks on it, and the same prompts in PEFT."""

    def __init__(self, m: int, scored: int) -> None:
        vocabulary = SIZES["15M"]["vocab_size"]
        model = build_model("15M")
        model.generation_config.eos_token_id = None
        self.m, self.scored = m, scored
        self.backbone = wrap(model, tokenizer(vocabulary))
        g = torch.Generator().manual_seed(1)
        spec = self.backbone.spec
        self.vectors = [torch.randn(m, spec.hidden, generator=g) * spec.rms for _ in range(TASKS)]
        self.texts = texts(scored, TEXT, vocabulary, seed=2)
        self.bare = build_model("15M")  # PEFT's own copy
        self.bare.generation_config.eos_token_id = None
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


def taking_turns(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every way, by round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample(sorted(ways), len(ways)):
            begin = time.process_time()
            ways[name]()
            found[name].append(time.process_time() - begin)
    return found


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Median of the ratios within rounds, with the lowest and the highest."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(each), 3),
        "lowest": round(min(each), 3),
        "highest": round(max(each), 3),
    }


def seconds(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians."""
    return {name: round(statistics.median(times), 4) for name, times in found.items()}


def scoring(bench: Bench, rounds: int) -> dict[str, Any]:
    """Mixed scoring of 64 tasks."""
    with bench.engine("label", TASKS) as ours:
        answers, right = bench.ask(ours, "label", bench.scored, TASKS), bench.peft_scores()
        off = max(
            abs(torch.tensor(list(a.scored.probabilities.values())).log() - torch.tensor(r)).max().item()
            for a, r in zip(answers, right, strict=True)
            if a.scored is not None
        )
        assert off < 1e-4, f"scores differ from PEFT's by {off}"
        ways: dict[str, Way] = {
            "engine": lambda: bench.ask(ours, "label", bench.scored, TASKS),
            "no prompt": lambda: bench.ask(ours, "label", bench.scored, 0),
            "peft": bench.peft_scores,
        }
        found = taking_turns(ways, rounds)
    return {
        "m": bench.m,
        "requests": bench.scored,
        "cpu seconds": seconds(found),
        "no prompt / engine": ratio(found["no prompt"], found["engine"]),
        "peft / engine": ratio(found["peft"], found["engine"]),
        "largest difference of log-probabilities from peft": off,
    }


def decode(bench: Bench, rounds: int) -> dict[str, Any]:
    """Mixed decoding at concurrency 32, and of 1 to 64 tasks."""
    with bench.engine("write", ALIVE) as ours:
        together = [answer.texts[0] for answer in bench.ask(ours, "write", ALIVE, ALIVE)]
        sampling = Sampling(max_new_tokens=NEW)
        single = [
            ours.submit(Request(f"t{i}", bench.text(i), "write", sampling=sampling)).result().texts[0]
            for i in range(ALIVE)
        ]
        assert together == single, "an answer depends on its company"
        same = sum(a == b for a, b in zip(together, bench.peft_written(ALIVE), strict=True))
        counts = (1, 8, 32)
        ways: dict[str, Way] = {
            "no prompt": lambda: bench.ask(ours, "write", ALIVE, 0),
            "peft": lambda: bench.peft_written(ALIVE),
            **{f"engine, {n} tasks": lambda n=n: bench.ask(ours, "write", ALIVE, n) for n in counts},  # type: ignore[misc]
        }
        found = taking_turns(ways, rounds)
    mixed = found["engine, 32 tasks"]
    return {
        "m": bench.m,
        "cpu seconds": seconds(found),
        "no prompt / engine": ratio(found["no prompt"], mixed),
        "peft / engine": ratio(found["peft"], mixed),
        "1 task / 32 tasks": ratio(found["engine, 1 tasks"], mixed),
        "tokens per cpu second": round(ALIVE * NEW / statistics.median(mixed), 1),
        "answers equal to single requests": f"{ALIVE} of {ALIVE}",
        "answers equal to peft": f"{same} of {ALIVE}",
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--lengths", default="20,50,100", help="prompt vectors, by commas")
    arguments.add_argument("--only", choices=["scoring", "decode"])
    arguments.add_argument("--quick", action="store_true", help="64 requests to be scored instead of 256")
    arguments.add_argument("--save", action="store_true", help="write benchmarks/results/serve.json")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    results: dict[str, Any] = {"scoring": [], "decode": []}
    for m in map(int, chosen.lengths.split(",")):
        bench = Bench(m, 64 if chosen.quick else 256)
        for name, measure in (("scoring", scoring), ("decode", decode)):
            if chosen.only in (None, name):
                results[name].append(measure(bench, chosen.rounds))
                print(name, json.dumps(results[name][-1], indent=1), flush=True)
    results["made by"] = {
        "command": shlex.join(["python", *sys.argv]),
        "rounds": chosen.rounds,
        "machine": f"{platform.machine()}, 1 thread, CPU time",
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "peft": peft.__version__,
    }
    if chosen.save:
        path = ROOT / "benchmarks" / "results" / "serve.json"
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
