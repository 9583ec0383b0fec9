"""INFO records are shown on request, by rank 0 only."""

import os
import subprocess
import sys

CODE = """
from core.process.log import get_logger, show_info
logger = get_logger("x")
logger.info("before")
show_info()
logger.info("after")
logger.warning("careful")
"""


def stderr_of(rank: str) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RANK": rank},
    )
    return [line.rpartition(": ")[2] for line in process.stderr.splitlines()]


def test_info_is_shown_on_request_by_rank_0() -> None:
    assert stderr_of("0") == ["after", "careful"]
    assert stderr_of("1") == ["careful"]
