"""Help is instant, complete, and waits for no library."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from softprompt.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "sklearn", "scipy", "numpy", "safetensors", "pandas"}
LINES = [[name] for name in COMMANDS] + [["recipe", name] for name in ("check", "show", "schema")] + [["data", "check"]]
PROBE = """
import sys
from softprompt.cli import main
codes = [main([*line.split(), "--help"]) for line in sys.argv[1:]]
print(codes, sorted(set(sys.modules) & HEAVY), file=sys.stderr)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=60)


def test_no_help_imports_a_heavy_library():
    lines = ["", *(" ".join(line) for line in LINES)]
    found = python("-c", PROBE.replace("HEAVY", repr(HEAVY)), *lines)
    assert found.stderr.strip() == f"{[0] * len(lines)} []"


def test_help_takes_less_than_half_a_second_of_computing():
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python("-c", "from softprompt.cli import main; main(['train', '--help'])")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_has_help_and_a_json_option(line, capsys):
    assert main([*line, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: softprompt {' '.join(line)}")
    assert "--json" in text


def test_no_arguments_print_the_help(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in [*COMMANDS, "recipe", "data"])
    assert text.count("...") == 1, "a summary was cut"  # the one is of the usage line


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "softprompt 0.1.0\n"
