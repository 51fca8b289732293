"""Prompts written over real HTTP under faults: the planted optimum found, within budget to the call, killed or not."""

import json
import multiprocessing
import shutil
import time
from collections import Counter

import pytest
from llm.colours import SIZES, write_colours
from llm.fake import OPTIMUM, planted, serving

from softprompt.llm import resume, write
from softprompt.llm.endpoint import Endpoint
from softprompt.recipe import Recipe

START = "Name the thing."
CALLS = {"opro": 260, "evoprompt-ga": 400, "evoprompt-de": 340, "gepa": 260}
SAME = ("text", "found", "verdict", "dev", "fresh", "steps", "scores", "compared", "ended", "written")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    write_colours(folder)
    parts = {name: str(folder / f"{name}.csv") for name in SIZES}
    return Recipe.model_validate({"data": parts, "task": {"metric": "accuracy"}})


def ends(fake, **settings):
    """Both endpoints, on one server."""
    made = {"base_url": fake.url, "pause": 0.001, "workers": 4} | settings
    return {name: Endpoint(model=model, **made) for name, model in (("asked", "task"), ("writer", "writer"))}


def run(fake, recipe, folder, strategy, **settings):
    return write(
        recipe, folder, strategy=strategy, **{"calls": CALLS[strategy], "start": START} | settings, **ends(fake)
    )


@pytest.fixture(scope="module", params=list(CALLS))
def finished(request, recipe, tmp_path_factory):
    """A run of each strategy under faults: its strategy, its folder, what it found, and the server, which goes on."""
    folder = tmp_path_factory.mktemp(request.param)
    with serving(faults=10, cut=5) as fake:
        yield request.param, folder, run(fake, recipe, folder, request.param), fake


def test_the_planted_optimum_is_found_under_faults_within_the_budget_to_the_call(finished):
    strategy, folder, found, fake = finished
    assert planted(found.text) == OPTIMUM
    assert found.report["scores"][0]["value"] == 1
    assert "significantly better" in found.report["verdict"]
    assert fake.calls == found.report["budget"]["calls"] <= CALLS[strategy]
    sent = Counter(event["who"] for event in events_of(folder) if event["event"] == "sent")
    assert sent == {"task": fake.by("task"), "writer": fake.by("writer")}
    assert sum(fake.failed[kind] for kind in ("429", "500", "malformed", "nothing")) > 5
    assert (folder / "prompt.txt").read_text() == found.text


def events_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("finished", ["opro", "evoprompt-de", "gepa"], indirect=True)
def test_a_run_that_was_cut_off_between_two_events_goes_on_to_the_same_result(finished, tmp_path):
    strategy, folder, found, fake = finished
    shutil.copy(folder / "write.json", tmp_path)
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "events.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + b'{"event": "answ')
    before = fake.calls
    again = resume(tmp_path)
    assert {name: again.report[name] for name in SAME} == {name: found.report[name] for name in SAME}
    assert 0 < fake.calls - before < 0.6 * found.report["budget"]["calls"]
    assert again.report["budget"]["calls"] <= CALLS[strategy]


@pytest.mark.parametrize("finished", ["evoprompt-ga"], indirect=True)
def test_a_run_that_is_killed_goes_on_to_the_same_result_and_its_lost_calls_stay_counted(finished, recipe, tmp_path):
    strategy, _, found, _ = finished
    with serving(faults=10, cut=5) as fake:
        process = multiprocessing.get_context("fork").Process(target=run, args=(fake, recipe, tmp_path, strategy))
        process.start()
        while fake.calls < 90:
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert not (tmp_path / "prompt.txt").exists()
        again = run(fake, recipe, tmp_path, strategy)
        assert {name: again.report[name] for name in SAME} == {name: found.report[name] for name in SAME}
        assert fake.calls <= again.report["budget"]["calls"] <= fake.calls + 4  # requests that four threads had begun
        assert again.report["budget"]["calls"] <= CALLS[strategy]


def test_a_limit_of_tokens_ends_the_search_in_time_for_the_test_and_a_cut_off_run_plans_the_same(recipe, tmp_path):
    with serving() as fake:
        asked = Endpoint(base_url=fake.url, model="task", workers=4, max_tokens=16)
        limits = {"calls": 400, "tokens": 18_000}
        found = write(recipe, tmp_path, strategy="exemplars", asked=asked, start=START, **limits)
        assert found.report["ended"] == "the budget"
        assert found.report["steps"] > 1
        assert fake.calls == found.report["budget"]["calls"] < 350
        assert 2000 < found.report["budget"]["tokens"] <= 18_000
        path = tmp_path / "events.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: 2 * len(lines) // 3]))
        assert resume(tmp_path).report == found.report
