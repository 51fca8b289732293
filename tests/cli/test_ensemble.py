"""`softprompt ensemble`: several files, one vote, and every number that it has to be compared with."""

import json

import pytest

SHORT = ("--epochs", "2", "--set", "method.length=4", "--set", "train.threads=1", "--test", "test.csv")


@pytest.fixture(scope="module")
def files(workplace, prompt) -> list[str]:
    """Three prompts of one task, of two methods and two lengths."""
    from softprompt.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for name, *options in (["second", "--set", "method.length=6"], ["third", "--method", "prefix"]):
            line = ["train", "train.csv", "--model", "llama", "--run", name, *SHORT, *options]
            assert main([*line, "--set", "task.head=verbalizer"]) == 0
    return [prompt, "second/prompt.safetensors", "third/prompt.safetensors"]


def test_members_score_as_they_do_alone_and_the_best_is_not_called_honest(sp, files):
    found = sp("ensemble", *files, "--data", "test.csv", "--json").json
    alone = [sp("evaluate", file, "test.csv", "--no-baselines", "--json").json["scores"][0] for file in files]
    assert found["members"] == alone
    values = [one["value"] for one in alone]
    assert found["mean_member"]["value"] == pytest.approx(sum(values) / 3)
    assert found["mean_member"]["error"] >= sum(one["error"] for one in alone) / 3 - 1e-9
    assert found["best_member"]["value"] == max(values)
    assert found["best_member"]["chosen_on"] == "these examples"
    assert (found["vote"], found["metric"]) == ("majority", found["scores"][0]["name"])
    answer = sp("ensemble", *files, "--data", "test.csv")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[1].startswith("ensemble of 3, by majority")
    assert [line.split()[0] for line in lines[2:5]] == files
    assert all("±" in line for line in lines[1:7])
    assert "not an honest number" in lines[6]


def test_its_answers_can_be_written_and_need_no_labels(sp, files, workplace):
    members = [sp("predict", file, "test.csv").out.splitlines() for file in files]
    wanted = [max(set(votes), key=votes.count) for votes in zip(*members, strict=True)]
    assert sp("ensemble", *files, "--data", "test.csv", "--no-score").out.splitlines() == wanted
    (workplace / "texts.txt").write_text("w10 w11\nw50 w51\n")
    document = sp("ensemble", *files, "--data", "texts.txt", "--no-score", "--vote", "mean", "--json").json
    assert all(abs(sum(one["scores"].values()) - 1) < 1e-4 for one in document["answers"])
    answer = sp("ensemble", *files, "--data", "test.csv", "--output", "joint.jsonl", "--json")
    assert "scores" in answer.json
    lines = (workplace / "joint.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == wanted


def test_prompts_that_do_not_belong_together_are_refused(sp, files, workplace):
    line = ["--data", "test.csv"]
    assert sp("ensemble", files[0], *line).err.startswith("SP-E270")
    assert sp("ensemble", *files, *line, "--model", "bert").err.startswith("SP-E320")
    assert sp("ensemble", *files, *line, "--vote", "median").err.startswith("SP-E271")
    assert sp("train", "train.csv", "--model", "bert", "--method", "prefix", "--run", "other", *SHORT).code == 0
    assert sp("ensemble", files[0], "other/prompt.safetensors", *line).err.startswith("SP-E320")
