"""`softprompt transfer project`, `meta`, `ppt` and `multitask`: tables, documents, and what to do next."""

import random

import pytest
import tiny_runs

from softprompt.artifact import Artifact
from softprompt.plan import make_plan
from softprompt.untrained import build

SHORT = (
    "--set",
    "train.steps=1",
    "--set",
    "train.threads=1",
    "--set",
    "data.test=test.csv",
    "--set",
    "method.length=4",
)
LLAMA = ("--model", "llama")


@pytest.fixture(scope="module")
def tasks(workplace) -> list[str]:
    for name, seed in (("one.csv", 61), ("two.csv", 62)):
        tiny_runs.write_rows(workplace / name, 40, seed=seed)
    return ["one.csv", "two.csv"]


def test_meta_leaves_a_start_and_says_on_what_it_was_judged(sp, tasks):
    answer = sp("transfer", "meta", *tasks, *LLAMA, "--rounds", "2", "--steps", "1", *SHORT, "--run", "met")
    assert answer.code == 0, answer.err
    assert "from the learned one" in answer.out
    assert "of 2, which are the tasks that it was learned on" in answer.out
    assert "next: softprompt transfer run TARGET --from met/prompt.safetensors" in answer.err
    again = sp("transfer", "meta", *tasks, *LLAMA, "--rounds", "2", "--steps", "1", *SHORT, "--run", "met", "--json")
    assert again.json["dev_loss"].keys() == {"one", "two"}
    assert sp("show", again.json["prompt"]).code == 0
    assert "SP-E252" in sp("transfer", "meta", *tasks, "--rule", "maml").err


def test_ppt_reads_text_and_leaves_a_start(sp, workplace):
    rng = random.Random(0)

    def document() -> str:
        return " ".join(" ".join(f"w{rng.randint(10, 90)}" for _ in range(4)) + "." for _ in range(4))

    (workplace / "raw.txt").write_text("\n\n".join(document() for _ in range(14)))
    answer = sp("transfer", "ppt", "raw.txt", *LLAMA, "--count", "10", *SHORT)
    assert answer.code == 0, answer.err
    assert "dev loss" in answer.out
    assert "next: softprompt transfer run TARGET --from runs/raw-ppt-1/run/prompt.safetensors" in answer.err
    assert "SP-E715" in sp("transfer", "ppt", "raw.txt", *LLAMA, "--formats", "single").err
    assert "SP-E714" in sp("transfer", "ppt", "train.csv", *LLAMA).err


def test_multitask_shows_teachers_and_how_mpt_begins_there(sp, tasks):
    answer = sp("transfer", "multitask", *tasks, *LLAMA, "--steps", "1", *SHORT, "--run", "multi")
    assert answer.code == 0, answer.err
    assert "its teacher" in answer.out
    assert "--set method.name=mpt --set method.length=4" in answer.err


def test_project_moves_a_prompt_and_shows_its_controls(sp, prompt, workplace):
    tiny_runs.save_model(workplace, "gpt2")
    for model in ("llama", "gpt2"):
        backbone = tiny_runs.open_model(workplace, model)
        for seed in (1, 2):
            recipe = tiny_runs.recipe(workplace, f"train.seed={seed}", "init.kind=random", model=model)
            plan = make_plan(recipe, backbone)
            Artifact.of(build(plan, backbone), plan.recipe.shared(), {}).save(workplace / f"{model}-{seed}.safetensors")
    pairs = [part for i in (1, 2) for part in ("--pair", f"llama-{i}.safetensors,gpt2-{i}.safetensors")]
    given = ("--to", "gpt2", "--data", "train.csv", *SHORT)
    answer = sp("transfer", "project", prompt, *pairs, *given)
    assert answer.code == 0, answer.err
    for text in ("moved prompt", "untrained prompt", "mean of the pairs", "majority", "2 pairs"):
        assert text in answer.out
    assert "next: softprompt transfer run train.csv --from runs/train-project-1/prompt.safetensors" in answer.err
    assert "SP-E710" in sp("transfer", "project", prompt, "--pair", "one-llama", *given).err


def test_transprompt_shows_adapted_tasks_and_one_that_took_no_part(sp, tasks):
    given = ("--unseen", "train.csv", "--steps", "1", "--run", "similar", "--set", "task.head=verbalizer")
    answer = sp("transfer", "transprompt", *tasks, *LLAMA, *given, *SHORT)
    assert answer.code == 0, answer.err
    assert [line.split()[0] for line in answer.out.splitlines() if "gain" in line or "harm" in line] == ["one", "two"]
    assert "train, which took no part: dev loss" in answer.out
    assert "--from similar/prompt.safetensors" in answer.err


def test_ctpt_shows_what_was_found_and_what_it_took(sp, prompt):
    answer = sp("transfer", "ctpt", "train.csv", "--from", prompt, "--generations", "1", "--population", "3", *SHORT)
    assert answer.code == 0, answer.err
    for text in ("found prompt", "untrained prompt", "majority", "forwards only"):
        assert text in answer.out
    assert "next: softprompt evaluate runs/train-ctpt-1/prompt.safetensors TEST" in answer.err
