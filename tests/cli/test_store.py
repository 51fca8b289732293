"""The store from the command line, and references wherever a prompt file is asked for."""

import shutil

import pytest
from tiny_prompts import write

from softprompt.cli import main
from softprompt.store import Store

VERBS = ["ls", "show", "publish", "alias", "rollback", "rm", "restore", "verify", "repair", "gc"]
VERBS += ["export", "import", "push", "pull"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty store, and two prompt files in the folder above it."""
    monkeypatch.setenv("SOFTPROMPT_STORE", str(tmp_path / "store"))
    for seed in (1, 2):
        write(tmp_path, seed, accuracy=0.7 + seed / 10)
    return tmp_path


@pytest.fixture
def full(sp, place):
    """Both published as `sentiment`, the first in production."""
    for seed, more in ((1, ["--alias", "prod"]), (2, ["--parent", "transfer=sentiment@1", "--note", "longer"])):
        assert sp("store", "publish", place / f"prompt-{seed}.safetensors", "sentiment", *more).code == 0
    return place


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_json_option(verb, capsys):
    assert main(["store", verb, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_the_summaries_are_not_cut(capsys):
    assert main(["store", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert text.count("...") == 1


def test_an_empty_store_says_how_to_begin(sp, place):
    answer = sp("store", "ls")
    assert (answer.code, answer.out) == (0, "")
    assert "next: softprompt store publish RUN NAME" in answer.err
    assert sp("store", "ls", "--json").json == {"store": str(place / "store"), "prompts": []}


def test_publishing_says_what_it_is_called_and_what_to_do_next(sp, place):
    file = place / "prompt-1.safetensors"
    first = sp("store", "publish", file, "sentiment", "--alias", "prod")
    assert first.out == "sentiment@1 (prod): published\n"
    assert "next: softprompt predict sentiment@1 FILE --model M" in first.err
    assert "content was there already" in sp("store", "publish", file, "sentiment").out
    again = sp("store", "publish", file, "sentiment", "--json").json
    assert (again["reference"], again["new"], again["aliases"]) == ("sentiment@1", False, ["prod"])


def test_ls_lists_searches_and_says_where_nothing_is_found(sp, full):
    assert "sentiment@2" in sp("store", "ls").out
    assert "accuracy 0.900 ±0.050 (n=100)" in sp("store", "ls").out
    assert "sentiment@1" not in sp("store", "ls").out
    every = sp("store", "ls", "--all", "--where", "accuracy<0.85", "--json").json
    assert [one["reference"] for one in every["prompts"]] == ["sentiment@1"]
    assert "nothing like that" in sp("store", "ls", "nowhere").err
    assert sp("store", "ls", "--where", "acuracy>1").err.startswith("SP-E615")
    assert [one["reference"] for one in sp("store", "ls", "--parent", "sentiment@1", "--json").json["prompts"]] == [
        "sentiment@2"
    ]


def test_a_long_list_is_cut_and_says_so(sp, full, monkeypatch):
    monkeypatch.setattr("softprompt.cli.store.SHOWN", 1)
    assert "and 1 more (--json lists all)" in sp("store", "ls", "--all").out


def test_show_prints_card_lineage_and_versions(sp, full):
    text = sp("store", "show", "sentiment").out
    for part in ("sentiment@2", "1 (prod), 2", "longer", "sentiment@1 (transfer)", "prompt_tuning, length 2", "llama"):
        assert part in text
    assert "made into sentiment@2" in sp("store", "show", "sentiment@prod").out
    found = sp("store", "show", "sentiment@prod", "--json").json
    assert (found["children"], found["versions"], found["card"]["method"]["length"]) == (["sentiment@2"], [1, 2], 2)


def test_an_alias_moves_rolls_back_and_is_deleted(sp, full):
    assert sp("store", "alias", "sentiment@2", "prod").out == "sentiment@prod is sentiment@2\n"
    assert sp("store", "rollback", "sentiment@prod").out == "sentiment@prod is sentiment@1 again\n"
    assert sp("store", "rollback", "sentiment@prod").err.startswith("SP-E616")
    assert sp("store", "alias", "sentiment@prod", "--delete").code == 0
    assert sp("store", "show", "sentiment@prod").err.startswith("SP-E612")
    for wrong in (("sentiment@1",), ("sentiment@1", "prod", "--delete")):
        assert sp("store", "alias", *wrong).err.startswith("SP-E252")


def test_what_is_removed_can_be_restored_until_gc(sp, full):
    assert sp("store", "rm", "sentiment@1").err.startswith("SP-E614")
    assert sp("store", "rm", "sentiment@2").out == "removed sentiment@2\n"
    assert "sentiment@2" in sp("store", "ls", "--removed").out
    assert sp("store", "gc").out.startswith("0 files")
    assert sp("store", "restore", "sentiment@2").out == "sentiment@2 is back\n"
    sp("store", "rm", "sentiment@2")
    assert "would go" in sp("store", "gc", "--older", "0", "--dry-run").out
    assert len(sp("store", "gc", "--older", "0", "--json").json["contents"]) == 1
    assert sp("store", "restore", "sentiment@2").err.startswith("SP-E613")


def test_damage_is_a_negative_answer_and_is_repaired(sp, full):
    path = Store().path("sentiment@2")
    path.chmod(0o644)
    path.write_bytes(b"gone")
    answer = sp("store", "verify")
    assert answer.code == 1
    assert "sentiment@2" in answer.out
    assert "next: softprompt store repair" in answer.err
    assert sp("store", "verify", "--json").json["problems"][0]["state"] == "damaged"
    assert sp("show", "sentiment@2").err.startswith("SP-E613")
    (full / "prompt-2.safetensors").rename(full / "elsewhere.safetensors")
    lost = sp("store", "repair")
    assert lost.code == 1
    assert "no copy was found" in lost.out
    mended = sp("store", "repair", "--from", full / "elsewhere.safetensors")
    assert (mended.code, "1 restored, 0 without a copy" in mended.out) == (0, True)
    assert sp("store", "verify").code == 0


def test_prompts_travel_between_stores(sp, full):
    out, other = full / "out", ["--store", str(full / "other")]
    assert "2 versions added" in sp("store", "export", out).out
    assert sp("store", "import", out, *other, "--json").json["added"] == ["sentiment@1", "sentiment@2"]
    assert "0 versions added, 2 there already" in sp("store", "push", f"file://{out}").out
    assert "sentiment@prod" in sp("store", "pull", f"file://{out}", "--store", full / "third").out
    assert sp("store", "pull", full / "nowhere").err.startswith("SP-E617")
    assert sp("store", "export", full / "one.safetensors", "sentiment@1").code == 0
    assert (full / "one.safetensors").read_bytes() == (full / "prompt-1.safetensors").read_bytes()
    assert sp("store", "export", full / "one.safetensors").err.startswith("SP-E252")


def test_a_reference_works_where_a_file_does_and_a_file_goes_first(sp, workplace, prompt, place):
    assert sp("store", "publish", "made", "real", "--alias", "prod").code == 0
    by_file = sp("predict", prompt, "test.csv", "--model", "llama", "--json").json
    for reference in ("real@prod", "store:real"):
        assert sp("predict", reference, "test.csv", "--model", "llama", "--json").json == by_file
    assert sp("evaluate", "real@1", "test.csv", "--model", "llama").code == 0
    assert sp("export", "real@1", place / "adapter", "--model", "llama").code == 0
    assert sp("show", "real@nobody").err.startswith("SP-E612")
    assert sp("show", "real").err.startswith("SP-E308")
    shutil.copy(place / "prompt-1.safetensors", workplace / "real@prod")
    try:
        assert sp("show", "real@prod", "--json").json["card"]["method"]["length"] == 2
    finally:
        (workplace / "real@prod").unlink()
