"""`softprompt explain` and `softprompt compress`: tables, documents, a page, and prompts that other commands take."""

import pytest

SHORT = ("--epochs", "2", "--set", "method.length=4", "--set", "train.threads=1", "--test", "test.csv")


@pytest.fixture(scope="module")
def other(workplace) -> str:
    """A prompt whose vectors do not stand in the text."""
    from softprompt.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        assert main(["train", "train.csv", "--model", "llama", "--run", "keys", "--method", "prefix", *SHORT]) == 0
    return "keys/prompt.safetensors"


def test_the_table_says_what_each_vector_does_and_the_page_is_there(sp, prompt, workplace):
    answer = sp("explain", prompt, "train.csv", "--rows", "6", "--control-steps", "2", "--out", "page.html")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split()[:4] == ["vector", "nearest", "cosine", "norm"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "3"]
    assert "no evidence of what a prompt means" in answer.out
    assert (workplace / "page.html").read_text().startswith("<!doctype html>")
    assert "softprompt compress made/prompt.safetensors train.csv" in answer.err


def test_without_data_the_document_holds_what_needs_none(sp, prompt, workplace):
    found = sp("explain", prompt, "--json").json
    assert len(found["neighbours"]) == 4
    assert "effects" not in found
    assert (workplace / found["page"]).exists()


def test_a_swap_is_measured_vector_by_vector(sp, prompt):
    found = sp("explain", prompt, "test.csv", "--swap", prompt, "--rows", "4", "--control-steps", "0", "--json").json
    assert [one["at"] for one in found["swap"]] == [0, 1, 2, 3, -1]
    losses = {round(one["loss"], 6) for one in found["swap"]}
    assert losses == {round(found["effects"]["whole"]["loss"], 6)}, "its own vectors in their own places"
    assert "control" not in found


def test_a_smaller_prompt_works_everywhere(sp, prompt, workplace):
    answer = sp("compress", prompt, "train.csv", "--test", "test.csv", "--tolerance", "1", "--out", "tiny.safetensors")
    assert answer.code == 0, answer.err
    assert sum("chosen" in line for line in answer.out.splitlines()) == 1
    assert "before" in answer.out
    assert "a predictor from one pass would keep: knee" in answer.out
    for command in (
        ["show"],
        ["evaluate", "test.csv", "--model", "llama"],
        ["predict", "test.csv", "--model", "llama"],
    ):
        again = sp(command[0], "tiny.safetensors", *command[1:])
        assert again.code == 0, again.err
    card = sp("show", "tiny.safetensors", "--json").json["card"]
    assert card["parents"] == ["prompt.safetensors"]
    assert card["report"]["chosen"]["how"].endswith("int8")


@pytest.mark.parametrize("how", ["prune", "merge", "rank", "int8", "pieces"])
def test_every_way_writes_a_prompt_and_scores_it(sp, prompt, workplace, how):
    found = sp(
        "compress", prompt, "train.csv", "--how", how, "--keep", "2", "--out", f"{how}.safetensors", "--json"
    ).json
    assert found["chosen"]["how"] == how
    assert found["bytes"] == (workplace / f"{how}.safetensors").stat().st_size
    scored = sp("evaluate", f"{how}.safetensors", "train.csv", "--model", "llama", "--no-baselines", "--json").json
    assert scored["scores"][0]["value"] == found["chosen"]["dev"]["score"]["value"]


def test_a_prediction_decides_the_size(sp, prompt):
    found = sp("compress", prompt, "test.csv", "--how", "prune", "--by", "effective-rank", "--json").json
    assert found["chosen"]["keep"] == found["predicted"]["effective-rank"]


@pytest.mark.parametrize("command", ["explain", "compress"])
def test_prompts_of_keys_and_values_are_refused_by_code(sp, other, command):
    answer = sp(command, other, "test.csv")
    assert answer.code == 2
    assert "SP-E428" in answer.err


def test_a_way_that_does_not_exist_is_refused(sp, prompt):
    answer = sp("compress", prompt, "test.csv", "--how", "zip")
    assert answer.code == 2
    assert "SP-E204" in answer.err
