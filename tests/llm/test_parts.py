"""The parts of a run apart: how a model is asked and read, races, leaks, and each strategy against its paper."""

import re
import subprocess
import sys
from random import Random
from types import SimpleNamespace as Made

import pytest

from softprompt.errors import SoftpromptError
from softprompt.example import Example
from softprompt.llm.ape import EXAMPLES, KEPT, Ape
from softprompt.llm.budget import Budget, Usage
from softprompt.llm.endpoint import Endpoint
from softprompt.llm.evoprompt import Differential, Genetic, roulette
from softprompt.llm.exemplars import SHOTS, Exemplars
from softprompt.llm.gepa import Gepa
from softprompt.llm.judge import Judge, Rated, legs
from softprompt.llm.leak import Guard
from softprompt.llm.loop import closing, keep
from softprompt.llm.opro import Opro
from softprompt.llm.strategy import Board
from softprompt.llm.task import Task, named, refuse_alike
from softprompt.llm.wire import read
from softprompt.llm.wording import written
from softprompt.llm.writer import Writer

WORDS = {"g": "good", "v": "very good", "b": "bad"}


def example(text, label="g"):
    return Example({"text": text}, label)


def a_task(count=16, **settings):
    rows = [example(f"row {i}", "gb"[i % 2]) for i in range(3 * count)]
    parts = {"train": rows[:count], "race": rows[count : 2 * count], "fresh": rows[2 * count : -4], "test": rows[-4:]}
    return Task(
        **{"kind": "classification", "metric": "accuracy", "words": WORDS, "template": "{text}"} | parts | settings
    )


class Scripted:
    """In the place of a client: what it was asked, and answers from a function."""

    def __init__(self, answer):
        self.answer, self.asked, self.rollouts = answer, [], []
        self.endpoint = Endpoint(base_url="http://h/v1", model="m", max_tokens=10)
        self.budget, self.log = Budget(10_000), type("Log", (), {"decide": lambda self, facts: None})()

    def ask_all(self, many, *, temperature=0.0, rollouts=None):
        self.asked += [messages[-1]["content"] for messages in many]
        self.rollouts += rollouts or []
        made = [self.answer(messages[-1]["content"]) for messages in many]
        return [type("Answer", (), {"text": text, "finished": "stop"})() for text in made]


def a_board(task, right=lambda prompt, row: True, wrote=None):
    """A board whose task model is right as `right` says, and whose writer writes what `wrote` lists."""
    texts = {task.shown(e): e for part in (task.train, task.race, task.fresh, task.test) for e in part}

    def answer(content):
        prompt, text, _ = content.rsplit("\n\n", 2)
        one = texts[text]
        return task.wanted(one) if right(prompt, text) else "no idea"

    lines = iter(wrote or [])
    writer = Scripted(lambda content: f"<new>{next(lines)}</new>")
    return Board(task, Judge(task, Scripted(answer)), Writer(writer, Guard([]))), writer


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Good.", "g"),
        ("**very good**", "v"),
        ("It is very good!", "v"),
        ("First it looked bad.\nBut then:\ngood", "g"),
        ("good or bad", None),
        ("goodness", None),
        ("", None),
    ],
)
def test_an_answer_is_a_class_if_it_names_exactly_one(text, label):
    assert named(text, WORDS) == label


@pytest.mark.parametrize("words", [{"a": "C", "b": "C++"}, {"a": "+", "b": "up"}, {"a": "Yes", "b": "yes"}])
def test_class_words_that_answers_cannot_be_told_apart_by_are_refused(words):
    refuse_alike(WORDS)
    with pytest.raises(SoftpromptError, match="SP-E209"):
        refuse_alike(words)


@pytest.mark.parametrize("counts", [("12", None), (-1, 1.5), (None, None)])
def test_half_a_character_and_odd_counts_of_a_server_break_nothing(counts):
    usage = Made(prompt_tokens=counts[0], completion_tokens=counts[1])
    choice = Made(message=Made(content="a\ud800"), finish_reason="stop")
    assert read(Made(choices=[choice], usage=usage)) == ("a?", None, None, "stop")
    assert read(Made(choices=[choice], usage=Made(prompt_tokens=3, completion_tokens=0)))[1:3] == (3, 0)


def test_an_answer_that_names_no_class_is_wrong_whatever_is_right():
    task = a_task()
    for label in WORDS:
        one = example("x", label)
        assert task.value(task.answer("I cannot say", one), one) == 0


def test_the_prompt_stands_before_the_text_or_in_the_systems_message_and_braces_are_text():
    task, one = a_task(template="Q: {text}{mask}"), example("a {b} c")
    assert task.messages("Be {x}.", one) == [
        {"role": "user", "content": "Be {x}.\n\nQ: a {b} c\n\nAnswer with one of: good, very good, bad."}
    ]
    system = a_task(place="system").messages("Be {x}.", one)
    assert [message["role"] for message in system] == ["system", "user"]
    assert system[0]["content"] == "Be {x}."


