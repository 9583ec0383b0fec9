"""Digest of the code that computes the results of a stage kind.

It is recorded with every result, and `tests/golden` fails if it changes although neither the recipe
version of the kind was raised nor the results were declared unchanged.

The digest covers every top-level definition of this project that the class of the stage refers to,
directly or through other definitions. Changes that can't influence a result are left out:
comments, docstrings, messages of errors and logs, annotations of functions, the place of a
definition, and packages that only plan, launch, store or report.
"""

import ast
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

_PROJECT = Path(__file__).parents[1]
_PACKAGES = frozenset(
    {"core", "models", "datamodules", "lightning_modules", "evaluation", "pipeline"}
)
_LEFT_OUT = (
    "core.config",
    "core.errors",
    "core.process",
    "core.retry",
    "core.snapshots",
    "core.yaml_text",
    "core.io.endpoint",
    "core.io.files",
    "core.io.hub",
    "core.io.jsonl",
    "core.io.loopback",
    "core.io.model_files",
    "core.io.reading",
    "core.io.sealed_folder",
    "datamodules.inspection",
    "datamodules.storage",
    "evaluation.language_content",
    "models.accounting",
    "models.export",
    "pipeline.code_digest",
    "pipeline.content",
    "pipeline.launchers",
    "pipeline.stages.base",
    "pipeline.store",
)
"""Modules without influence on a result. Those that make configurations are among them, because
their effect is part of the address, and those that store or fetch data, because it is verified."""
_ADDRESS_METHODS = frozenset(
    {"choose_inputs", "definitions", "estimate", "from_config", "from_train_config", "manifests",
     "weight_folders"}
)  # fmt: skip
"""Methods of a stage class whose effect is part of the address, or that estimate costs."""
_LOGGERS = frozenset({"_LOG", "warnings"})


_Name: TypeAlias = tuple[str, str]
"""Module and top-level name, or one of the following instead of the name."""
_LOOSE = ""
"""The statements of a module that are not definitions; they run when it is imported."""
_ALL = "*"
"""Everything in a module or package, of which code refers to the module itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeDigest:
    """Digest of the code of a stage kind."""

    digest: str
    """Digest of all definitions, wherever they are."""
    packages: Mapping[str, str]
    """Top-level package -> digest of its definitions, which shows where a change is."""
    definitions: tuple[str, ...]
    """The definitions, as `module:name`."""


@cache
def code_digest(stage: type) -> CodeDigest:
    """Return the digest of the code behind a stage class."""
    found = dict(_reachable((stage.__module__, stage.__name__)))
    by_package: dict[str, list[str]] = {}
    for (module, _), code in found.items():
        by_package.setdefault(module.partition(".")[0], []).append(code)
    return CodeDigest(
        digest=_combine(list(found.values())),
        packages={package: _combine(by_package[package]) for package in sorted(by_package)},
        definitions=tuple(sorted(f"{module}:{name}" for module, name in found)),
    )


def _combine(codes: list[str]) -> str:
    return hashlib.sha256("\0".join(sorted(codes)).encode()).hexdigest()[:16]


def _reachable(start: _Name) -> Iterator[tuple[_Name, str]]:
    """Yield every definition to which another one refers, with its normalised code."""
    waiting, seen = [start], {start}
    while waiting:
        place = waiting.pop()
        module = _read_module(place[0])
        if module is None:
            continue
        references = module.expand(place[1])
        if place[1] in module.code:
            yield place, module.code[place[1]]
        waiting += sorted(references - seen)
        seen |= references


class _Module:
    """A parsed module: the code of its definitions, and what each of them refers to."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._is_package = path.name == "__init__.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self._imports = dict(_project_imports(tree))
        bodies: dict[str, list[ast.stmt]] = {}
        is_stage = name.startswith("pipeline.stages.")
        for statement in _Normaliser(is_stage=is_stage).visit(tree).body:
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                for defined in _defined_names(statement):
                    bodies.setdefault(defined, []).append(statement)
        self.code = {defined: "\n".join(map(ast.unparse, body)) for defined, body in bodies.items()}
        self._bodies = bodies

    def expand(self, name: str) -> set[_Name]:
        """Return what a definition refers to; what it stands for if it is imported or a module."""
        if name == _ALL:
            inner = {(self.name, defined) for defined in self.code}
            return inner | {(child, _ALL) for child in self._children()}
        if name not in self._bodies:
            child = f"{self.name}.{name}"
            imported = {self._imports[name]} if name in self._imports else set()
            return imported or ({(child, _ALL)} if _find(child) else set())
        found = {(self.name, _LOOSE)} if _LOOSE in self._bodies else set()
        for statement in self._bodies[name]:
            found |= self._references(statement)
        return found

    def _references(self, statement: ast.stmt) -> set[_Name]:
        found: set[_Name] = set()
        attributes: dict[int, str] = {}
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                attributes[id(node.value)] = node.attr
        for node in ast.walk(statement):
            if not isinstance(node, ast.Name):
                continue
            if node.id in self._bodies:
                found.add((self.name, node.id))
            elif node.id in self._imports:
                module, name = self._imports[node.id]
                attribute = attributes.get(id(node), "__")
                # `module.__path__` and the like lead to modules that are found at run time.
                is_named = name == _ALL and not attribute.startswith("__")
                found.add((module, attribute if is_named else name))
        return found

    def _children(self) -> list[str]:
        if not self._is_package:
            return []
        folder = _PROJECT / self.name.replace(".", "/")
        names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        names |= {path.parent.name for path in folder.glob("*/__init__.py")}
        return [f"{self.name}.{child}" for child in sorted(names)]


