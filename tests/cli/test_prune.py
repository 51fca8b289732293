"""`softprompt prune` says what was tried and what was kept, and goes on where it was stopped."""

import json


def test_every_mask_is_listed_and_the_prompt_is_ready_to_use(sp, prompt, workplace):
    answer = sp("prune", "made", "--ratios", "0.5", "--pieces", "4", "--out", "small")
    assert answer.code == 0
    rows = [line.split() for line in answer.out.splitlines()]
    assert [row[0] for row in rows[1:3]] == ["whole", "tokens"]
    assert sum("chosen" in row for row in rows) == 1
    assert "this prompt" in answer.out
    assert "softprompt show small/prompt.safetensors" in answer.err
    assert sp("predict", "small/prompt.safetensors", "test.csv", "--model", "llama").code == 0


def test_the_document_holds_every_candidate(sp, prompt, workplace):
    answer = sp("prune", "made", "--ratios", "0.5", "--pieces", "1", "--json")
    assert answer.code == 0
    assert [one["level"] for one in answer.json["candidates"]] == ["whole", "tokens"]
    report = json.loads((workplace / "made" / "pruned" / "report.json").read_text())
    assert report["candidates"] == answer.json["candidates"]


def test_ratios_that_are_no_numbers_are_refused(sp, prompt):
    answer = sp("prune", "made", "--ratios", "half")
    assert answer.code == 2
    assert "SP-E204" in answer.err
