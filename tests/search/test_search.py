"""Each strategy finds a planted prompt that random search does not, within its budget, and what is shown was asked."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import speakers
import tiny_runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.artifact import Artifact
from softprompt.cli import main
from softprompt.core import Injection
from softprompt.errors import RecipeError, TrainingError
from softprompt.plan import make_plan
from softprompt.run import Stopped
from softprompt.search import STRATEGIES, Candidates, Ledger, Scorer, adapted, search
from softprompt.search.grips import Grips
from softprompt.search.loop import balanced
from softprompt.search.rlprompt import RlPrompt, soft_q
from softprompt.search.words import label_words
from softprompt.untrained import build

SMALL = {"examples": 4, "dev": 8}
BUDGETS = {"autoprompt": 1000, "pez": 1000, "gcg": 2000, "grips": 800}
SENTENCE = "w90 w91 w100 w92 w93 w94 w100 w95 w96 w100"


def hunt(folder: Path, strategy: str, budget: int, **changes):
    folder.mkdir(exist_ok=True)
    given = {"length": 3, "compare": False, "backbone": planted.backbone()} | SMALL | changes
    return search(planted.recipe(folder), folder / "run", strategy=strategy, budget=budget, **given)


def scorer(tmp_path: Path, limit: int = 10_000) -> tuple[Scorer, list]:
    plan = make_plan(adapted(planted.recipe(tmp_path), 3), planted.backbone())
    return Scorer(Candidates(build(plan, planted.backbone()).eval()), Ledger(limit)), plan.train


@pytest.mark.parametrize("strategy", [name for name in BUDGETS if name != "grips"])
def test_a_planted_prompt_is_found_that_random_search_does_not_find_at_equal_cost(tmp_path, strategy):
    found = hunt(tmp_path, strategy, BUDGETS[strategy], compare=True)
    report = found.report
    assert report["scores"][0]["value"] > 0.9
    assert report["baselines"]["random search"]["value"] < 0.8
    assert report["compared"]["random search"]["p"] < 0.05
    assert "significantly better than" in report["verdict"]
    assert "random search" in report["verdict"]
    for passes in (report["passes"], report["passes_of_others"]["random search"]):
        assert passes["forwards"] + passes["backwards"] <= passes["limit"] == BUDGETS[strategy]
    assert report["passes"]["tokens"] > 0


def test_edits_of_a_sentence_find_what_random_swaps_of_it_do_not(tmp_path):
    found = hunt(tmp_path, "grips", BUDGETS["grips"], start=SENTENCE, compare=True)
    assert set(found.text.split()) <= set(SENTENCE.split())
    assert found.report["scores"][0]["value"] > found.report["baselines"]["random search"]["value"]
    assert found.report["compared"]["the start"]["p"] < 0.05


def test_no_gain_is_said_to_be_none(tmp_path):
    report = hunt(tmp_path, "random", 300).report
    assert report["verdict"].startswith("no significant gain")
    assert set(report["compared"]) == {"the start", "no prompt", "majority"}


def test_the_best_is_never_worse_on_dev_than_the_start_and_is_the_best_of_the_history(tmp_path):
    report = hunt(tmp_path, "random", 600).report
    keys = [past["key"] for past in report["dev"]]
    best = next(past for past in report["dev"] if past["text"] == report["text"])
    assert best["key"] == max(keys) >= keys[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_that_was_killed_goes_on_to_the_same_prompt_and_the_same_counts(tmp_path, strategy, monkeypatch):
    monkeypatch.setattr("softprompt.search.loop.SAVING", 0.0)
    start = {"start": SENTENCE} if strategy == "grips" else {}
    whole = hunt(tmp_path / "whole", strategy, 450, **start)

    def die(event):
        if event["event"] == "search" and event["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hunt(tmp_path / "cut", strategy, 450, listen=die, **start)
    shutil.rmtree(tmp_path / "cut" / "run" / "log.jsonl", ignore_errors=True)
    resumed = hunt(tmp_path / "cut", strategy, 450, **start)
    assert resumed.ids == whole.ids
    assert resumed.report == whole.report
    assert log(tmp_path / "cut") == log(tmp_path / "whole")


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


def test_a_search_that_is_told_to_stop_saves_its_state(tmp_path, monkeypatch):
    import os
    import signal

    def stop(event):
        if event["event"] == "search":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        hunt(tmp_path, "random", 450, listen=stop)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert list((tmp_path / "run" / "states").iterdir())


def test_every_pass_is_counted_and_none_beyond_the_budget(tmp_path):
    scored, examples = scorer(tmp_path, 11)
    calls = []
    forward = scored.prompt.backbone.forward
    scored.packs = False
    scored.prompt.backbone.forward = lambda batch, *rest, **more: (
        calls.append(len(batch)) or forward(batch, *rest, **more)
    )
    try:
        scored.judge([(30, 31, 32), (33, 34, 35)], examples[:3])
        assert sum(calls) == scored.ledger.forwards == 6
        scored.slope((30, 31, 32), examples[:2])
        assert sum(calls) == scored.ledger.forwards == 8
        assert scored.ledger.backwards == 2
        with pytest.raises(ValueError, match="2 passes with 1 left"):
            scored.judge([(30, 31, 32)], examples[:2])
        assert sum(calls) == 8
    finally:
        del scored.prompt.backbone.forward


def test_packed_scores_are_those_of_padded_rows_and_run_fewer_tokens(tmp_path):
    scored, examples = scorer(tmp_path)
    many = [(30, 31, i) for i in range(100, 108)]
    packed = scored.judge(many, examples[:4])
    assert scored.packs is True
    assert scored.ledger.tokens < scored.ledger.plain
    scored.packs = False
    for one, other in zip(packed, scored.judge(many, examples[:4]), strict=True):
        torch.testing.assert_close(one.loss, other.loss, atol=1e-4, rtol=1e-4)


def test_the_slope_is_that_of_finite_differences(tmp_path):
    scored, examples = scorer(tmp_path)
    ids, size = (30, 31, 32), 1e-2
    slope, loss = scored.slope(ids, examples[:4])
    assert loss == pytest.approx(scored.judge([ids], examples[:4])[0].mean, rel=1e-4)
    vectors = scored.table[list(ids)]
    for place, coordinate in ((0, 1), (2, 0), (1, 5)):
        moved = torch.zeros_like(vectors)
        moved[place, coordinate] = size
        above, below = (scored.slope(ids, examples[:4], vectors + sign * moved)[1] for sign in (1, -1))
        assert slope[place, coordinate].item() == pytest.approx((above - below) / (2 * size), abs=2e-3)


def test_the_promise_is_the_inner_product_and_bars_what_may_not_stand(tmp_path):
    scored, examples = scorer(tmp_path)
    ids = (30, 31, 32)
    promise = scored.promise(ids, examples[:4])
    slope, _ = scored.slope(ids, examples[:4])
    wanted = slope[1] @ (scored.table[31] - scored.table[50])
    assert promise[1, 50].item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-6)
    assert promise[:, [0, 2, 3, 5, 6]].isinf().all()  # special tokens and class words
    assert promise[1, 31].isinf()
    assert promise.argmax(1).tolist() == [planted.TRIGGER] * 3


@pytest.mark.parametrize("family", speakers.TEXTS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_ids_that_survive_are_what_the_row_of_the_string_holds(family, data):
    prompt = speaking(family)
    found = Candidates(prompt)
    example = speakers_example("the film was good")
    ids = tuple(data.draw(st.lists(st.sampled_from(found.allowed), min_size=1, max_size=5)))
    kept = found.survivors([ids, ids], [example])
    assert kept in ([], [ids])
    row = found.worded(ids).row(example, labelled=False).ids
    if kept:
        text = found.text(ids)
        assert tuple(found.tokenizer(text, add_special_tokens=False)["input_ids"]) == ids
        assert any(tuple(row[i : i + len(ids)]) == ids for i in range(len(row)))


@pytest.mark.parametrize("family", speakers.TEXTS)
def test_single_allowed_tokens_survive_in_every_family(family):
    found = Candidates(speaking(family))
    example = speakers_example("the film was good")
    assert len(found.allowed) > 20
    few = [(i,) for i in found.allowed[:20]]
    assert len(found.survivors(few, [example])) >= 10
    assert not set(found.allowed) & set(found.tokenizer.all_special_ids)


def speaking(family: str):
    from softprompt.core import Start
    from softprompt.heads import Verbalizer
    from softprompt.methods import find
    from softprompt.prompt import Prompt, Task
    from softprompt.template import Template

    frozen = speakers.speaker(family)
    template = Template("{soft} {text} {mask}" if family != "t5" else "{soft} {text}", frozen, length=2)
    words = [template.continue_with(word)[:1] for word in ("yes", "no")]
    method = find("prompt_tuning")(frozen.spec, Start(torch.zeros(2, frozen.spec.hidden)))
    head = Verbalizer(words, fill=frozen.spec.kind == "encoder")
    return Prompt(frozen, method, head, template, Task("classification", ("yes", "no")))


def speakers_example(text: str):
    from softprompt.core import Example

    return Example({"text": text}, "yes")


@pytest.mark.parametrize("model", ["llama", "bert", "t5"])
def test_causal_masked_and_encoder_decoder_models_are_searched(tmp_path, model):
    recipe = masked(tmp_path, model)
    found = search(recipe, tmp_path / "run", strategy="gcg", budget=250, length=2, compare=False, count=4, **SMALL)
    assert found.report["passes"]["backwards"] > 0
    assert found.report["steps"] >= 2
    answers = [prediction.answer for prediction in found.prompt.predict(plan_test(recipe, found))]
    assert found.artifact is not None
    bound = Artifact.load(found.artifact).bind(found.prompt.backbone)
    assert [one.answer for one in bound.predict(plan_test(recipe, found))] == answers


def masked(folder: Path, model: str):
    from softprompt.recipe import make_recipe

    made = tiny_runs.recipe(folder, "task.head=verbalizer", model=model) if model != "bert" else None
    if made is not None:
        return made
    path = folder / "bert"
    import families
    import tokenizers_tiny

    reader = tokenizers_tiny.words(families.V)
    reader.add_special_tokens({"mask_token": "w4"})
    families.model("bert").save_pretrained(path)
    reader.save_pretrained(path)
    values = tiny_runs.recipe(folder, "task.head=verbalizer", model="bert").model_dump()
    return make_recipe(values)


def plan_test(recipe, found):
    return make_plan(recipe, found.prompt.backbone).test


def test_the_artifact_is_the_text_and_the_recipe_beside_it_starts_a_soft_prompt_from_it(tmp_path):
    found = hunt(tmp_path, "autoprompt", 400)
    assert (tmp_path / "run" / "prompt.txt").read_text() == found.text
    bound = Artifact.load(found.artifact).bind(planted.backbone())
    table = planted.backbone().tokens(torch.tensor([found.ids]))[0]
    assert torch.equal(bound.state_dict()["method.prompt"], table)
    from softprompt.recipe import load_recipe

    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert (recipe.init.kind, recipe.init.text, recipe.method.length) == ("text", found.text, 3)
    plan = make_plan(recipe, planted.backbone())
    soft = build(plan, planted.backbone())
    assert torch.equal(soft.state_dict()["method.prompt"], table)
    mine = [one.answer for one in found.prompt.predict(plan.test)]
    assert [one.answer for one in soft.predict(plan.test)] == mine


def test_a_soft_prompt_is_projected_to_the_words_it_is_near(tmp_path):
    found = hunt(tmp_path, "autoprompt", 400, start="w40 w41 w42")
    artifact = Artifact.load(found.artifact)
    blurred = artifact.tensors["method.prompt"] + 0.1
    path = tmp_path / "soft.safetensors"
    Artifact({"method.prompt": blurred}, artifact.card.model_copy(update={"canaries": []})).save(path)
    again = hunt(tmp_path / "again", "random", 200, start=str(path))
    assert again.report["start"] == found.text


def test_label_words_are_read_off_the_model(tmp_path):
    rows = rows_of(planted.write(tmp_path / "x.csv", 200, 0))
    named = [[row["text"], {"w5": "one", "w6": "two"}[row["label"]]] for row in rows]
    recipe = planted.recipe(tmp_path)
    write_rows(tmp_path / "train.csv", [["text", "label"], *named])
    update = {"words": {"one": "w77", "two": "w78"}}
    recipe = recipe.model_copy(
        update={
            "task": recipe.task.model_copy(update=update),
            "data": recipe.data.model_copy(update={"dev": None, "test": None}),
        }
    )
    plan = make_plan(adapted(recipe, 3), planted.backbone())
    words = label_words(Candidates(build(plan, planted.backbone()).eval()), plan.train)
    assert len(set(words.values())) == 2
    found = replace(
        plan, recipe=recipe.model_copy(update={"task": plan.recipe.task.model_copy(update={"words": words})})
    )
    scored = Scorer(Candidates(build(found, planted.backbone()).eval()), Ledger(10_000))
    logs = scored.judge([()], plan.train)[0].logs[:, 0]
    first = torch.tensor([example.label == "one" for example in plan.train])
    assert logs[first].mean() > logs[~first].mean() + 0.1  # the word of a class is likelier after its texts


def test_the_search_of_label_words_is_paid_from_the_budget(tmp_path):
    notes = []
    listen = lambda event: notes.append(str(event.get("text")))  # noqa: E731
    found = hunt(tmp_path, "autoprompt", 400, find_words=True, listen=listen)
    assert any("label words: w5: " in note for note in notes)
    log_of_start = found.report["passes"]["forwards"]
    assert 24 + 8 < log_of_start <= 400


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_soft_q_learning_is_at_rest_where_values_are_consistent_and_only_there():
    """Two steps, rewards 0 and 1 by the pair of tokens: with Q the soft values of what follows, nothing is to learn."""
    ends = torch.tensor([[0.0, 1.0], [2.0, -1.0]])  # reward after tokens (a, b)
    begin = ends.logsumexp(1)  # Q of the first token is V of the state that it leads to
    pairs = [(a, b) for a in range(2) for b in range(2)]
    values = torch.stack([torch.stack([begin, ends[a]]) for a, _ in pairs])  # [4, 2, 2]
    rewards = torch.stack([ends[a, b] for a, b in pairs])
    tokens = torch.tensor(pairs)
    assert soft_q(values, values, tokens, rewards).item() == pytest.approx(0.0, abs=1e-10)
    assert soft_q(values, values, tokens, rewards + 2).item() == pytest.approx(0.5 * 2.0 + 2.0, rel=0.5)
    assert soft_q(values + 1, values, tokens, rewards).item() > 0.1  # how large V is matters too


def test_a_policy_proposes_better_prompts_the_more_it_has_seen(tmp_path, monkeypatch):
    losses = []
    learn = RlPrompt.learn

    def recorded(self, tried):
        losses.append(sum(judged.mean for _, judged in tried) / len(tried))
        learn(self, tried)

    monkeypatch.setattr(RlPrompt, "learn", recorded)
    recipe = planted.recipe(tmp_path)
    for name in ("train", "dev", "test"):  # one class: then the reward says nothing but how far a prompt pushes
        rows = [[row["text"], row["label"]] for row in rows_of(tmp_path / f"{name}.csv") if row["label"] == "w6"]
        write_rows(tmp_path / f"{name}.csv", [["text", "label"], *rows])
    recipe = recipe.model_copy(update={"task": recipe.task.model_copy(update={"labels": ("w5", "w6")})})
    given = {"length": 5, "compare": False, "backbone": planted.backbone(128, 5), "examples": 4, "dev": 4}
    found = search(recipe, tmp_path / "run", strategy="rlprompt", budget=4000, **given)
    assert len(losses) > 20
    assert sum(losses[-6:]) / 6 < sum(losses[:6]) / 6 - 0.5
    assert found.report["passes"]["forwards"] <= 4000


def test_a_policy_finds_a_planted_prompt_that_random_search_does_not_at_equal_cost(tmp_path):
    """Of 256 words in 5 places, one prompt in 256 ** 5 is best; a random swap mends a given place once in 1,280."""
    best = {"rlprompt": [], "random": []}
    for seed in range(4):
        for strategy, counts in best.items():
            given = {"length": 5, "examples": 2, "seed": seed, "backbone": planted.backbone(256, 5)}
            found = hunt(tmp_path / f"{strategy}{seed}", strategy, 2000, **given)
            assert found.report["passes"]["forwards"] <= found.report["passes"]["limit"] == 2000
            counts.append(found.ids.count(planted.TRIGGER))
    assert sorted(best["rlprompt"])[1:] == [5, 5, 5]
    assert max(best["random"]) < 5


def policy(tmp_path: Path) -> tuple[RlPrompt, list]:
    scored, examples = scorer(tmp_path)
    return RlPrompt(scored, (30, 31, 32)), examples


def test_a_text_that_the_policy_writes_costs_a_pass_and_its_states_are_those_of_the_whole_text(tmp_path):
    from random import Random

    from softprompt.backbones.text import tokens_only
    from softprompt.search.rlprompt import SOURCE

    operator, examples = policy(tmp_path)
    begin = operator.writer.tokenizer(SOURCE, add_special_tokens=False)["input_ids"]
    made = operator.propose((30, 31, 32), examples[:2], 6, Random(0))
    assert operator.scorer.ledger.forwards == operator.price(2, 6) == 6
    for ids in made:
        states, tokens = operator.sampled[ids][0]
        assert tuple(tokens.tolist()) == ids
        text = torch.tensor([[*begin, *ids]])
        whole = operator.writer(tokens_only(text), Injection()).hidden[0, len(begin) - 1 : -1]
        torch.testing.assert_close(states, whole, atol=1e-5, rtol=1e-5)


def test_a_prompt_that_is_drawn_often_is_scored_once_and_teaches_as_often_as_it_was_drawn(tmp_path, monkeypatch):
    operator, examples = policy(tmp_path)
    often, once = (30, 31, 32), (33, 34, 35)
    state = torch.randn(3, operator.writer.spec.states)
    operator.sampled = {often: [(state, torch.tensor(often))] * 3, once: [(state, torch.tensor(once))]}
    seen = []
    monkeypatch.setattr(
        "softprompt.search.rlprompt.soft_q",
        lambda values, fixed, tokens, rewards: (seen.append((tokens, rewards)), values.sum() * 0)[1],
    )
    judged = operator.scorer.judge([(40, 41, 42), often, once], examples[:2])
    operator.learn(list(zip([(40, 41, 42), often, once], judged, strict=True)))  # the present prompt was not drawn
    tokens, rewards = seen[0]
    assert tokens.tolist() == [list(often)] * 3 + [list(once)]
    assert rewards[0] == rewards[1] == rewards[2]
    assert rewards.sum().item() == pytest.approx(0, abs=1e-3)


def test_a_policy_that_knows_nothing_has_nothing_to_learn_from_rewards_that_are_alike(tmp_path):
    """V of every place begins as the entropy of what is left to write: prompts do not get likelier by being drawn."""
    operator, _ = policy(tmp_path)
    values = operator.values(operator.net, torch.randn(4, 3, operator.writer.spec.states))
    tokens = torch.tensor([[30, 31, 32], [33, 34, 35], [36, 37, 38], [39, 40, 41]])
    assert soft_q(values, values, tokens, torch.zeros(4)).item() == pytest.approx(0, abs=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=150))
def test_batches_of_scores_hold_every_row_once_and_rows_of_one_text_together(many):
    from softprompt.search.score import ROWS, together

    batches = list(together(many))
    assert sorted(i for batch in batches for i in batch) == list(range(len(many)))
    assert all(0 < len(batch) <= ROWS for batch in batches)
    texts = [[7] * 6 + [i, j] for i in range(9) for j in range(2)] + [[8] * 6 + [i, 1] for i in range(12)]
    assert [{texts[i][0] for i in batch} for batch in together(texts)] == [{7}, {8}]


def test_an_edit_only_takes_words_away_moves_them_or_puts_them_back(tmp_path):
    from random import Random

    scored, _ = scorer(tmp_path)
    grips = Grips(scored, scored.candidates.read(SENTENCE))
    rng, text = Random(0), SENTENCE
    for _ in range(200):
        text = grips.edited(text, rng)
        assert set(text.split()) <= set(SENTENCE.split())
        assert text.split()


def test_batches_hold_every_class_alike(tmp_path):
    from random import Random

    examples = make_plan(adapted(planted.recipe(tmp_path), 3), planted.backbone()).train
    labels = [example.label for example in balanced(examples, 6, Random(0))]
    assert sorted(labels) == ["w5"] * 3 + ["w6"] * 3


def test_what_cannot_be_searched_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="SP-E632"):
        hunt(tmp_path / "a", "gcg", 10)
    with pytest.raises(RecipeError, match=r"SP-E635.*did you mean 'gcg'"):
        hunt(tmp_path / "b", "gcgg", 1000)
    with pytest.raises(RecipeError, match="SP-E633"):
        hunt(tmp_path / "c", "gcg", 1000, start="unheard of")
    recipe = planted.recipe(tmp_path)
    for change, code in (
        ({"head": "classifier", "template": "{soft} {text}"}, "SP-E630"),
        ({"template": "{text}"}, "SP-E636"),
    ):
        task = recipe.task.model_copy(update=change)
        with pytest.raises(RecipeError, match=code):
            search(
                recipe.model_copy(update={"task": task}), tmp_path / code, strategy="gcg", backbone=planted.backbone()
            )


def test_a_folder_with_another_search_is_refused(tmp_path):
    hunt(tmp_path, "random", 200)
    with pytest.raises(TrainingError, match="SP-E514"):
        hunt(tmp_path, "random", 300)


def test_the_command_says_what_was_found_and_what_to_do_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_runs.save_model(tmp_path)
    tiny_runs.write_rows(tmp_path / "train.csv", 40)
    options = ["--model", "llama", "--budget", "200", "--length", "2", "--examples", "4", "--dev-examples", "4"]
    options += ["--candidates", "4", "--set", "train.threads=1", "--no-compare", "--strategy", "autoprompt"]
    assert main(["search", "train.csv", "--run", "one", *options]) == 0
    printed = capsys.readouterr()
    assert "this prompt" in printed.out
    assert "the start" in printed.out
    assert "significant" in printed.out
    assert "softprompt train one/recipe.yaml --run one/soft" in printed.err
    assert "softprompt predict one/prompt.safetensors" in printed.err
    assert main(["search", "train.csv", "--run", "two", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == (tmp_path / "one" / "prompt.txt").read_text()
    assert report["passes"]["limit"] == 200
    assert main(["resume", "one", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == report["ids"]
    assert main(["predict", "one/prompt.safetensors", "train.csv", "--model", "llama"]) == 0


def test_a_search_needs_the_slots_of_its_text_as_rows_of_vectors(tmp_path):
    """The gradient is taken at vectors in slots: with those of the tokens, the row answers as the text does."""
    scored, examples = scorer(tmp_path)
    ids = (30, 31, 32)
    row = scored.rows(ids, examples[0])[0]
    slotted = scored.candidates.slotted(row, ids, examples[0])
    text = scored.read(scored.plain([row]), Injection())
    vectors = scored.read(scored.plain([slotted]), Injection(embeds=scored.table[list(ids)][None]))
    torch.testing.assert_close(text, vectors)
