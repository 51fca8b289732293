"""The shape that docs/architecture.md promises, read from the source: floors, forbidden calls, names of methods."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from softprompt.core import Injection
from softprompt.methods import names

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "softprompt"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
SHOWN = {path: path.relative_to(PACKAGE).as_posix() for path in FILES}
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: SHOWN[path])


def floors() -> dict[str, int]:
    """Module or folder by floor, from the table of the page."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Floors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", table, re.MULTILINE)
    found = [(name.strip("/"), int(floor)) for floor, listed in rows for name in re.findall(r"`([\w/]+)`", listed)]
    assert len(dict(found)) == len(found), "a module on two floors"
    return dict(found)


FLOORS = floors()


def unit(path: Path) -> str:
    """The module or folder of the table that a file belongs to; empty for the package's own surface."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported anywhere in a file, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree: ast.AST) -> set[str]:
    """The units of this package that a file imports."""
    found = {name.split(".")[1] for name in imported(tree) if name.startswith("softprompt.")}
    return found - {"__version__"}


def dotted(node: ast.expr) -> str:
    """`torch.load` of the expression torch.load; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def test_every_module_has_a_floor_and_every_floor_is_there() -> None:
    assert set(FLOORS) == {unit(path) for path in FILES} - {""}


@every_file
def test_a_module_imports_only_its_own_floor_and_lower_ones(path: Path) -> None:
    here = unit(path)
    if not here:
        return  # the surface names what lives below, and imports it on first use
    above = {name for name in ours(TREES[path]) if FLOORS[name] > FLOORS[here]}
    assert not above, f"{SHOWN[path]} (floor {FLOORS[here]}) imports {sorted(above)}"


@pytest.mark.parametrize(("half", "other"), [("engine", "http"), ("http", "engine")])
def test_the_halves_of_the_server_meet_in_their_contract_only(half: str, other: str) -> None:
    for path in (PACKAGE / "serve" / half).rglob("*.py"):
        reached = [name for name in imported(TREES[path]) if name.startswith(f"softprompt.serve.{other}")]
        assert not reached, f"{SHOWN[path]} imports {reached}"


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("transformers", {"attention", "backbones", "template"}),
        ("safetensors", {"container", "checkpoint"}),
        ("pydantic", None),
        ("sklearn", {"baselines", "estimator", "graphrag"}),
        ("fastapi", {"serve"}),
        ("uvicorn", {"serve"}),
        ("typer", {"cli"}),
        ("rich", {"cli"}),
        ("peft", {"joint", "backbones"}),
        ("datasets", {"data"}),
        ("pyarrow", {"data"}),
        ("PIL", {"images"}),
        ("sqlite3", {"store"}),
        ("openai", {"llm", "demo"}),
        ("gepa", {"llm"}),
        ("fsspec", {"store"}),
        ("ray", {"sweep", "serve"}),
        ("vllm", {"serve"}),
    ],
)
def test_a_library_is_imported_only_at_home(library: str, homes: set[str] | None) -> None:
    users = {unit(path) for path, tree in TREES.items() if library in {name.split(".")[0] for name in imported(tree)}}
    assert homes is None or users <= homes


def test_methods_import_the_core_and_other_methods_only() -> None:
    for path in (PACKAGE / "methods").glob("*.py"):
        assert ours(TREES[path]) <= {"core", "methods", "errors"}, SHOWN[path]


FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load", "os.system"}
FORBIDDEN_CALLS |= {f"yaml.{name}" for name in ("load", "full_load", "unsafe_load", "load_all", "unsafe_load_all")}
FORBIDDEN_CALLS |= {"numpy.load", "np.load", "subprocess.run", "subprocess.Popen"}


def forbidden(tree: ast.AST) -> list[str]:
    """What a file does that could run code of a data file, or hide an error."""
    found = [name for name in imported(tree) if name.split(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in FORBIDDEN_CALLS:
            found.append(f"{dotted(node.func)} in line {node.lineno}")
        if isinstance(node, ast.keyword | ast.arg) and node.arg == "trust_remote_code":
            found.append("trust_remote_code")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"bare except in line {node.lineno}")
    return found


@every_file
def test_nothing_runs_code_from_a_file_and_no_error_is_swallowed_unseen(path: Path) -> None:
    assert forbidden(TREES[path]) == []


def methods_named(tree: ast.AST) -> list[str]:
    """Comparisons with the name of a method. `"prefix" in x` asks for a field of an injection, not for a method."""
    known, fields = set(names()), set(Injection.__dataclass_fields__)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            equal = all(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
            texts = {leaf.value for part in parts for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)}
            found += [f"{name} in line {node.lineno}" for name in texts & (known if equal else known - fields)]
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant) and node.value.value in known:
            found.append(f"{node.value.value} in line {node.lineno}")
    return found


@every_file
def test_nothing_branches_on_which_method_it_is(path: Path) -> None:
    if unit(path) == "peft":
        return  # PEFT's files name three methods, so reading and writing them has to
    own = path.stem if unit(path) == "methods" else ""
    concrete = {name for name in imported(TREES[path]) for known in names() if f"softprompt.methods.{known}." in name}
    assert own or not concrete
    assert [found for found in methods_named(TREES[path]) if found.split()[0] != own] == []


def test_the_rules_find_what_they_forbid() -> None:
    """A rule that never fires proves nothing."""
    for code in (
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(x)",
        "eval(x)",
        "yaml.load(x)",
        "f(trust_remote_code=True)",
        "try:\n    f()\nexcept:\n    pass",
    ):
        assert forbidden(ast.parse(code)), code
    assert not forbidden(ast.parse("model.eval()\nyaml.safe_load(x)\nre.compile(x)"))
    for code in ('x == "p_tuning"', 'if m in ("p_tuning", "other"): pass', 'match m:\n    case "prefix": pass'):
        assert methods_named(ast.parse(code)), code
    assert not methods_named(ast.parse('"prefix" in unsupported'))
    assert methods_named(ast.parse('name == "prefix"'))
    assert ours(ast.parse("def f():\n    from softprompt.data import read")) == {"data"}
