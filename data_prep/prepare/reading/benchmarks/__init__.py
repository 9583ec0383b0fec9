"""Readers of published benchmarks whose files are not tables of questions.

One module per benchmark, named by the `reader` of a recipe in `data_prep/benchmarks/`. Its function
`read(place)` yields rows with the columns that the recipe names. Code of a data set is never run.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from core.errors import ConfigError, unknown_name


def read_benchmark(reader: str, place: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a benchmark in one language.

    Args:
        reader: Name of a module of this package.
        place: Location of the rows, as the module describes it.

    Raises:
        ConfigError: If there is no such module.
        DataError: If a file is missing or damaged.
    """
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if reader not in known:
        raise ConfigError(unknown_name("reader of a benchmark recipe", reader, known))
    rows: Iterator[dict[str, Any]] = importlib.import_module(f"{__name__}.{reader}").read(place)
    yield from rows
