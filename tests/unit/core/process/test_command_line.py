"""The command `irudimen` and its shell completion."""

import argparse
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.process import command_line

_ROOT = Path(__file__).parents[4]
_CALL = "import sys; from core.process.command_line import main; sys.exit(main(sys.argv[1:]))"

_MODULES = {
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__main__"): path
    for package in ("data_prep", "evaluation", "experiments")
    for path in sorted((_ROOT / package).rglob("*.py"))
    if "\nif __name__ == " in path.read_text(encoding="utf-8")
}
"""Every command that is run with `python -m`."""
_HELP = """import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit:
    print("loaded:", sorted({"torch", "transformers", "numpy", "mlflow"} & sys.modules.keys()))
"""


class _ParsedError(Exception):
    """The options of a command are valid; it goes no further."""


def check_examples(text, monkeypatch):
    """Parse every example of a help text, and find the shipped files that it names."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments, **named):
        parse(*arguments, **named)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    examples = text.partition("\nexamples:\n")[2].replace("\\\n", " ")
    found = re.findall(r"^ +(?:\w+=\S+ )?python -m (\S+)(.*)$", examples, re.MULTILINE)
    assert found, "no examples"
    for module, options in found:
        is_package = _MODULES[module].name == "__main__.py"
        command = importlib.import_module(f"{module}.__main__" if is_package else module)
        with pytest.raises(_ParsedError):
            command.main(shlex.split(options, comments=True))
        for path in re.findall(r"(?:configs|data/embedded|data/culture)/[^\s']+", options):
            assert (_ROOT / path).exists(), path


@pytest.mark.parametrize("module", _MODULES)
def test_help_loads_no_heavy_library_and_has_valid_examples(module, monkeypatch):
    done = subprocess.run(
        [sys.executable, "-c", _HELP, module],
        capture_output=True, text=True, check=True, cwd=_ROOT,
    )  # fmt: skip
    assert done.stdout.endswith("loaded: []\n")
    check_examples(done.stdout, monkeypatch)


def test_help_of_every_command_is_recorded():
    recorded = {path.stem for path in (_ROOT / "tests/golden/help").glob("*.txt")}
    assert recorded == _MODULES.keys()


@pytest.mark.parametrize("module", _MODULES)
def test_an_empty_path_is_no_path(module):
    """An unset variable of the shell would name the working directory."""
    assert "type=Path" not in _MODULES[module].read_text(encoding="utf-8")


def irudimen(*arguments):
    return subprocess.run(
        [sys.executable, "-c", _CALL, *arguments],
        capture_output=True, text=True, check=False, cwd=_ROOT,
    )  # fmt: skip


def test_every_command_exists_and_is_listed():
    text = command_line.build_parser().format_help()
    assert "\nexamples:\n" in text
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
