"""The skills for pretraining: many wordings, short true answers, the same for the same seed."""

import importlib
import itertools
import random
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # `scripts` is run from the repository, not installed

from scripts.pretrain import skills as package
from scripts.pretrain.skills import paraphrase, question_rules, sentiment, slots, sums, textops, travel, weak_sentiment
from scripts.pretrain.skills.corpus import Corpus, Sentence
from scripts.pretrain.skills.wording import Wording, after, roughen
from scripts.pretrain.sources import SOURCES, Skill
from scripts.pretrain.targets import Targets, target_sentences, words_of

DATA = Path(__file__).parents[3] / "shared" / "data"
EXTRA = Path(__file__).parents[2] / "runs" / "extra"
needs_text = pytest.mark.skipif(
    not (DATA / "text").exists() or not (EXTRA / "vader_lexicon.txt").exists(),
    reason="../shared/data or the fetched WordNet and VADER files are absent",
)
THEMES = (
    "sentiment",
    "word_sentiment",
    "questions",
    "lexicon",
    "intents",
    "slots",
    "travel",
    "paraphrase",
    "restaurants",
    "textops",
)


@pytest.mark.parametrize("theme", THEMES)
def test_every_task_has_several_wordings(theme: str) -> None:
    wordings: dict[str, Wording] = importlib.import_module(f"scripts.pretrain.skills.{theme}").WORDINGS
    for name, wording in wordings.items():
        assert wording.count() >= 12, name
        prompts = {wording.prompt(random.Random(seed), "some text") for seed in range(60)}
        assert len(prompts) >= 12, name


def test_about_a_third_of_the_prompts_end_in_the_packages_own_cue() -> None:
    rng = random.Random(0)
    prompts = [sentiment.VERDICT.prompt(rng, "fine") for _ in range(2000)]
    assert 0.25 < sum(prompt.endswith("\nanswer:") for prompt in prompts) / 2000 < 0.45


def test_an_answer_has_a_space_unless_the_prompt_ended_its_line() -> None:
    assert after("label:", "positive") == " positive"
    assert after("Is it good?\n", "yes") == "yes"


def test_roughened_text_keeps_its_words() -> None:
    text = "It isn't bad, and Anna's phone works."
    for seed in range(30):
        assert words_of(roughen(random.Random(seed), text)) == words_of(text)


def test_a_negation_turns_a_word_and_mixed_signs_are_told() -> None:
    rated = {"great": 3.1, "awful": -2.0}
    assert weak_sentiment.score(["it", "was", "great"], rated) == (3.1, False)
    assert weak_sentiment.score(["it", "was", "not", "great"], rated)[0] < 0
    assert weak_sentiment.score(["great", "food", "awful", "service"], rated)[1]


def test_tags_mark_the_first_and_the_following_words_of_a_span() -> None:
    assert slots.bio(5, [(1, 3, "city"), (4, 5, "day")]) == ["O", "B-city", "I-city", "O", "B-day"]


def test_a_number_is_changed_and_a_clause_is_moved() -> None:
    edit = paraphrase.Edits.__new__(paraphrase.Edits)
    assert edit.number(random.Random(0), "It opened in 1998.") != "It opened in 1998."
    assert edit.order("In 1998, the school moved to Leeds.") == "The school moved to Leeds in 1998."
    assert edit.deny(random.Random(0), "The door was open.") == "The door was not open."


def test_sums_give_the_worked_answer_or_the_result() -> None:
    corpus = SimpleNamespace(gsm8k=[("How many?", "2 + 2 = 4\n#### 4")] * 20)
    answers = {skill.answer.strip() for skill in sums.sums(corpus, random.Random(0))}  # type: ignore[arg-type]
    assert answers == {"4", "2 + 2 = 4\n#### 4"}


def test_words_are_counted_sorted_and_reversed_right() -> None:
    sentence = Sentence("masc", "blog", "the old mill burned", [(w, "NN") for w in ["the", "old", "mill", "burned"]])
    for seed in range(20):
        rng = random.Random(seed)
        _, text, answer = textops._count(rng, sentence) or ("", "", "")
        assert len(text.split()) == int(answer)
        _, text, answer = textops._reverse(rng, sentence) or ("", "", "")
        assert text.split()[::-1] == answer.split()
        _, text, answer = textops._sort(rng, sentence) or ("", "", "")
        assert sorted(text.split()) == answer.split()


@cache
def _corpus() -> Corpus:
    return Corpus(DATA, EXTRA)


@cache
def _sample(seed: int, each: int = 100) -> list[Skill]:
    found: list[Skill] = []
    for make, _ in package.GENERATORS:
        found += itertools.islice(make(_corpus(), random.Random(f"{seed}/{make.__name__}")), each)
    return found


@needs_text
def test_skills_are_the_same_for_the_same_seed() -> None:
    for make in (sentiment.made_up, slots.snips, travel.travel, textops.textops):
        first, again, other = (list(itertools.islice(make(_corpus(), random.Random(seed)), 20)) for seed in (3, 3, 4))
        assert first == again != other


@needs_text
def test_prompts_and_answers_join_well() -> None:
    for skill in _sample(0):
        assert skill.answer.strip()
        assert skill.source in SOURCES
        assert not skill.prompt.endswith(" ")
        assert skill.answer.startswith(" ") != skill.prompt.endswith("\n")
        assert not {"{x}", "{q}", "{k}", "{n}"} & set(skill.prompt.split())


@needs_text
def test_no_generator_is_more_than_its_share() -> None:
    sizes = [megabytes for _, megabytes in package.GENERATORS]
    assert 25 <= sum(sizes) <= 42
    assert max(sizes) <= 0.15 * sum(sizes)


@needs_text
def test_no_target_sentence_gets_into_the_skills() -> None:
    exact = {" ".join(words_of(text)) for text in target_sentences(DATA) if len(words_of(text)) >= 6}
    kept = itertools.islice(package.skills(DATA, EXTRA, 0), 2000)
    targets = Targets.read(DATA)
    sample = [skill for skill in _sample(0) if not targets.found_in(skill.prompt + skill.answer)]
    assert len(sample) > 0.97 * len(_sample(0))
    for skill in itertools.chain(kept, sample):
        for line in f"{skill.prompt}{skill.answer}".split("\n"):
            assert " ".join(words_of(line)) not in exact


@needs_text
def test_question_rules_name_the_expected_answer() -> None:
    wordnet = _corpus().wordnet
    for text, kind in {
        "Who opened the door?": "person",
        "Where does he live now?": "place",
        "How many apples are left?": "number",
        "What city is that over there?": "city",
        "What is a heron?": "definition",
        "Why did they leave?": "reason",
        "Is it raining today?": "yes or no",
        "What does it look like": "description",
        "When I pay, it fails": "",
    }.items():
        assert question_rules.kind_of(wordnet, text) == kind, text


@needs_text
def test_travel_slots_spell_out_the_request() -> None:
    trips = travel.Trips(_corpus())
    rng = random.Random(0)
    for _ in range(50):
        text, pieces, aim = trips.one(rng)
        assert " ".join(piece for piece, _ in pieces) == text
        assert aim in travel.AIMS
