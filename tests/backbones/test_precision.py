"""Number types that a CPU would emulate are refused by name; those that it has, and all on a GPU, are not."""

from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

from softprompt.backbones import load_backbone, precision
from softprompt.backbones.precision import check_precision
from softprompt.errors import Unsupported
from softprompt.training import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OLD = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "f16c": True, "avx512_bf16": False}
ADDITIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


@pytest.fixture
def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: OLD)


@pytest.mark.parametrize("dtype", ADDITIONS)
def test_a_cpu_refuses_what_it_would_emulate(old_cpu: None, dtype: torch.dtype) -> None:
    with pytest.raises(Unsupported, match=rf"SP-E426 found it={str(dtype)[6:]} .*expected .*do: "):
        check_precision(dtype, CPU, "it")
    check_precision(dtype, CUDA, "it")
    check_precision(torch.float32, CPU, "it")
    check_precision(torch.float64, CPU, "it")


@pytest.mark.parametrize(("dtype", "name"), [(dtype, name) for dtype, names in ADDITIONS.items() for name in names])
def test_any_instruction_of_the_type_is_enough_and_for_no_other(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, name: str
) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: OLD | {name: True})
    check_precision(dtype, CPU, "it")
    other = next(kind for kind in ADDITIONS if kind != dtype)
    with pytest.raises(Unsupported, match="SP-E426"):
        check_precision(other, CPU, "it")


def test_where_torch_cannot_tell_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.capabilities() == {}
    check_precision(torch.float16, CPU, "it")


def test_this_machine_is_asked_in_the_names_that_torch_uses() -> None:
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("a torch that cannot tell")
    found: dict[str, Any] = dict(precision.capabilities())
    if found["architecture"] == "x86_64":
        assert {"avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16"} <= found.keys()
    for dtype, names in ADDITIONS.items():
        if any(found.get(name) for name in names):
            check_precision(dtype, CPU, "it")
        else:
            with pytest.raises(Unsupported, match="SP-E426"):
                check_precision(dtype, CPU, "it")


def test_a_backbone_is_refused_before_its_weights_are_read(old_cpu: None, tmp_path: Path) -> None:
    for dtype in ("bfloat16", "float16"):
        with pytest.raises(Unsupported, match=rf"SP-E426.*backbone\.dtype={dtype}"):
            load_backbone(tmp_path / "nowhere", dtype=dtype, device="cpu")


def test_a_run_in_mixed_precision_is_refused_before_its_folder_is_made(old_cpu: None, tmp_path: Path) -> None:
    recipe = tiny_runs.recipe(tmp_path, "train.precision=bfloat16")
    with pytest.raises(Unsupported, match=r"SP-E426.*train\.precision=bfloat16"):
        train(recipe, tmp_path / "run", backbone=tiny_runs.open_model(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cpu_that_has_the_type_loads_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: str) -> None:
    monkeypatch.setattr(precision, "capabilities", lambda: OLD | {"amx_bf16": True, "avx512_fp16": True})
    path = tiny_runs.save_model(tmp_path)
    assert load_backbone(path, dtype=dtype, device="cpu").dtype == getattr(torch, dtype)
