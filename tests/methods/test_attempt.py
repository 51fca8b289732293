"""ATTEMPT equals its formula, P' + sum_j a_j P_j, written out row by row; its sources come from files and stay put."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import speakers
import tiny_runs
import torch
from families import H, P, backbone, batch, start
from torch import Tensor
from torch.testing import assert_close

from softprompt.artifact import Artifact
from softprompt.backbones import Backbone
from softprompt.core import TEXT, Batch, Example, Spec, Start
from softprompt.errors import ArtifactError, RecipeError, Unsupported
from softprompt.methods.attempt import Attempt, keys, largest
from softprompt.plan import make_plan
from softprompt.recipe import make_recipe
from softprompt.store.facts import beside
from softprompt.training import resume, train

N = 3  # source prompts of the tests


def moved(**options: Any) -> Attempt:
    """Away from where it began, so far that rows look for different prompts."""
    torch.manual_seed(3)
    frozen = backbone("llama")
    method = Attempt(frozen.spec, start(frozen), bottleneck=8, **options).eval()
    with torch.no_grad():
        method.get_buffer("library").normal_(std=frozen.spec.rms)
        for weight in method.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return method


def text(data: Batch) -> Tensor:
    return backbone("llama").tokens(data.input_ids)


def shares_of_row(method: Attempt, data: Batch, row: int, temperature: float) -> Tensor:
    """The shares [N + 1] of one row as the paper writes them, with keys and scores at the scale that we document."""
    own = [t for t in range(data.input_ids.shape[1]) if data.mask[row, t] and data.slots[row, t] == TEXT]
    x = torch.stack([text(data)[row, t] for t in own]).max(0).values / method.spec.rms
    inner = method.down.weight @ x
    outer = method.up.weight @ (inner * torch.sigmoid(inner))
    normed = (outer - outer.mean()) / (outer.var(correction=0) + 1e-5).sqrt()
    h = normed * method.norm.weight + method.norm.bias
    scores = []
    for prompt in [*method.get_buffer("library"), method.prompt]:
        key = prompt.max(0).values
        scores.append(h @ key / key.square().mean().sqrt() / (temperature * H**0.5))
    return torch.stack(scores).softmax(0)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("left", [False, True])
@torch.no_grad()
def test_the_prompt_is_the_formula(temperature: float, left: bool) -> None:
    method, data = moved(temperature=temperature), batch("llama", slots=P, left=left)
    given = method(data, text(data)).embeds
    assert given is not None
    for row in range(len(data)):
        shares = shares_of_row(method, data, row, temperature)
        wanted = method.prompt + shares[N] * method.prompt
        for j in range(N):
            wanted = wanted + shares[j] * method.get_buffer("library")[j]
        assert_close(given[row], wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(given[0], given[1], atol=1e-3)  # rows do differ


def test_it_has_as_many_parameters_as_the_paper_says() -> None:
    """ld + 2*d*100 + 2d; 231,936 on T5-base with 100 vectors, the paper's 232K; sources are none of them."""
    base = Spec(kind="seq2seq", hidden=768, states=768, layers=12, kv_heads=12, head_dim=64, decoder_layers=12)
    method = Attempt(base, Start(torch.ones(100, 768), sources=torch.ones(6, 100, 768)))
    assert sum(p.numel() for p in method.parameters()) == 100 * 768 + 2 * 768 * 100 + 2 * 768 == 231_936


@torch.no_grad()
def test_one_temperature_fits_embeddings_of_any_scale() -> None:
    """T5's prompts have an rms of about 50, Llama's of 0.02; both get the same shares."""
    found = []
    for scale in (0.02, 50.0):
        torch.manual_seed(0)
        spec = Spec("causal", hidden=H, states=H, layers=2, kv_heads=2, head_dim=8, rms=scale)
        method = Attempt(spec, Start(torch.randn(P, H) * scale, sources=torch.randn(N, P, H) * scale))
        found.append(method.shares(method.query(torch.randn(2, H) * scale), keys(method.get_buffer("library"))))
    assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    assert found[0].std() > 1e-3


