"""The doctor on a part of the bench: every fault once, and some healthy runs.

All hundred subjects take minutes: `python -m tests.doctor.bench`; docs/doctor.md has what came of it.
"""

from pathlib import Path

import pytest

from doctor.bench import HEALTHY, Outcome, outcomes, table
from doctor.sick import FAULTS
from doctor.ward import Ward

SHARE = 0.13  # each fault once, every eighth healthy run
SECONDS = 5.0  # of computing that a look may take


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("ward"), spawn=2)


@pytest.fixture(scope="module")
def done(ward: Ward) -> list[Outcome]:
    return list(outcomes(ward, SHARE))


def test_the_whole_bench_has_sixty_sick_and_forty_healthy_subjects() -> None:
    assert sum(fault.times for fault in FAULTS.values()) == 60
    assert len(HEALTHY) == 40
    assert len(set(HEALTHY)) == 40


def test_every_fault_is_seen(done: list[Outcome]) -> None:
    sick = [one for one in done if one.fault]
    assert {one.fault for one in sick} == set(FAULTS)
    assert [str(one) for one in sick if not one.caught] == []


def test_the_first_advice_is_nearly_always_right(done: list[Outcome]) -> None:
    sick = [one for one in done if one.fault]
    assert sum(one.first for one in sick) >= 0.8 * len(sick), table(done)


def test_healthy_runs_raise_no_alarm(done: list[Outcome]) -> None:
    healthy = [one for one in done if not one.fault]
    assert len(healthy) >= 5
    assert [str(one) for one in healthy if not one.caught] == []


def test_every_finding_has_its_number_its_threshold_and_a_command(done: list[Outcome]) -> None:
    found = [finding for one in done for finding in one.found]
    assert found
    for finding in found:
        assert finding.seen
        assert finding.threshold
        assert finding.command("recipe.yaml")


def test_a_look_takes_less_than_five_seconds(ward: Ward, done: list[Outcome]) -> None:
    assert done
    assert max(ward.looks) < SECONDS


def test_the_command_names_the_recipe_that_was_looked_at(tmp_path: Path) -> None:
    from softprompt.doctor import Finding

    finding = Finding("cannot-move", "error", "0.1", "0.5", settings=("optim.lr=auto", "train.steps=90"))
    wanted = "softprompt train 'my recipe.yaml' --set optim.lr=auto --set train.steps=90"
    assert finding.command("my recipe.yaml") == wanted
