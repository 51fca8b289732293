"""The cost of a run, worked out beforehand, against what is counted while it runs: ours, and PEFT's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import speakers
import tiny_runs
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from softprompt import training
from softprompt.collate import collate, pack
from softprompt.core import IGNORE, TEXT, Row
from softprompt.cost import Model, announce, rehearse
from softprompt.engine import choose
from softprompt.frozen import remember
from softprompt.plan import Plan
from softprompt.prompt import Prompt
from softprompt.recipe import make_recipe
from softprompt.run import Log, snapshot
from softprompt.sizes import front

ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
COUNTED: dict[Any, Callable[..., int]] = {
    ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),  # type: ignore[no-untyped-call]
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v)  # type: ignore[no-untyped-call]
    ),
}
Work = Callable[[], object]


def operations(work: Work) -> int:
    """Operations of the products that `work` executes."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        work()
    return int(counter.get_total_flops())


def kept(work: Work, *models: torch.nn.Module) -> int:
    """Bytes that `work` keeps for its backward pass, each storage once, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for model in models for weight in model.parameters()}
    held: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used again

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            held[place.data_ptr()] = place.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(held.values())


def planned(prompt: Prompt, head: str, family: str, **settings: Any) -> tuple[Plan, list[Row], Model]:
    """One batch of eight rows, laid out as training would, and its cost."""
    examples = speakers.examples(head, family) * 2
    plan = Plan(make_recipe({"train": {"batch_size": 8, **settings}}), examples, examples, examples, (), {})
    rows = [prompt.row(example) for example in examples]
    choose(prompt, rows, plan.recipe.train.engine, lambda event: None)
    return plan, rows, Model(prompt, plan, rows)


def step(prompt: Prompt, rows: list[Row]) -> Work:
    """Forward and back over one batch."""

    def work() -> None:
        prompt.zero_grad(set_to_none=True)
        prompt.loss(prompt.batch(rows)).backward()  # type: ignore[no-untyped-call]

    return work


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
@pytest.mark.parametrize("head", ["lm", "verbalizer", "classifier"])
@pytest.mark.parametrize("engine", ["packed", "plain"])
def test_operations_and_bytes_are_those_of_the_step(family: str, method: str, head: str, engine: str) -> None:
    prompt = speakers.prompt(family, method, head)
    _, _, model = planned(prompt, head, family, engine=engine)
    bill, work = model.ours(model.batches[0]), step(prompt, model.batches[0])
    batch = prompt.batch(model.batches[0])
    assert bill.tokens == training.computed(batch)
    assert bill.operations == pytest.approx(operations(work), rel=0.1)
    assert bill.kept == pytest.approx(kept(work, prompt.backbone, prompt), rel=0.25)


OTHERS = [("bert", "verbalizer"), ("bert", "tagger"), ("t5", "lm"), ("t5", "classifier"), ("bart", "lm")]


@pytest.mark.parametrize(("family", "head"), [*OTHERS, ("vit", "classifier")])
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_models_of_other_kinds_are_priced_too(family: str, head: str, method: str) -> None:
    prompt = speakers.prompt(family, method, head)
    _, _, model = planned(prompt, head, family)
    bill, work = model.ours(model.batches[0]), step(prompt, model.batches[0])
    assert bill.operations == pytest.approx(operations(work), rel=0.1)
    assert bill.kept == pytest.approx(kept(work, prompt.backbone, prompt), rel=0.25)


def test_what_peft_would_have_cost_is_what_peft_costs() -> None:
    peft = pytest.importorskip("peft")
    prompt = speakers.prompt("llama", "prompt_tuning", "lm", backbone=speakers.fresh("llama"))
    _, rows, model = planned(prompt, "lm", "llama")
    bill = model.theirs(rows)
    texts = [[i for i, slot in zip(row.ids, row.slots, strict=True) if slot == TEXT] for row in rows]
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    prompt.backbone.model.set_attn_implementation("sdpa")
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=speakers.P)
    theirs = peft.get_peft_model(prompt.backbone.model, settings)

    def work() -> None:
        theirs(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()

    assert bill.tokens == len(rows) * (longest + speakers.P)
    assert bill.operations == pytest.approx(operations(work), rel=0.1)
    assert bill.kept == pytest.approx(kept(work, theirs), rel=0.25)


def test_ours_is_cheaper_than_theirs_where_rows_share_and_the_same_where_they_cannot() -> None:
    packs = planned(speakers.prompt("llama", head="lm"), "lm", "llama")[2].run(0)
    assert packs.epoch_tokens < 0.7 * packs.peft_epoch_tokens
    assert packs.operations < 0.5 * packs.peft_operations
    assert packs.kept_bytes < 0.5 * packs.peft_kept_bytes
    padded = planned(speakers.prompt("bart", head="classifier"), "classifier", "bart")[2].run(0)
    assert (padded.epoch_tokens, padded.operations) == (padded.peft_epoch_tokens, padded.peft_operations)


def test_the_model_is_not_run_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = speakers.prompt("llama", backbone=speakers.fresh("llama"))
    plan, rows, _ = planned(prompt, "verbalizer", "llama")

    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(prompt.backbone.model, "forward", run)
    monkeypatch.setattr(prompt.backbone.stack(), "forward", run)  # type: ignore[operator]
    assert Model(prompt, plan, rows).run(0).operations > 0


def test_recomputing_activations_costs_operations_and_saves_bytes() -> None:
    prompt = speakers.prompt("llama", head="lm")
    once = planned(prompt, "lm", "llama")[2].run(0)
    again = planned(prompt, "lm", "llama", checkpointing=True)[2].run(0)
    assert 1.2 * once.operations < again.operations < 1.6 * once.operations
    assert again.kept_bytes < 0.6 * once.kept_bytes


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("known", [False, True])
def test_layers_below_a_prefix_pass_no_gradient_and_are_not_run_where_their_states_are_known(
    tmp_path: Path, layer: int, known: bool
) -> None:
    options = {"layers": f"{layer}-{families.L - 1}"} if layer else {}
    prompt = speakers.prompt("llama", "prefix", "lm", options=options)
    plan, rows, _ = planned(prompt, "lm", "llama")
    if known and layer:
        rows = remember(prompt, plan, rows, tmp_path, lambda event: None)
        assert rows[0].below is not None
    model = Model(prompt, plan, rows)
    bill, work = model.ours(rows), step(prompt, rows)
    assert bill.operations == pytest.approx(operations(work), rel=0.1)
    assert bill.kept == pytest.approx(kept(work, prompt.backbone, prompt), rel=0.25)


def test_what_is_left_is_a_share_of_the_whole() -> None:
    _, _, model = planned(speakers.prompt("llama"), "verbalizer", "llama", steps=10)
    whole, rest = model.run(0), model.run(6)
    assert (whole.steps, rest.steps) == (10, 4)
    assert rest.operations == pytest.approx(0.4 * whole.operations, rel=1e-6)
    assert rest.kept_bytes == whole.kept_bytes


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_the_packed_batch(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def row() -> Row:
        ids = torch.randint(0, 2, (int(torch.randint(2, 9, (1,), generator=g)),), generator=g).tolist()
        labels = torch.where(torch.rand(len(ids), generator=g) < 0.2, 1, IGNORE).tolist()
        return Row([7, 7, *ids], [0, TEXT, *[TEXT] * len(ids)], [IGNORE, IGNORE, *labels])

    rows = [row() for _ in range(3)]
    packing = pack(collate(rows))
    assert packing is not None
    assert front(rows) == packing.front


def test_measuring_leaves_weights_and_random_numbers_as_they_were(tmp_path: Path) -> None:
    prompt = speakers.prompt("llama", backbone=speakers.fresh("llama"))
    plan, rows, _ = planned(prompt, "verbalizer", "llama")
    weights, numbers = snapshot(prompt), torch.get_rng_state()
    events: list[dict[str, Any]] = []
    announce(prompt, plan, rows, 0, Log(tmp_path / "log.jsonl", 0), events.append)
    assert all(torch.equal(weights[name], value) for name, value in snapshot(prompt).items())
    assert torch.equal(numbers, torch.get_rng_state())
    assert all(weight.grad is None for weight in prompt.parameters())
    assert not prompt.training
    assert events[0]["seconds"] >= 0


def test_seconds_grow_with_what_is_left_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _, model = planned(speakers.prompt("llama"), "verbalizer", "llama", steps=10)
    monkeypatch.setattr(model, "trial", lambda rows: 2.0)
    operations = model.run(0).operations
    # Ten steps of one batch of two seconds, and dev, as large as train, scored forward alone after each.
    assert plan.steps_per_epoch == 1
    assert model.seconds(operations, 0) == pytest.approx(10 * 2.0 + 10 * 1.0)
    assert model.seconds(model.run(6).operations, 6) == pytest.approx(4 * 2.0 + 4 * 1.0)


# In a run


@pytest.mark.parametrize("engine", ["auto", "plain"])
def test_a_run_is_told_before_its_first_step_and_costs_what_was_said(tmp_path: Path, engine: str) -> None:
    events: list[dict[str, Any]] = []
    recipe = tiny_runs.recipe(tmp_path, "train.epochs=1", f"train.engine={engine}")
    training.train(recipe, tmp_path / "run", listen=events.append)
    kinds = [event["event"] for event in events]
    cost = events[kinds.index("cost")]
    assert kinds.index("cost") < kinds.index("step")
    assert cost["epoch_tokens"] == sum(event["tokens"] for event in events if event["event"] == "step")
    if engine == "plain":
        assert cost["epoch_tokens"] == cost["peft_epoch_tokens"]
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert first == {name: value for name, value in cost.items() if name != "seconds"}


def test_a_resumed_run_is_told_of_the_rest_and_its_log_holds_the_cost_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_runs.recipe(tmp_path)
    model = tiny_runs.open_model(tmp_path)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, tmp_path / "run", backbone=model, listen=stop)
    events: list[dict[str, Any]] = []
    training.resume(tmp_path / "run", backbone=model, listen=events.append)
    cost = next(event for event in events if event["event"] == "cost")
    assert 0 < cost["step"] <= 5
    training.train(recipe, tmp_path / "whole", backbone=model)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("run", "whole")]
    assert logs[0] == logs[1]
    assert logs[0].count('"cost"') == 1


def test_a_rehearsal_prices_a_recipe_and_writes_nothing(tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    events: list[dict[str, Any]] = []
    rehearse(recipe, events.append)
    assert [event["event"] for event in events if event["event"] != "note"] == ["plan", "cost"]
    assert sorted(tmp_path.rglob("*")) == before
