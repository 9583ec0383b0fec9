"""Fixtures of the tests of several processes."""

import pytest

from tests.support.ranks import World, build_ranks_world


@pytest.fixture(scope="session")
def trained_by_one(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose stages were trained by one process, in `one`."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return build_ranks_world(folder)


@pytest.fixture
def world(trained_by_one: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The trained world as the working directory; every test uses a root of its own."""
    monkeypatch.chdir(trained_by_one.folder)
    return trained_by_one
