"""A rank-aware logger: every rank may warn, only rank 0 talks."""

import logging
import os
import re


def get_logger(name: str) -> logging.Logger:
    """A stdlib logger whose INFO lines come from rank 0 only."""
    logger = logging.getLogger(f"irudimen.{name}")
    logger.addFilter(_quiet_on_other_ranks)
    return logger


def show_info() -> None:
    """Let our INFO lines through to standard error, which of a stage run is its log file."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("irudimen").setLevel(logging.INFO)


def _quiet_on_other_ranks(record: logging.LogRecord) -> bool:
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return rank == "0" or record.levelno >= logging.WARNING


def without_password(uri: str) -> str:
    """An address fit for logs and files: what stands before the @ is left out."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", uri)
