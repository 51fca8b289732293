"""Two ranks that train one prompt, started as a user starts them, over gloo on the CPU."""

import json
import shutil

import pytest
import tiny_runs
import torch
from two_ranks import launched, steps, tensors

from softprompt.training import resume, train

pytest.importorskip("accelerate", reason="several ranks need accelerate: pip install 'softprompt[accelerate]'")

SETTINGS = (
    "train.accumulate=2",
    "train.batch_size=5",
    "method.name=prefix",
    "train.epochs=3",
    "train.evaluate_every=2",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same recipe on one rank and on two: 40 rows, 10 a step in two batches of 5, so that shares are unequal."""
    folder = tmp_path_factory.mktemp("ranks")
    recipe = tiny_runs.recipe(folder, *SETTINGS)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    train(recipe, folder / "one")
    done = launched("-m", "softprompt", "train", str(folder / "recipe.yaml"), "--run", str(folder / "two"), "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done


def test_two_ranks_end_where_one_does_at_the_same_global_batch(runs):
    folder, _ = runs
    ours, theirs = steps(folder / "two"), steps(folder / "one")
    assert len(ours) == len(theirs) == 12
    for two, one in zip(ours, theirs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["norm"] == pytest.approx(one["norm"], rel=1e-4)
    found, wanted = tensors(folder / "two"), tensors(folder / "one")
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-5)


def test_each_of_two_ranks_computes_a_part_of_the_rows(runs):
    folder, _ = runs
    assert json.loads((folder / "two" / "run.json").read_text())["ranks"] == 2
    template = [
        two["tokens"] - one["tokens"] for two, one in zip(steps(folder / "two"), steps(folder / "one"), strict=True)
    ]
    assert max(template) < min(step["tokens"] for step in steps(folder / "one")) / 2  # not each of them all
    assert json.loads((folder / "one" / "run.json").read_text())["ranks"] == 1


def test_the_first_rank_alone_writes_and_speaks(runs):
    folder, done = runs
    assert json.loads(done.stdout)["run"] == str(folder / "two")  # one document, not two
    assert done.stderr.count("training ") == 1
    assert sorted(path.name for path in (folder / "two").iterdir()) == sorted(
        path.name for path in (folder / "one").iterdir()
    )


def test_a_run_of_two_ranks_is_resumed_on_one(runs):
    folder, _ = runs
    place = folder / "resumed"
    shutil.copytree(folder / "two", place)
    for name in ("prompt.safetensors", "report.json"):
        (place / name).unlink()
    newest = sorted((place / "states").glob("*.sp"))
    newest[-1].unlink()  # as if it had been killed before the last step
    resume(place)
    for name, tensor in tensors(place).items():
        torch.testing.assert_close(tensor, tensors(folder / "one")[name], rtol=1e-4, atol=1e-5)
