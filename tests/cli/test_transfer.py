"""`softprompt transfer` on the command line: tables, documents, and what to do next."""

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


def test_pretrain_leaves_a_prompt_to_start_from(sp, prompt, workplace):
    answer = sp("transfer", "pretrain", "train.csv", "--cap", "20", "--model", "llama", "--json", *SHORT[:4])
    assert answer.code == 0, answer.err
    assert answer.json["tasks"] == ["train"]
    assert sp("show", answer.json["prompt"]).code == 0


def test_mistakes_are_one_line_with_a_code(sp, prompt, workplace):
    assert "SP-E252" in sp("transfer", "run", "train.csv", "--from", prompt, "--combine", "sum").err
    assert "SP-E624" in sp("transfer", "distill", prompt, "--data", "train.csv", "--length", "4").err
    assert "SP-E621" in sp("transfer", "suggest", "train.csv", "--store", "empty", "--model", "llama").err
    assert "SP-E101" in sp("transfer", "suggest", "absent.csv", prompt).err
