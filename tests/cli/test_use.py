"""The whole way: train, show, predict, evaluate, generate, export and import, with people and with programs."""

import csv
import json

import pytest
import yaml

SHORT = ("--epochs", "1", "--set", "method.length=4", "--set", "train.threads=1", "--test", "test.csv")
CLASSES = {"w5", "w6"}


def test_training_says_what_was_inferred_and_what_came_of_it(sp):
    answer = sp("train", "train.csv", "--model", "llama", *SHORT)
    assert answer.code == 0
    assert "label: 'label'" in answer.err
    assert "recipe (repeats this run):" in answer.err
    assert "dev" in answer.err
    lines = answer.out.splitlines()
    named = ["this prompt", "majority", "zero-shot", "untrained prompt", "linear probe"]
    assert [line[:16].strip() for line in lines[1:6]] == named
    assert all("±" in line and "(n=20)" in line for line in lines[1:6])
    assert "trained 128 numbers" in answer.out
    assert "softprompt predict runs/train-prompt_tuning-1/prompt.safetensors FILE --model llama" in answer.err


def test_every_run_gets_a_folder_of_its_own(sp, workplace):
    line = ("train", "train.csv", "--model", "bert", "--method", "prefix", "--json", *SHORT)
    made = [sp(*line).json["run"] for _ in range(2)]
    assert made == ["runs/train-prefix-1", "runs/train-prefix-2"]
    assert all((workplace / run / "prompt.safetensors").is_file() for run in made)


def test_the_document_of_a_run_holds_a_recipe_that_repeats_it(sp, workplace):
    first = sp("train", "train.csv", "--model", "llama", "--run", "one", "--json", *SHORT)
    assert first.code == 0
    assert first.json["bytes"] == (workplace / first.json["prompt"]).stat().st_size
    (workplace / "again.yaml").write_text(yaml.safe_dump(first.json["recipe"]))
    second = sp("train", "again.yaml", "--run", "two", "--json")
    assert second.json["scores"] == first.json["scores"]
    files = [(workplace / run / "prompt.safetensors").read_bytes() for run in ("one", "two")]
    assert files[0] == files[1]


def test_flags_override_a_recipe_and_set_overrides_flags(sp, workplace):
    text = "backbone: {name: bert}\ndata: {train: train.csv, test: test.csv}\nmethod: {length: 4}\ntrain: {seed: 1}\n"
    (workplace / "some.yaml").write_text(text)
    line = ["train", "some.yaml", "--model", "llama", "--seed", "2", "--epochs", "9", "--set", "train.epochs=1"]
    recipe = sp(*line, "--run", "overridden", "--json").json["recipe"]
    assert (recipe["backbone"]["name"], recipe["method"]["length"]) == ("llama", 4)
    assert (recipe["train"]["seed"], recipe["train"]["epochs"]) == (2, 1)


def test_show_prints_the_card(sp, prompt):
    answer = sp("show", prompt)
    assert answer.code == 0
    for part in ("classification of 2: w5, w6", "prompt_tuning, length 4", "llama", "sha256", "linear probe", "±"):
        assert part in answer.out
    found = sp("show", prompt, "--json").json
    assert found["card"]["task"]["labels"] == ["w5", "w6"]
    assert (found["numbers"], len(found["sha256"])) == (128, 64)


def test_predictions_come_one_a_line_and_in_order(sp, prompt, workplace):
    with (workplace / "test.csv").open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    from_table = sp("predict", prompt, "test.csv")
    assert from_table.code == 0
    answers = from_table.out.splitlines()
    assert len(answers) == len(texts)
    assert set(answers) <= CLASSES
    plain = "\n".join(texts) + "\n"
    assert sp("predict", prompt, text=plain).out.splitlines() == answers
    objects = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    assert sp("predict", prompt, text=objects).out.splitlines() == answers
    document = sp("predict", prompt, "test.csv", "--json", "--batch-size", "3").json
    assert [one["answer"] for one in document["answers"]] == answers
    assert all(abs(sum(one["scores"].values()) - 1) < 1e-4 for one in document["answers"])


