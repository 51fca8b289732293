"""Commands under a launcher that starts several processes."""


def test_other_commands_on_several_ranks_are_refused(sp, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    answer = sp("sweep", "recipe.yaml", "--over", "lr=1")
    assert (answer.code, answer.err.count("SP-E821")) == (2, 1)
