"""A rank-aware logger: every rank may warn, only rank 0 talks."""

import logging
import os


def get_logger(name: str) -> logging.Logger:
    """A stdlib logger whose INFO lines come from rank 0 only."""
    logger = logging.getLogger(f"irudimen.{name}")
    logger.addFilter(_quiet_on_other_ranks)
    return logger


def show_info() -> None:
    """Let our INFO lines through to standard error, which of a stage run is its log file."""
    logging.getLogger("irudimen").setLevel(logging.INFO)
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.INFO)


def _quiet_on_other_ranks(record: logging.LogRecord) -> bool:
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return rank == "0" or record.levelno >= logging.WARNING
