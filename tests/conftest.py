"""Settings of all tests."""

import os
from pathlib import Path

from core.process import loading

# Tests change the working directory. Python's fork server, started there, finds the packages only
# through this variable; without them every worker that it forks imports everything again.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
loading.pause_collection()


def pytest_collection_finish() -> None:
    """Collect garbage again when all test modules have been imported."""
    loading.resume_collection()