@pytest.mark.parametrize("name, read", [("out.txt", str), ("out.jsonl", lambda line: json.loads(line)["answer"])])
def test_answers_can_be_written_to_a_file(sp, prompt, workplace, name, read):
    expected = sp("predict", prompt, "test.csv").out.splitlines()
    answer = sp("predict", prompt, "test.csv", "--output", name)
    assert (answer.code, answer.out) == (0, "")
    assert [read(line) for line in (workplace / name).read_text().splitlines()] == expected


def test_a_file_without_the_column_is_refused(sp, prompt, workplace):
    (workplace / "other.jsonl").write_text('{"txt": "w10 w11"}\n')
    answer = sp("predict", prompt, "other.jsonl")
    assert answer.code == 2
    assert answer.err.startswith("SP-E112 other.jsonl")
    assert "did you mean" not in answer.out


def test_evaluation_repeats_the_numbers_of_the_run(sp, prompt, workplace):
    report = json.loads((workplace / "made" / "report.json").read_text())
    found = sp("evaluate", prompt, "test.csv", "--json").json
    assert found["scores"] == report["scores"]
    assert found["baselines"]["zero-shot"] == report["baselines"]["zero-shot"]
    answer = sp("evaluate", prompt, "test.csv", "--no-baselines", "--model", "llama")
    assert answer.code == 0
    assert "±" in answer.out
    assert "majority" not in answer.out


def test_a_shared_file_that_does_not_say_where_its_model_is_asks_for_it(sp, prompt, workplace, tmp_path, monkeypatch):
    shared = tmp_path / "shared.safetensors"
    shared.write_bytes((workplace / prompt).read_bytes())
    assert sp("predict", shared, "test.csv", "--model", "llama").code == 0
    monkeypatch.chdir(tmp_path)
    from softprompt.cli import main

    assert main(["predict", str(shared), str(workplace / "test.csv")]) == 2


def test_a_prompt_that_writes_can_be_sampled(sp, workplace):
    rows = [f"w{i} w{i + 1} w{i + 2},w{i + 3} w{i + 4} w{i + 5} w{i + 6} w{i + 7}" for i in range(10, 40)]
    (workplace / "write.csv").write_text("\n".join(["question,answer", *rows]) + "\n")
    assert sp("train", "write.csv", "--model", "llama", "--run", "writer", *SHORT[:-2]).code == 0
    file = "writer/prompt.safetensors"
    once = sp("generate", file, "w10 w11", "--max-new-tokens", "3")
    assert once.code == 0
    assert len(once.out.split()) <= 3
    assert len(once.out.splitlines()) == 1
    sampled = [sp("generate", file, "w10", "--temperature", "2", "--seed", seed, "--json").json for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    wrong = sp("generate", file, "w10", "--top-k", "5")
    assert wrong.code == 2
    assert "SP-E244" in wrong.err
    piped = sp("generate", file, "--max-new-tokens", "2", text="w10\nw11\n")
    assert len(piped.out.splitlines()) == 2


def test_tags_are_printed_for_words_split_at_white_space(sp, workplace):
    rows = [f"w{i}\tO\nw11\tB-X\nw12\tI-X\n\nw{i}\tO\nw21\tO\n" for i in range(20, 50)]
    (workplace / "tags.conll").write_text("\n".join(rows))
    run = sp("train", "tags.conll", "--model", "bert", "--method", "prefix", "--run", "tagger", *SHORT[:-2])
    assert run.code == 0, run.err
    answer = sp("predict", "tagger/prompt.safetensors", text="w10 w11 w12\nw20\n")
    assert [len(line.split()) for line in answer.out.splitlines()] == [3, 1]


def test_a_prompt_goes_to_peft_and_back(sp, prompt):
    pytest.importorskip("peft")
    assert sp("export", prompt, "adapter", "--to", "peft", "--model", "llama").code == 0
    template = "{soft}{text}\nanswer: {mask}"
    line = ["import", "adapter", "back.safetensors", "--model", "llama", "--label", "w5", "--label", "w6=w6"]
    answer = sp(*line, "--template", template, "--json")
    assert answer.json == {
        "folder": "adapter", "prompt": "back.safetensors", "method": "prompt_tuning", "task": "classification",
    }  # fmt: skip
    before = sp("predict", prompt, "test.csv").out
    assert sp("predict", "back.safetensors", "test.csv", "--model", "llama").out == before
