"""A sweep and a comparison on the workers of a local Ray cluster."""

import os
import signal

import pytest
import tiny_runs

from softprompt.errors import RecipeError
from softprompt.lab import Protocol, compare, write
from softprompt.sweep import train_all

ray = pytest.importorskip("ray", reason="sweeps on a cluster need Ray: pip install 'softprompt[ray]'")

from softprompt.sweep.workers import check_room, on_ray  # noqa: E402

RATES = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Four prompts: two units of two, of 40 steps each."""
    folder = tmp_path_factory.mktemp("ray")
    return {
        f"lr-{rate}": tiny_runs.recipe(folder, f"optim.lr={rate}", "train.epochs=8", "train.evaluate_every=20")
        for rate in RATES
    }


@pytest.fixture(scope="module")
def local(recipes, tmp_path_factory):
    return train_all(recipes, tmp_path_factory.mktemp("local") / "sweep", at_once=2)


def test_a_sweep_with_a_worker_killed_halfway_leaves_the_same_prompts_as_one_here(recipes, local, tmp_path):
    heard, killed = [], []

    def listen(event):
        heard.append(event)
        if event["event"] == "pass" and not killed and 1 < event["step"] < event["total"]:
            os.kill(event["process"], signal.SIGKILL)
            killed.append((event["process"], event["unit"]))

    with on_ray():
        swept = train_all(recipes, tmp_path / "sweep", at_once=2, listen=listen)
    after = {event["process"] for event in heard if event["event"] == "pass" and event["unit"] == killed[0][1]}
    assert len(after) == 2, "the unit of the killed worker was taken up by another one"
    assert {event["member"] for event in heard if event["event"] == "done"} == set(recipes)
    for ours, theirs in zip(swept.entries, local.entries, strict=True):
        assert ours.prompt.read_bytes() == theirs.prompt.read_bytes(), ours.name
        assert ours.key == theirs.key


def test_a_comparison_with_a_worker_killed_halfway_leaves_the_same_numbers_as_one_here(recipes, tmp_path):
    recipe = next(iter(recipes.values()))
    protocol = Protocol({"words": recipe}, ("prompt_tuning", "prefix"), seeds=2, trials=2)
    heard, killed = [], []

    def listen(event):
        heard.append(event)
        if event["event"] == "pass" and not killed and event["step"] < event["total"]:
            os.kill(event["process"], signal.SIGKILL)
            killed.append(event)

    places = {"here": tmp_path / "here", "ray": tmp_path / "ray"}
    write(compare(protocol, places["here"]), "compare")
    with on_ray():
        found = compare(protocol, places["ray"], listen=listen)
    write(found, "compare")
    passes = [event for event in heard if event["event"] == "pass"]
    assert len({event["process"] for event in passes if event["unit"] == killed[0]["unit"]}) == 2
    units = {
        f"{kind}/words/all/{method}/{name}"
        for kind, name in (("trials", "trial-0"), ("runs", "seed-0"))
        for method in protocol.methods
    }
    assert {event["unit"] for event in passes} == {str(places["ray"] / unit) for unit in units}, "none ran here"
    assert units < {event["member"] for event in heard if event["event"] == "done"}
    for name in ("numbers.json", "runs.csv", "trials.csv", "pairs.csv", "table.tex"):
        assert (places["ray"] / name).read_bytes() == (places["here"] / name).read_bytes(), name
    for prompt in places["here"].rglob("prompt.safetensors"):
        assert prompt.read_bytes() == (places["ray"] / prompt.relative_to(places["here"])).read_bytes()
    assert all((places["ray"] / unit / "clock.json").exists() for unit in units), "counted by who did the work"
    assert all(cost["cpu_seconds_of_a_run"] > 0 and cost["cpu_seconds_of_search"] > 0 for cost in found.seconds)


def test_an_address_where_no_cluster_answers_is_refused():
    with pytest.raises(RecipeError, match="SP-E823"), on_ray("127.0.0.1:1"):
        pass


def test_a_cluster_of_machines_that_are_too_small_is_refused_and_not_waited_for():
    nodes = [
        {"Alive": alive, "Resources": {"CPU": cores}} for alive, cores in ((True, 2.0), (True, 4.0), (False, 16.0))
    ]
    check_room(nodes, 4)
    with pytest.raises(RecipeError, match=r"SP-E823.*4 cores.*8"):
        check_room(nodes, 8)