def test_a_written_answer_is_scored_between_0_and_1():
    task = a_task(kind="generation", metric="chrf", words={})
    assert task.value(task.answer(" the cat sat ", example("x")), example("x", "the cat sat")) == 1
    assert 0 < task.value("the cat ran", example("x", "the cat sat")) < 1


def test_a_race_leaves_those_behind_on_fewer_examples_and_asks_each_once():
    task = a_task(40)
    board, _ = a_board(task, right=lambda prompt, row: prompt != "bad")
    best = board.race(["start"], [None])[0]
    client = board.judge.client
    before = len(client.asked)
    bad, good = board.race(["bad", "good"], [best, best])
    assert (len(bad.values), bad.whole, bad.mean) == (8, False, 0)
    assert (len(good.values), good.whole, good.mean) == (40, True, 1)
    assert len(client.asked) - before == 48
    assert legs(40) == [8, 16, 32, 40]
    assert legs(5) == [5]
    assert [one.text for one in board.ranking] == ["start", "good"]


def test_the_guard_finds_runs_of_eight_words_and_whole_short_texts():
    known = Guard(["one two three four five six seven eight nine ten", "the red round ball", "too short"])
    assert known.found("Say: Two three four, five six seven eight NINE!") == "two three four five six seven eight nine"
    assert known.found("one two three four five six seven, then eight") is None
    assert known.found("like the red round ball here") == "the red round ball"
    assert known.found("this is too short") is None


def test_the_writer_drops_what_repeats_an_example_and_counts_what_became_of_each_answer():
    lines = iter(
        ["<new>new one</new>", "no tags", "<new>new one</new>", "<new>say the red round ball</new>", "<new></new>"]
    )
    writer = Writer(Scripted(lambda content: next(lines)), Guard(["the red round ball"]))
    assert writer.write([[{"content": "x"}]] * 5) == ["new one", None, None, None, None]
    assert dict(writer.fate) == {"new": 1, "without tags": 1, "known": 1, "repeats an example": 1, "empty": 1}
    assert written("<new>a</new> no: <new>b</new>") == "b"


def test_no_strategy_is_told_of_dev_or_test():
    task = a_task()
    board, writer = a_board(task, right=lambda prompt, row: int(row.split()[1]) % 3 > 0, wrote=map(str, range(1000)))
    board.judge.client.budget.calls = 300
    board.race(["start"], [None])
    for kind in (Opro, Ape, Genetic, Differential, Gepa):
        strategy = kind(board)
        for board.step in (1, 2):
            strategy.step(strategy.most)
    shown = set(re.findall(r"row \d+", "\n".join(writer.asked)))
    assert shown
    assert shown <= {task.shown(one) for one in task.train}


def test_opro_shows_the_best_twenty_in_ascending_order_with_whole_scores_and_asks_each_sample_apart():
    task = a_task(20)
    board, writer = a_board(task, lambda prompt, row: int(row.split()[1]) % 20 < int(prompt), map(str, range(100, 200)))
    board.race([str(n) for n in range(26)], [None] * 26)
    board.step = 1
    Opro(board).step(4)
    assert len(set(writer.asked)) == 1
    assert writer.rollouts == [0, 1, 2, 3]
    rows = re.findall(r"<prompt>(\d+)</prompt>\nscore: (\d+)", writer.asked[0])
    assert len(rows) == 20
    assert [int(score) for _, score in rows] == sorted(int(score) for _, score in rows)
    assert rows[-1][1] == "100"
    assert ("6", "30") in rows


def test_roulette_draws_members_by_their_share_of_all_scores():
    members = [Rated(str(n), (n / 4,), True, n / 4) for n in (0, 1, 3)]
    rng = Random(0)
    drawn = [roulette(members, rng).text for _ in range(4000)]
    assert drawn.count("0") == 0
    assert abs(drawn.count("3") / 4000 - 0.75) < 0.03
    assert {roulette([members[0]] * 2, rng).text} == {"0"}


def a_population(kind, wrote):
    """A strategy at its second step, with members right on 4, 8, 12 and 16 of 16 texts."""
    task = a_task(16)
    board, writer = a_board(task, lambda prompt, row: int(row.split()[1]) % 16 < int(prompt.split()[-1]), wrote)
    strategy = kind(board, 4)
    strategy.members = board.race(["m 4", "m 8", "m 12", "m 15"], [None] * 4)
    board.step = 2
    return strategy, writer


