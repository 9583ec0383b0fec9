"""Experiments of a user: Python files outside of `experiments/grids`, and faults in their code."""

import sys
import traceback
from collections.abc import Collection
from functools import cache
from pathlib import Path
from types import ModuleType

from configuration.run_config import RunConfig
from core.errors import ConfigError, IrudimenError
from core.file_names import FILE_NAME, FILE_NAME_ADVICE

_MODULE_PREFIX = "experiment_file_"
"""Prefix of module names, so that a file never replaces a module of the same name."""
_EXAMPLE = "docs/guides/experiments.md shows an example"


def load_experiment_file(path: Path, shipped: Collection[str]) -> ModuleType:
    """Return the module of an experiment's file; nothing is written next to the file.

    Args:
        path: The file.
        shipped: Names of the experiments of the repository, which a file must not have: grids are
            stored by the name of their experiment.

    Raises:
        ConfigError: If the file does not exist, can't be run, or defines no experiment.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"--exp {path} {what}; name a Python file, or an experiment of --list")
    if path.suffix != ".py":
        raise ConfigError(f"--exp {path} is not a Python file; its name must end with .py")
    if path.stem in shipped:
        raise ConfigError(
            f"--exp {path}: '{path.stem}' is an experiment of this repository, and grids are named "
            "after their experiment; rename the file"
        )
    if FILE_NAME.fullmatch(path.stem) is None:
        raise ConfigError(f"--exp {path}: grids are named after the file; {FILE_NAME_ADVICE}")
    module = _run_file(path.resolve())
    check_experiment(module, str(path))
    return module


def check_experiment(module: ModuleType, where: str) -> None:
    """Check that a module defines an experiment and states its question.

    Raises:
        ConfigError: If it does not.
    """
    is_recipe = all(hasattr(module, name) for name in ("load", "build_graph", "publish"))
    if not callable(getattr(module, "cells", None)) and not is_recipe:
        raise ConfigError(
            f"{where} defines no function cells(base) that returns the cells of a grid; {_EXAMPLE}"
        )
    if not (module.__doc__ or "").strip():
        raise ConfigError(f"{where} has no docstring; state its question in the first line")


def make_cells(experiment: ModuleType, base: RunConfig) -> list[RunConfig]:
    """Return the configurations of the cells of an experiment.

    Raises:
        ConfigError: If its code fails or returns something else.
    """
    try:
        configs = experiment.cells(base)
    except IrudimenError:
        raise
    except Exception as error:
        raise ConfigError(describe_fault(error, Path(str(experiment.__file__)))) from error
    where = f"{experiment.__file__}: cells(base)"
    if not isinstance(configs, list | tuple):
        raise ConfigError(f"{where} returns {configs!r:.80}; expected a list of configurations")
    if not configs:
        raise ConfigError(f"{where} returns no cells; expected at least one configuration")
    if wrong := [one for one in configs if not isinstance(one, RunConfig)]:
        raise ConfigError(
            f"{where} returns {wrong[0]!r:.80} among its cells; expected a RunConfig, for example "
            "from configuration.axes.vary"
        )
    return list(configs)


def describe_fault(error: BaseException, file: Path) -> str:
    """Describe an exception by the last line of a file that was part of it."""
    line, text = None, str(error)
    if isinstance(error, SyntaxError):
        line, text = error.lineno, error.msg
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(file):
            line = frame.lineno
    place = f"{file}, line {line}" if line else str(file)
    return f"{place}: {type(error).__name__}: {text or 'no message'}; correct the experiment"


@cache
def _run_file(path: Path) -> ModuleType:
    """Run a file as a module of its own, without the cache that an import would write."""
    module = ModuleType(_MODULE_PREFIX + path.stem)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their module
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except IrudimenError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(describe_fault(error, path)) from error
    return module