@torch.no_grad()
def test_padding_slots_and_answers_are_never_attended() -> None:
    data = batch("llama", slots=P)
    taught = torch.zeros_like(data.mask)
    taught[:, -4:-2] = True
    kept = data.mask & (data.slots == TEXT) & ~taught
    loud = text(data).masked_fill(~kept[..., None], 1e4)  # louder than any token
    assert largest(Batch(data.input_ids, data.mask, data.slots, answer=taught), loud).max() < 1e3
    assert largest(data, loud).max() == 1e4  # so the answer is what it left out


@torch.no_grad()
def test_a_row_without_text_looks_for_nothing_and_gets_numbers() -> None:
    data = batch("llama", slots=P)
    empty = Batch(data.input_ids, data.mask & (data.slots != TEXT), data.slots)
    assert largest(empty, text(data)).eq(0).all()
    made = moved()(empty, text(data)).embeds
    assert made is not None
    assert made.isfinite().all()


def test_sources_are_stored_and_not_trained() -> None:
    frozen, data = backbone("llama"), batch("llama", slots=P)
    begin = start(frozen)
    assert begin.sources is not None
    method = Attempt(frozen.spec, begin)
    made = method(data, text(data)).embeds
    assert made is not None
    made.square().sum().backward()
    assert torch.equal(method.state_dict()["library"], begin.sources)
    assert {name for name, _ in method.named_parameters()} & {"library"} == set()
    assert method.sources == method.options()["sources"] == N


@pytest.mark.parametrize(
    "options", [{"sources": N + 1}, {"bottleneck": 0}, {"temperature": 0.0}, {"temperature": -1.0}]
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"sources=|temperature="):
        Attempt(backbone("llama").spec, start(backbone("llama")), **options)


def test_images_have_no_text_to_look_at() -> None:
    with pytest.raises(Unsupported, match="SP-E410"):
        Attempt(backbone("vit").spec, start(backbone("vit")))


# Sources as files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def model(folder: Path) -> Backbone:
    return tiny_runs.open_model(folder)


@pytest.fixture(scope="module")
def sources(folder: Path, model: Backbone) -> list[str]:
    """Two prompts of four vectors, trained a little."""
    made = [tiny_runs.recipe(folder, "train.epochs=1", f"train.seed={seed}") for seed in (1, 2)]
    return [str(train(r, folder / f"source{i}", backbone=model).artifact) for i, r in enumerate(made)]


def target(folder: Path, sources: list[str], *settings: str) -> Any:
    return tiny_runs.recipe(folder, "method.name=attempt", f"init.sources=[{', '.join(sources)}]", *settings)


def test_a_run_reads_its_sources_learns_and_answers_the_same_from_its_file(
    folder: Path, model: Backbone, sources: list[str], tmp_path: Path
) -> None:
    losses: list[float] = []

    def listen(event: dict[str, Any]) -> None:
        losses.extend([event["loss"]] if "loss" in event else [])

    made = target(folder, sources, "train.epochs=6")
    result = train(made, tmp_path / "run", backbone=model, listen=listen)
    assert sum(losses[-5:]) < sum(losses[:5])
    stored = Artifact.load(result.artifact)
    for one, path in zip(stored.tensors["method.library"], sources, strict=True):
        assert torch.equal(one, Artifact.load(path).tensors["method.prompt"])
    assert stored.card.method.options["sources"] == 2
    assert stored.card.parents == ("prompt.safetensors", "prompt.safetensors")
    hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in sources]
    assert [parent.sha256 for parent in beside(result.artifact, stored)] == hashes
    examples = [Example({"text": f"w{10 + i} w{60 + i}"}) for i in range(6)]
    assert stored.bind(model).predict(examples) == result.prompt.predict(examples)
    for path in sources:
        assert str(Path(path).parent) not in stored.card.model_dump_json()