def test_ga_keeps_the_best_of_parents_and_children():
    strategy, writer = a_population(Genetic, ["c 14", "c 1", "c 13", "c 9"])
    strategy.step(4)
    assert [one.text for one in strategy.members] == ["m 15", "c 14", "c 13", "m 12"]
    assert all(len(re.findall(r"<prompt>m \d+</prompt>", asked)) == 2 for asked in writer.asked)


def test_de_replaces_a_member_by_its_better_child_alone_and_shows_two_others_the_best_and_the_member():
    strategy, writer = a_population(Differential, ["c 14", "c 1", "c 11", "c 2"])
    strategy.step(4)
    assert [one.text for one in strategy.members] == ["c 14", "m 8", "m 12", "m 15"]
    for asked, member in zip(writer.asked, ("m 4", "m 8", "m 12", "m 15"), strict=True):
        first, second, best, present = re.findall(r"<prompt>(m \d+)</prompt>", asked)
        assert (best, present) == ("m 15", member)
        assert len({first, second, member}) == 3


def test_the_first_population_runs_the_whole_race_and_has_no_more_members_than_it_may():
    board, writer = a_board(a_task(16), lambda prompt, row: prompt == "start", map(str, range(100)))
    board.race(["start"], [None])
    strategy, board.step = Genetic(board, 4), 1
    strategy.step(4)
    assert [one.text for one in strategy.members] == ["start", "0", "1", "2"]
    assert all(one.whole for one in strategy.members)
    assert len(set(writer.asked)) == 1


def test_ape_guesses_from_different_examples_first_and_then_says_the_best_in_other_words():
    right = {"g1": 12, "g2": 9}
    board, writer = a_board(
        a_task(16), lambda prompt, row: int(row.split()[1]) % 16 < right.get(prompt, 2), [f"g{i}" for i in range(12)]
    )
    board.race(["start"], [None])
    strategy, board.step = Ape(board, 6), 1
    strategy.step(6)
    assert [asked.count("Answer:") for asked in writer.asked] == [EXAMPLES] * 6
    assert len(set(writer.asked)) == 6
    assert not any("start" in asked for asked in writer.asked)
    board.step = 2
    strategy.step(6)
    shown = [re.findall(r"<prompt>(.*?)</prompt>", asked) for asked in writer.asked[6:]]
    best = [[one.text] for one in board.ranking[:KEPT]]
    assert best[0] == ["g1"]
    assert shown == [best[i % len(best)] for i in range(6)]


def test_exemplars_search_demonstrations_without_a_writer_and_find_the_one_that_helps():
    task = a_task(16)
    board, writer = a_board(task, lambda prompt, row: "row 3\n" in prompt or int(row.split()[1]) % 4 == 0)
    board.race(["start"], [None])
    strategy = Exemplars(board)
    for board.step in range(1, 5):
        strategy.step(8)
    assert "row 3\n" in board.best.text
    assert board.best.mean == 1
    assert board.best.text.count("Answer:") == SHOTS
    assert not writer.asked


def test_gepa_mends_from_cases_and_an_error_inside_the_package_is_not_lost():
    task = a_task(16)
    board, writer = a_board(task, lambda prompt, row: "twice" in prompt, ["say it twice"])
    board.judge.client.budget.calls = 200
    board.race(["start"], [None])
    board.step = 1
    Gepa(board).step(1)
    assert board.best.text == "say it twice"
    assert "Remark: wrong; right would be:" in writer.asked[0]

    def broken(content):
        raise SoftpromptError("SP-E734", "x", "y", "z")

    board, _ = a_board(task, lambda prompt, row: False)
    board.judge.client.budget.calls = 200
    board.writer.client.answer = broken
    board.race(["start"], [None])
    with pytest.raises(SoftpromptError, match="SP-E734"):
        Gepa(board).step(1)


def test_gepa_imports_no_litellm():
    code = "import sys, gepa.api; assert 'litellm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_budget_that_leaves_no_candidate_is_refused_before_anything_is_asked():
    task = a_task()
    board, _ = a_board(task)
    need = (closing(task) + len(task.race) + 1 + len(task.race)) * 10 // 9 + 2

    def keeping(*limits):
        board.judge.client.budget = Budget(*limits)
        keep(board, Opro(board), "start")

    with pytest.raises(SoftpromptError, match="SP-E736"):
        keeping(need - 6)
    keeping(need)
    with pytest.raises(SoftpromptError, match=r"SP-E736 .*tokens or cost"):
        keeping(need, 500)


def test_what_is_kept_for_the_end_cannot_be_spent_before():
    budget = Budget(10, tokens=100)
    budget.keep(4, Usage(40))
    with pytest.raises(SoftpromptError, match="SP-E735"):
        budget.reserve(Usage(61))
    for _ in range(6):
        budget.reserve(Usage(5))
    with pytest.raises(SoftpromptError, match="4 kept for the end"):
        budget.reserve(Usage(5))
    budget.release()
    budget.reserve(Usage(70))
