"""The command `irudimen`: every command of this project under one name, and shell completion.

`irudimen run --exp smoke` is `python -m experiments.run --exp smoke`, with the same options.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "run": ("experiments.run", "train and evaluate the cells of an experiment"),
    "report": ("experiments.report", "write the report of a grid again"),
    "compare": ("experiments.compare", "compare grids or cells on one page"),
    "store": ("experiments.store", "show, delete, bundle and import results"),
    "chat": ("experiments.chat", "ask a trained cell about an image"),
    "export": ("experiments.export", "write a trained cell as a model of transformers"),
    "ui": ("experiments.ui", "serve MLflow for the runs in an output folder"),
    "sync": ("experiments.sync", "upload runs to an MLflow server"),
    "inspect": ("experiments.inspect_stream", "list the samples of a training step"),
    "skypilot": ("experiments.skypilot", "write a SkyPilot task for spot instances"),
    "evaluate": ("evaluation.run", "evaluate other models on the benchmarks"),
    "judge": ("evaluation.judge", "compare two systems with an LLM judge"),
    "people": ("evaluation.people.run", "serve the annotation page"),
    "index": ("data_prep.index", "index existing WebDataset shards"),
    "prepare": ("data_prep.prepare", "prepare and translate published datasets"),
    "language": ("data_prep.new_language", "write the folder of a new language"),
    "embedded": ("data_prep.embedded", "build the data of the embedded profile"),
}
"""Name of a command -> its module and what it does."""
_COMPLETION = "completion"
_BASH = """_irudimen() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=($(compgen -W "$(irudimen completion words "$COMP_CWORD" "$prev" \\
    "${COMP_WORDS[1]}" 2>/dev/null)" -- "$cur"))
}
complete -o default -F _irudimen irudimen
"""
_SCRIPTS = {"bash": _BASH, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}"}
_WORDS = "words"
_NAMED_GRIDS = frozenset({"compare", "show", "remove", "bundle", "--name"})
"""Words after which the name of a grid follows."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    names = "\n".join(f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="irudimen",
        description="Multimodal LLMs for low-resource languages: controlled experiments.",
        epilog=f"commands:\n{names}\n  {_COMPLETION:<10}print a script of shell completion: "
        'eval "$(irudimen completion bash)"\n\n'
        "examples:\n"
        "  irudimen run --exp smoke\n"
        "  irudimen store list\n\n"
        "Run it in a checkout of the repository. `irudimen COMMAND --help` shows the options of a\n"
        "command; `irudimen COMMAND` is `python -m MODULE` with the same options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*COMMANDS, _COMPLETION], metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Replace this process by that of the command, or print a completion script."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    options: list[str] = parsed.options
    if parsed.command != _COMPLETION:
        module, _ = COMMANDS[parsed.command]
        os.execv(sys.executable, [sys.executable, "-m", module, *options])
    if options[:1] == [_WORDS]:
        print("\n".join(complete(*options[1:4])))  # noqa: T201 - read by the shell
        return 0
    if len(options) != 1 or options[0] not in _SCRIPTS:
        parser.error(f"{_COMPLETION} needs the name of a shell: {' or '.join(_SCRIPTS)}")
    print(_SCRIPTS[options[0]], end="")  # noqa: T201 - evaluated by the shell
    return 0


def complete(place: str = "1", before: str = "", command: str = "") -> list[str]:
    """Return the words that may stand at a place of a command line.

    Args:
        place: Index of the word; 1 is the command.
        before: The word before it.
        command: The command.
    """
    if place == "1":
        return [*COMMANDS, _COMPLETION]
    if before == "--exp":
        return sorted(path.stem for path in Path("experiments/grids").glob("[!_]*.py"))
    if before == "--profile":
        return sorted(path.stem for path in Path("configs").glob("*.yaml"))
    if before == "store":
        return ["list", "show", "remove", "prune", "bundle", "import"]
    if before in _NAMED_GRIDS or command == "compare":
        return sorted(path.parent.name for path in Path("mlruns").glob("grids/*/grid.json"))
    return _options_of(command)


def _options_of(command: str) -> list[str]:
    """Return the options that the help of a command names."""
    import re
    import subprocess

    if command not in COMMANDS:
        return []
    done = subprocess.run(
        [sys.executable, "-m", COMMANDS[command][0], "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", done.stdout)))
