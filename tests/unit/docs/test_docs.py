"""Documents name existing files, commands and configuration keys; their lines are not too long."""

import dataclasses
import importlib.util
import re
import subprocess
import typing
from pathlib import Path

import pytest

from configuration.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "languages" / "README.md",
    ROOT / "data" / "culture" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_README_LINES = 120
MAX_COLUMNS = 120
NOT_SHIPPED = (
    "data/paper", "data/prepared", "data/corpus", "data/benchmarks", "data/wiki", "data/small",
    "data/embedded_", "docs/server/.env", "docs/benchmarks/gpu_step_", "docs/benchmarks/small_",
    "mlruns/",
)  # fmt: skip
"""Beginnings of paths that a command creates."""
_PLACEHOLDER = re.compile(r"[*<{]|\.\.\.|\b[A-Z]{2,}\b(?!\.md)")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def prose_lines(text):
    """Lines outside fenced code, indented code and tables."""
    is_code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith(("|", "    ")):
            yield line


def anchors(document):
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tracked_files():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_readme_can_be_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@each_document
def test_lines_are_short(document):
    text = document.read_text(encoding="utf-8")
    assert [line for line in prose_lines(text) if len(line) > MAX_COLUMNS] == []


@each_document
def test_relative_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@each_document
def test_paths_in_backticks_exist(document):
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for quoted in re.findall(r"`([^`\n]+)`", document.read_text(encoding="utf-8")):
        is_path = re.fullmatch(r"[\w./-]+", quoted) and quoted.split("/")[0] in folders
        if not is_path or "/" not in quoted or _PLACEHOLDER.search(quoted):
            continue
        if not quoted.startswith(NOT_SHIPPED):
            assert (ROOT / quoted).exists(), quoted


@each_document
def test_modules_of_commands_can_be_imported(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"python -m ([a-z_][\w.]*\w)", text):
        folder = name.split(".")[0]
        if (ROOT / folder).is_dir():
            assert importlib.util.find_spec(name) is not None, name


def test_the_map_names_every_folder_with_python_files():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {path.parent.as_posix() for path in tracked_files() if path.suffix == ".py"}
    # Tests mirror the packages, so their upper folders describe the rest.
    named = {folder for folder in folders if not folder.startswith("tests/")}
    named |= {"/".join(folder.split("/")[:2]) for folder in folders if folder.startswith("tests/")}
    assert {folder for folder in named - {"tests"} if f"`{folder}/`" not in text} == set()


def test_no_document_has_an_upper_case_name():
    assert [path for path in (ROOT / "docs").rglob("*.md") if path.name != path.name.lower()] == []


def test_every_document_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {name for name in names - {"index.md"} if f"({name})" not in index} == set()


def field_type(kind, key):
    """Type of a key of a dataclass, or of the values of a dictionary."""
    for option in typing.get_args(kind) if not dataclasses.is_dataclass(kind) else ():
        if dataclasses.is_dataclass(option):
            return option if typing.get_origin(kind) is dict else field_type(option, key)
    return typing.get_type_hints(kind)[key]


def test_every_documented_configuration_key_exists():
    text = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    keys = re.findall(r"^\| `(\w+(?:\.\w+)+)` \|", text, re.MULTILINE)
    assert len(keys) > 40
    for key in keys:
        kind = RunConfig
        for part in key.split("."):
            kind = field_type(kind, part)


def test_every_field_of_a_run_is_documented():
    text = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    for section, kind in typing.get_type_hints(RunConfig).items():
        if section in ("align", "backbones"):  # as `instruct`; names are free
            continue
        for field in dataclasses.fields(kind):
            assert f"`{section}.{field.name}" in text, f"{section}.{field.name}"