@cache
def _read_module(name: str) -> _Module | None:
    """Parse a module of the project; None for one that can't influence a result."""
    path = _find(name)
    is_left_out = any(name == left or name.startswith(f"{left}.") for left in _LEFT_OUT)
    return None if path is None or is_left_out else _Module(name, path)


def _find(name: str) -> Path | None:
    """Return the file of a module of the project."""
    if name.partition(".")[0] not in _PACKAGES:
        return None
    base = _PROJECT / name.replace(".", "/")
    candidates = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _project_imports(tree: ast.Module) -> Iterator[tuple[str, _Name]]:
    """Yield the local names that a module imports from the project."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _find(alias.name):
                    yield alias.asname or alias.name.partition(".")[0], (alias.name, _ALL)
        elif isinstance(node, ast.ImportFrom) and node.module and _find(node.module):
            for alias in node.names:
                child = f"{node.module}.{alias.name}"
                target = (child, _ALL) if _find(child) else (node.module, alias.name)
                yield alias.asname or alias.name, target


def _defined_names(statement: ast.stmt) -> list[str]:
    """Return the names that a top-level statement defines, or that of loose statements."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    nodes = [node for target in targets for node in ast.walk(target)]
    if any(isinstance(node, ast.Attribute | ast.Subscript) for node in nodes):
        return [_LOOSE]
    return [node.id for node in nodes if isinstance(node, ast.Name)] or [_LOOSE]


class _Normaliser(ast.NodeTransformer):
    """Removes what can't influence a result."""

    def __init__(self, *, is_stage: bool) -> None:
        self._is_stage = is_stage
        self._depth = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        """Remove annotations, and the methods of a stage that concern its address."""
        if self._is_stage and node.name in _ADDRESS_METHODS:
            return None
        node.returns = None
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in (*named, arguments.vararg, arguments.kwarg):
            if argument is not None:
                argument.annotation = None
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Remove annotations of local variables; those of fields belong to their class."""
        self.generic_visit(node)
        if self._depth:
            node.annotation = ast.Name("_", ast.Load())
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Remove docstrings and messages of logs."""
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            owner = value.func.value
            if isinstance(owner, ast.Name) and owner.id in _LOGGERS:
                return None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Remove the message of an error."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name.endswith("Error"):
            node.args, node.keywords = [], []
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Remove the cause of an error."""
        node.cause = None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Remove the message of an assertion."""
        node.msg = None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Remove imports that only type checkers see."""
        is_typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_typing else self.generic_visit(node)
