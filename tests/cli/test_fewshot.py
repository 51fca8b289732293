"""`softprompt train --few-shot` and `softprompt fewshot` on the command line."""

SHORT = ("--model", "llama", "--set", "method.length=2", "--set", "train.threads=1", "--set", "train.steps=2")


def test_several_samples_are_a_mean_with_its_spread(sp, workplace):
    answer = sp("train", "train.csv", "--test", "test.csv", "--few-shot", "3", "--seeds", "2", "--run", "few", *SHORT)
    assert answer.code == 0, answer.err
    for text in ("seed-13", "seed-21", "mean of 2 samples", "standard deviation"):
        assert text in answer.out
    again = sp(
        *("train", "train.csv", "--test", "test.csv", "--few-shot", "3", "--seeds", "2", "--run", "few", "--json"),
        *SHORT,
    )
    assert again.json["test"]["seeds"] == 2
    assert again.json["spread"]["lowest"] <= again.json["test"]["value"] <= again.json["spread"]["highest"]


def test_seeds_need_samples_and_no_other_seed(sp, workplace):
    for given in (("--seeds", "2"), ("--seeds", "2", "--few-shot", "3", "--seed", "1")):
        answer = sp("train", "train.csv", "--run", "none", *given, *SHORT)
        assert answer.code == 2
        assert "SP-E754" in answer.err
    assert not (workplace / "none").exists()


def test_pet_shows_patterns_their_vote_and_the_one_prompt(sp, workplace):
    patterns = ("--patterns", "{text} w1 {mask}", "--patterns", "{text} w2 {mask}")
    asked = ("train.csv", *patterns, "--unlabelled", "train.csv", "--few-shot", "3", "--run", "pet")
    answer = sp("fewshot", "pet", *asked, "--set", "data.test=test.csv", *SHORT)
    assert answer.code == 0, answer.err
    for text in ("pattern-1", "pattern-2", "their vote", "distilled", "were dev or test examples and left out"):
        assert text in answer.out
    told = sp("fewshot", "pet", *asked, "--set", "data.test=test.csv", "--json", *SHORT)
    assert told.json["left_out"] == 6
    assert sp("show", told.json["prompt"]).code == 0


def test_a_vote_over_sets_needs_demonstrations(sp, prompt, workplace):
    answer = sp("fewshot", "vote", "made")
    assert answer.code == 2
    assert "SP-E752" in answer.err
