"""Docstrings and names of the product packages and the benchmarks follow the style guide."""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PACKAGES = (
    "core",
    "models",
    "datamodules",
    "lightning_modules",
    "callbacks",
    "evaluation",
    "data_prep",
    "configuration",
    "planner",
    "pipeline",
    "reporting",
    "serving",
    "experiments",
)
_FRAGMENT = re.compile(
    r"(of|as|with|what|how|under|that|which|where|when|whether)\b", re.IGNORECASE
)
_VAGUE_NAMES = frozenset(
    ("_words", "_name", "_told", "_text", "_read", "_load", "_table", "_line", "_rows")
)
_CHILD = "pipeline.launchers.worker"
"""Not a command of the user: the launchers start it, as a program or a fork."""
_INTERFACE = frozenset({"RULES"})
"""Names that every module of a folder must define: `evaluation/answers/languages`."""
_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]+")
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules(*packages: str) -> list[tuple[str, ast.Module]]:
    """Path and syntax tree of every module of some packages."""
    paths = [path for package in packages for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return [
        (str(path.relative_to(REPOSITORY)), ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    ]


def fragment_faults() -> list[str]:
    """First lines of docstrings that are not complete phrases."""
    found = []
    for path, tree in modules(*PACKAGES, "benchmarks"):
        for node in ast.walk(tree):
            if not isinstance(node, Documented):
                continue
            first = (ast.get_docstring(node) or "A docstring.").partition("\n")[0].rstrip()
            is_whole = len(first.split()) >= 2 and first.endswith((".", ":", "?"))
            if _FRAGMENT.match(first) or not is_whole:
                found.append(f"{path}:{getattr(node, 'lineno', 1)}: {first}")
    return found


def vague_name_faults() -> list[str]:
    """Private functions whose names tell nothing."""
    return [
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in modules(*PACKAGES, "benchmarks")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in _VAGUE_NAMES
    ]


def shared_name_faults() -> list[str]:
    """Public classes and constants that share their name with another."""
    places = defaultdict[str, list[str]](list)
    for path, tree in modules(*PACKAGES):
        for node in tree.body:
            for name in defined_names(node):
                places[name].append(path)
    return [
        f"{name}: {', '.join(paths)}"
        for name, paths in places.items()
        if len(paths) > 1 and name not in _INTERFACE
    ]


def defined_names(node: ast.stmt) -> list[str]:
    """Name of a public class, or names of the public constants that a statement assigns."""
    if isinstance(node, ast.ClassDef):
        return [] if node.name.startswith("_") else [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if _CONSTANT.fullmatch(name)]


@pytest.mark.slow
@pytest.mark.parametrize("collect", [fragment_faults, vague_name_faults, shared_name_faults])
def test_docstrings_and_names_follow_the_style_guide(collect: Callable[[], list[str]]) -> None:
    faults = collect()
    assert not faults, "\n".join([collect.__doc__ or "", *faults])


def imported_modules(path: str, tree: ast.Module) -> set[str]:
    """Absolute names of all modules that a module imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import absolutely"
            module = node.module or ""
            found.update([module, *(f"{module}.{alias.name}" for alias in node.names)])
    return found


def is_command(tree: ast.Module) -> bool:
    """Return whether a module runs as a program."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree.body
    )


def test_no_module_imports_a_command() -> None:
    known = {
        path.removesuffix(".py").replace("/", "."): (path, tree)
        for path, tree in modules(*PACKAGES)
    }
    commands = {name for name, (_, tree) in known.items() if is_command(tree)} - {_CHILD}
    assert len(commands) >= 15
    faults = [
        f"{path} imports {name}"
        for path, tree in known.values()
        for name in sorted(imported_modules(path, tree) & commands)
    ]
    assert not faults, "\n".join(faults)
