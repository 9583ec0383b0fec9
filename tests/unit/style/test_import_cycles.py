"""No module imports itself through others, whatever the kind of import."""

import configparser
import graphlib
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).parents[3]


def test_there_are_no_import_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    packages = setup["importlinter"]["root_packages"].split()
    graph = grimp.build_graph(*packages, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 200
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError with the modules