def test_a_run_that_is_stopped_goes_on_to_the_same_bits_from_another_folder(
    folder: Path, model: Backbone, sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    made = target(folder, [str(Path(path).relative_to(folder)) for path in sources])
    whole = train(made, tmp_path / "whole", backbone=model).artifact.read_bytes()

    def stop(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "run", backbone=model, listen=stop)
    monkeypatch.chdir(tmp_path)
    assert resume(tmp_path / "run", backbone=model).artifact.read_bytes() == whole


def test_a_row_gets_the_prompt_in_training_that_it_gets_when_it_is_answered(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for i, path in enumerate(paths):
        torch.manual_seed(i)
        Artifact.of(speakers.prompt("llama", head="lm"), {}, {}).save(path)
    prompt = speakers.prompt("llama", "attempt", "lm", init={"sources": [str(path) for path in paths]})
    examples = speakers.examples("lm")
    with torch.no_grad():
        taught = prompt.inject(prompt.batch([prompt.row(example) for example in examples])).embeds
        rows = [prompt.row(example, labelled=False) for example in examples]
        asked = prompt.inject(prompt.batch(rows, side="left")).embeds
    assert taught is not None
    assert_close(taught, asked, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(taught[0], taught[1], atol=1e-3)


def test_a_method_that_reads_sources_is_refused_without_any_and_others_with_some(
    folder: Path, model: Backbone, sources: list[str]
) -> None:
    with pytest.raises(RecipeError, match=r"SP-E207 found method attempt without init\.sources"):
        make_plan(target(folder, []), model)
    with pytest.raises(RecipeError, match=r"SP-E207 found init\.sources for prompt_tuning"):
        make_plan(target(folder, sources, "method.name=prompt_tuning"), model)


def refused(sources: list[Path], **more: Any) -> str:
    """What is said of sources for a target of P vectors on a tiny Llama."""
    with pytest.raises((RecipeError, ArtifactError)) as caught:
        speakers.prompt("llama", "attempt", init={"sources": [str(path) for path in sources]}, **more)
    return str(caught.value)


def test_sources_of_another_length_space_or_backbone_are_refused_with_the_reason(tmp_path: Path) -> None:
    fitting, longer, keyed, foreign = (tmp_path / name for name in ("fitting", "longer", "keyed", "foreign"))
    Artifact.of(speakers.prompt("llama"), {}, {}).save(fitting)
    Artifact.of(speakers.prompt("llama", length=P + 1), {}, {}).save(longer)
    Artifact.of(speakers.prompt("llama", "prefix"), {}, {}).save(keyed)
    other = speakers.fresh("llama", seed=8)
    Artifact.of(speakers.prompt("llama", backbone=other), {}, {}).save(foreign)
    assert refused([fitting, longer]).startswith(f"SP-E231 found shape ({P + 1}, 32) in longer; expected ({P}, 32)")
    assert refused([fitting, keyed]).startswith("SP-E231 found stacks.encoder.prefix, stacks.encoder.unit in keyed")
    assert "expected plain vectors among the input embeddings" in refused([fitting, keyed])
    assert "SP-E320" in refused([fitting, foreign])
    assert "weights" in refused([fitting, foreign])
    assert refused([fitting, tmp_path / "absent"]).startswith("SP-E308")
    assert "sources=3, but 1 source prompts" in refused([fitting], options={"sources": 3})


def test_a_shared_recipe_names_sources_without_their_folders(tmp_path: Path) -> None:
    paths = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    made = make_recipe({"method": {"name": "attempt"}, "init": {"sources": paths}})
    assert make_recipe(made.shared()).init.sources == ("a.safetensors", "b.safetensors")
    assert make_recipe({"init": {"sources": paths, "source": "c"}}).init.files == ("c", *paths)
