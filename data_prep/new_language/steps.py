"""Steps of the command: write and fill in the files, report problems, build and try the data."""

import dataclasses
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from core.errors import DataError
from core.io.files import atomic_write_text
from core.languages import DATA, FOLDER
from data_prep.embedded.concepts import MIN_CONCEPTS
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder
from data_prep.embedded.wordings import load_language
from data_prep.new_language.check import Problem, check_folder
from data_prep.new_language.facts import LanguageFacts, gather_facts, list_help_packages
from data_prep.new_language.first_cell import EXPERIMENT, find_predictions, measure_replies
from data_prep.new_language.questions import ask_for_gaps, confirm
from data_prep.new_language.settings import (
    GRID_PROFILE,
    grid_settings,
    measure_fertility,
)
from data_prep.new_language.template import write_files
from datamodules.shards.manifest import SUFFIX

_BASE = "en"
_MAX_SHOWN = 12
_INCOMPLETE = 1
"""Exit status if files that a grid needs have problems."""
_console = Console(soft_wrap=True, highlight=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CreationPlan:
    """Options of writing the files of a language."""

    name: str = ""
    """English name, where CLDR has none."""
    packages: Path | None = None
    asks: bool = True
    overwrites: bool = False


def create(code: str, folder: Path, plan: CreationPlan) -> int:
    """Write the files that are missing, ask for what nobody provides, and check the files.

    Args:
        code: Language code.
        folder: Folder of all languages.
        plan: How the files are written.

    Raises:
        DataError: If the language is unknown or a package can't be read.
    """
    facts = _gather(code, plan.packages, plan.name)
    _describe(facts)
    own = folder / code
    if plan.overwrites and own.is_dir():
        if plan.asks and not confirm(f"Rename the files in {own} to NAME.old, and write new ones?"):
            return 0
        _set_aside(own)
    _write_missing(facts, own)
    if plan.asks:
        ask_for_gaps(own)
    return report_problems(code, folder)


def report_problems(code: str, folder: Path) -> int:
    """Print what is wrong with the files of a language; return 1 if a grid can't use them."""
    problems = check_folder(code, folder)
    required = [one for one in problems if one.is_required]
    others = [one for one in problems if not one.is_required]
    _print_problems("to correct before a grid can use the language", required)
    _print_problems("to correct before other commands can use the files", others)
    if required:
        _print(f"then check again: python -m data_prep.new_language {code} --check")
        return _INCOMPLETE
    _print(f"{folder / code} can be used; next: python -m data_prep.new_language {code} --build")
    return 0


def build(code: str, folder: Path, out: Path, packages: Path | None) -> int:
    """Build the embedded data of a language, derive the settings, and train a first cell.

    Args:
        code: Language code.
        folder: Folder of all languages.
        out: Folder of the data.
        packages: Folder of the source packages.

    Raises:
        DataError: If the files have problems, or objects have no names.
    """
    if folder.resolve() != FOLDER.resolve():
        raise DataError(f"--build reads {FOLDER}; move {folder / code} there")
    if any(one.is_required for one in check_folder(code, folder)):
        return report_problems(code, folder)
    started = time.perf_counter()
    facts = _gather(code, packages, load_language(code).name)
    names = facts.names | load_language(code).names
    if len(names) < MIN_CONCEPTS:
        raise DataError(
            f"{folder / code / DATA}: {len(names)} objects have a name, {MIN_CONCEPTS} are needed; "
            "write more under `names`"
        )
    _print(f"facts gathered in {time.perf_counter() - started:.0f} s")
    options = ["--languages", _BASE, code, "--out", str(out)]
    options += ["--packages", str(packages)] if packages else []
    _run("data_prep.embedded", options, "building the data")
    root = Path("mlruns") / code
    has_text = (out / f"text_{code}{SUFFIX}").is_file()
    given = ["--root", str(root), "--set", *grid_settings(code, out, has_text=has_text)]
    _run("experiments.run", ["--exp", EXPERIMENT, *given], "training a first cell")
    predictions = find_predictions(root, f"{EXPERIMENT}-{GRID_PROFILE}")
    _print(f"answers to questions in '{code}', counted in {predictions}:")
    for line in measure_replies(predictions, code).describe():
        _print(f"  {line}")
    _print(f"all steps took {(time.perf_counter() - started) / 60:.1f} min")
    _print("the whole grid:")
    _print(shlex.join(["python", "-m", "experiments.run", "--exp", "mix_ablation", *given]))
    return 0


def _gather(code: str, packages: Path | None, name: str) -> LanguageFacts:
    source = PackageFolder(packages or DEFAULT_FOLDER, report=_print)
    return gather_facts(code, source, name=name, help_packages=list_help_packages())


def _describe(facts: LanguageFacts) -> None:
    _print(f"{facts.english_name} ({facts.code}), script {facts.script or 'unknown'}")
    named = f"{len(facts.names)} of {len(facts.english_names)} objects"
    known = {
        "CLDR names": named,
        "name for itself": facts.own_name,
        "yes, no": ", ".join(word for word in (facts.yes, facts.no) if word),
        "numbers": ", ".join(facts.numerals),
        "help pages": facts.help_package,
    }
    for key, value in known.items():
        _print(f"  {key:<16} {value or 'none'}")
    if fertility := measure_fertility(facts, facts.names):
        _print(f"  {'tokens':<16} {fertility.describe()}")
    for gap in facts.describe_gaps():
        _print(f"  nobody provides: {gap}")
    if len(facts.names) < MIN_CONCEPTS:
        _print(
            f"  At least {MIN_CONCEPTS} objects need a name, or no data can be built; with all "
            f"{len(facts.english_names)} the data are as large as those of other languages."
        )
    _print("  You write: wordings of questions, words of categories and places, and prompts.")


def _write_missing(facts: LanguageFacts, own: Path) -> None:
    own.mkdir(parents=True, exist_ok=True)
    for name, text in write_files(facts).items():
        path = own / name
        if path.exists():
            _print(f"kept {path}")
            continue
        atomic_write_text(path, text)
        _print(f"wrote {path}")


def _set_aside(own: Path) -> None:
    """Rename the files of a folder, so that nothing that a person wrote is lost."""
    for path in sorted(own.glob("*.yaml")):
        numbers = (f".old{number or ''}" for number in range(len(list(own.iterdir())) + 1))
        free = next(n for n in numbers if not path.with_name(path.name + n).exists())
        path.rename(path.with_name(path.name + free))
        _print(f"renamed {path} to {path.name}{free}")


def _print_problems(title: str, problems: list[Problem]) -> None:
    if problems:
        _print(f"\n{len(problems)} {title}:")
    for one in problems[:_MAX_SHOWN]:
        _print(f"  {one.describe()}")
    if len(problems) > _MAX_SHOWN:
        last = problems[-1]
        _print(f"  ... and {len(problems) - _MAX_SHOWN} more, the last at {last.path}:{last.line}")


def _run(module: str, options: list[str], title: str) -> None:
    """Run a command of this project.

    Raises:
        DataError: If it fails; it has reported the reason.
    """
    command = [sys.executable, "-m", module, *options]
    _print(f"{title}: {shlex.join(['python', *command[1:]])}")
    started = time.perf_counter()
    status = subprocess.run(command, check=False).returncode
    if status:
        raise DataError(f"{title} failed with status {status}; correct what it reports above")
    _print(f"{title} took {time.perf_counter() - started:.0f} s")


def _print(text: str) -> None:
    _console.print(escape(text))
