"""Loggers for distributed runs: every rank may warn, only rank 0 logs at INFO."""

import logging
import os
import re


def get_logger(name: str) -> logging.Logger:
    """Return a logger whose INFO records come from rank 0 only."""
    logger = logging.getLogger(f"irudimen.{name}")
    logger.addFilter(_quiet_on_other_ranks)
    return logger


def show_info() -> None:
    """Send our INFO records to standard error, which is the log file of a stage run."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("irudimen").setLevel(logging.INFO)


def _quiet_on_other_ranks(record: logging.LogRecord) -> bool:
    rank = os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or "0"
    return rank == "0" or record.levelno >= logging.WARNING


def without_password(uri: str) -> str:
    """Return a URI with its credentials masked, for logs and files."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", uri)
