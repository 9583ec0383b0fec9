"""Fixtures of the tests of data preparation."""

import contextlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def preloaded_tasks() -> None:
    """Fork the tasks of datatrove from a process that has imported what they need."""
    with contextlib.suppress(ImportError):
        from multiprocess import forkserver

        forkserver.set_forkserver_preload(["data_prep.prepare.engine"])
