"""`softprompt transfer` on the command line: tables, documents, and what to do next."""

from softprompt.cli.transfer import several
from softprompt.transfer.paired import Compared

SHORT = ("--set", "train.steps=2", "--set", "train.threads=1", "--set", "data.test=test.csv")


def test_suggest_ranks_says_what_follows_and_takes_the_model_of_the_source(sp, prompt, workplace):
    answer = sp("transfer", "suggest", "train.csv", "made", "--steps", "1", *SHORT)
    assert answer.code == 0, answer.err
    assert "cosine of pairs" in answer.out
    assert "made" in answer.out
    assert "softprompt t" in answer.err
    assert ("nothing helps" in answer.out) == ("softprompt train train.csv" in answer.err)


def test_run_reports_the_control_the_test_and_the_steps_of_the_source(sp, prompt, workplace):
    answer = sp("transfer", "run", "train.csv", "--from", prompt, "--run", "moved", *SHORT)
    assert answer.code == 0, answer.err
    rows = [line.split()[0] for line in answer.out.splitlines()]
    assert "from-made" in rows
    assert "scratch" in rows
    assert "steps that sources had before" in answer.out
    again = sp("transfer", "run", "train.csv", "--from", prompt, "--run", "moved", "--json", *SHORT)
    assert again.json["paired_test"]["verdict"] in ("gain", "no gain", "harm")
    assert again.json["keep"] in ("scratch", "from-made")
    assert sp("show", again.json["prompt"]).code == 0


def test_sources_come_from_a_store_by_name_or_all(sp, prompt, workplace):
    assert sp("store", "publish", "made", "base", "--store", "kept").code == 0
    for given in ([], ["base@1"]):
        answer = sp("transfer", "suggest", "train.csv", *given, "--store", "kept", "--steps", "1", "--json", *SHORT)
        assert [rank["source"] for rank in answer.json["ranks"]] == ["base@1"]
    assert "base@1" in sp("transfer", "tree", "--store", "kept").out


def test_distill_shows_teacher_student_and_control(sp, prompt, workplace):
    answer = sp("transfer", "distill", prompt, "--data", "train.csv", "--length", "2", *SHORT)
    assert answer.code == 0, answer.err
    for text in ("teacher, 4 vectors", "distilled, 2 vectors", "trained alone, 2 vectors", "from its teacher"):
        assert text in answer.out


def test_a_text_or_a_folder_can_teach_too_and_the_model_can_be_tuned_first(sp, prompt, workplace):
    (workplace / "shown.txt").write_text("w7 w8\n\nw12 w13 w9 w6\n{text} w9 {mask}\n")
    given = ("--data", "train.csv", "--model", "llama", "--length", "2", "--set", "task.head=verbalizer", *SHORT)
    for teacher, title in (("shown.txt", "a text"), ("llama", "a tuned model"), ("full", "the fully tuned model")):
        answer = sp("transfer", "distill", teacher, *given)
        assert answer.code == 0, answer.err
        assert f"teacher, {title}" in answer.out
    assert sp("transfer", "distill", "shown.txt", *given, "--json").json["lengths"] == {"teacher": None, "student": 2}


def test_the_next_step_names_what_was_used_and_only_true_parents(sp, prompt, workplace, monkeypatch):
    assert sp("store", "publish", "made", "first", "--store", "own").code == 0
    answer = sp("transfer", "suggest", "train.csv", "--store", "own", "--steps", "1", *SHORT)
    assert "softprompt train train.csv --model" in answer.err or "--from first@1" in answer.err
    assert "next: softprompt store show first@1 --store own" in sp("transfer", "tree", "--store", "own").err
    given = ("transfer", "run", "train.csv", "--from", "first@1", "--store", "own", "--run", "parented", *SHORT)
    monkeypatch.setattr(Compared, "verdict", "no gain")
    scratch = sp(*given)
    assert "publish parented/runs/scratch/prompt.safetensors NAME --store own" in scratch.err, "it has no parent"
    monkeypatch.setattr(Compared, "verdict", "gain")
    moved = sp(*given)
    line = "publish parented/runs/from-first@1/prompt.safetensors NAME --parent transfer=first@1 --store own"
    assert line in moved.err


def test_sources_that_are_left_out_or_given_twice_are_named(sp, prompt, workplace):
    short = ("--model", "llama", "--set", "train.steps=1", "--set", "train.threads=1", "--set", "method.length=3")
    assert sp("train", "train.csv", *short, "--run", "short").code == 0
    answer = sp("transfer", "run", "train.csv", "--from", prompt, "--from", "short", *SHORT)
    assert "left out: short: SP-E231" in answer.out
    assert "trained on the target's own data" in answer.out
    twice = sp("transfer", "run", "train.csv", "--from", prompt, "--from", "made", *SHORT)
    assert "SP-E852" in twice.err
    assert "SP-E852" in sp("transfer", "pretrain", "train.csv", "./train.csv", "--model", "llama").err


def test_matrix_leaves_a_table_and_a_page_and_asks_for_matplotlib_before_it_trains(sp, prompt, workplace, monkeypatch):
    given = ("transfer", "matrix", "train.csv", "test.csv", "--model", "llama", "--run", "all", *SHORT[:4])
    with monkeypatch.context() as without:
        without.setattr("softprompt.transfer.matrix.drawable", lambda: False)
        assert "SP-E625" in sp(*given, "--plot", "m.png").err
        assert not (workplace / "all").exists(), "nothing was trained in vain"
    answer = sp(*given, "--set", "method.length=4")
    assert answer.code == 0, answer.err
    assert "all/matrix.csv, all/matrix.html, all/matrix.png" in answer.out
    assert "next: softprompt transfer run TARGET --from all/sources/" in answer.err
    assert (workplace / "all" / "matrix.html").read_text().startswith("<!doctype html>")


def test_tasks_whose_files_share_a_name_are_called_by_their_folders(workplace):
    for folder in ("good", "bad"):
        (workplace / folder).mkdir()
        (workplace / folder / "train.csv").write_bytes((workplace / "train.csv").read_bytes())
    data = [str(workplace / name) for name in ("good/train.csv", "bad/train.csv", "test.csv")]
    assert list(several(data, "llama", None)) == ["good", "bad", "test"]


def test_pretrain_leaves_a_prompt_to_start_from(sp, prompt, workplace):
    answer = sp("transfer", "pretrain", "train.csv", "--cap", "20", "--model", "llama", "--json", *SHORT[:4])
    assert answer.code == 0, answer.err
    assert answer.json["tasks"] == ["train"]
    assert sp("show", answer.json["prompt"]).code == 0


def test_mistakes_are_one_line_with_a_code(sp, prompt, workplace):
    assert "SP-E252" in sp("transfer", "run", "train.csv", "--from", prompt, "--combine", "sum").err
    assert "SP-E252" in sp("transfer", "suggest", "train.csv", prompt, "--by", "luck").err
    assert "SP-E624" in sp("transfer", "distill", prompt, "--data", "train.csv", "--length", "4").err
    assert "SP-E621" in sp("transfer", "suggest", "train.csv", "--store", "empty", "--model", "llama").err
    assert "SP-E101" in sp("transfer", "suggest", "absent.csv", prompt).err
