"""The command `irudimen` and its shell completion."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.process import command_line

_ROOT = Path(__file__).parents[4]
_CALL = "import sys; from core.process.command_line import main; sys.exit(main(sys.argv[1:]))"


_LIGHT = (
    "data_prep.card",
    "data_prep.embedded",
    "data_prep.new_language",
    "data_prep.photographs",
    "evaluation.contamination",
)
_HELP = """import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit:
    print("loaded:", sorted({"torch", "transformers", "numpy", "mlflow"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("module", _LIGHT)
def test_help_loads_no_heavy_library_and_has_examples(module):
    done = subprocess.run(
        [sys.executable, "-c", _HELP, module],
        capture_output=True, text=True, check=True, cwd=_ROOT,
    )  # fmt: skip
    assert "\nexamples:\n" in done.stdout
    assert done.stdout.endswith("loaded: []\n")


def irudimen(*arguments):
    return subprocess.run(
        [sys.executable, "-c", _CALL, *arguments],
        capture_output=True, text=True, check=False, cwd=_ROOT,
    )  # fmt: skip


def test_every_command_exists_and_is_listed():
    text = command_line.build_parser().format_help()
    for name, (module, _) in command_line.COMMANDS.items():
        assert importlib.util.find_spec(module) is not None
        assert f"\n  {name} " in text


def test_a_command_runs_with_its_options():
    done = irudimen("store", "list", "--root", "missing")
    assert done.returncode == 0, done.stderr
    assert "Grids in missing" in done.stdout
    wrong = irudimen("stroe")
    assert wrong.returncode == 2
    assert "invalid choice" in wrong.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_names_and_options():
    script = (
        f"""irudimen() {{ {sys.executable} -c '{_CALL}' "$@"; }}\n"""
        """eval "$(irudimen completion bash)"
        try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _irudimen; echo "${COMPREPLY[*]}"; }
        try irudimen st
        try irudimen run --exp mix
        try irudimen run --profile pa
        try irudimen store bun
        try irudimen compare --ou"""
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    assert done.stdout.splitlines() == ["store", "mix_ablation", "paper", "bundle", ""]


def test_options_come_from_the_help():
    words = command_line.complete("3", "", "store")
    assert "--help" in words
    assert "--yes" in words
