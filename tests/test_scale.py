"""benchmarks/scale.py: what it predicts of our own measurements, its replica against sums by hand, its page."""

import json
import sys
from collections import OrderedDict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale():
    """The benchmark, which imports its neighbours."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import scale
    finally:
        sys.path.pop(0)
    return scale


def test_two_numbers_of_the_machine_predict_what_was_measured(scale):
    serve, train = (scale.load(f"{name}.json") for name in ("serve", "train"))
    checks = scale.checks(scale.fitted(serve), serve, train)
    assert {check.fitted for check in checks} == {True, False}
    for check in checks:
        assert abs(check.error) < (1e-6 if check.fitted else 0.5), check.what


def test_a_model_of_70_billion_parameters_is_counted_by_its_sizes(scale):
    model = scale.llama(2, **scale.LARGE)
    assert model.weights == pytest.approx(70.6e9, rel=1e-3)
    assert model.place == 2 * 80 * 8 * 128 * 2
    per_layer = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28_672
    assert model.operations(1, 0, 1) == 2 * (80 * per_layer + 8192 * 128_256)


def test_a_replica_answers_every_request_and_takes_what_its_steps_take(scale):
    model, slow = scale.small("15M"), scale.Machine(1e9, float("inf"))
    asked = scale.Asked(0.0, 0, 10, 3)
    replica = scale.Replica(model, slow, 5, store=OrderedDict.fromkeys([0])).serve([asked])
    steps = [model.operations(10, 10 * (5 + 10), 1), *(model.operations(1, 5 + 10 + i + 1, 1) for i in range(2))]
    assert replica.taken == [pytest.approx(sum(steps) / 1e9)]
    cold = scale.Replica(model, slow, 5).serve([asked])
    assert cold.missed == 1
    assert cold.busy > replica.busy, "a prompt that is not in the store is run first"
    bytes_alone = scale.Machine(float("inf"), 1.0)
    many = [scale.Asked(0.0, i, 10, 3) for i in range(40)]
    found = scale.Replica(model, bytes_alone, 0, store=OrderedDict.fromkeys(range(40))).serve(many)
    assert len(found.taken) == 40
    assert 6 < found.busy / (model.weights * 4) < 6.5, "two waves of at most 32 rows, three steps each"


def test_the_least_recently_used_prompt_leaves_the_store(scale):
    replica = scale.Replica(scale.small("15M"), scale.Machine(1e9, 1e9), 5, held=2)
    assert [replica.touch(prompt) for prompt in (1, 2, 1, 3, 2)] == [False, False, True, False, False]


def test_traffic_has_the_rate_that_was_asked_for_and_prompts_stay_at_home(scale):
    requests = scale.traffic(1000, 5.0, 100, 32, 0, 1.0)
    assert len(requests) == pytest.approx(5000, rel=0.05)
    assert max(asked.prompt for asked in requests) < 100
    parts = scale.shared(requests, 4, home=True)
    homes = [{asked.prompt for asked in part} for part in parts]
    assert sum(map(len, parts)) == len(requests)
    assert len(homes[0] & homes[1]) <= 1, "but for prompts that would fill half a replica"


def test_the_page_is_what_the_file_says(scale):
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- scale: begin -->")[2].partition("<!-- scale: end -->")[0]
    assert shown.strip() == scale.page(json.loads(scale.RESULTS.read_text(encoding="utf-8"))).strip()
