"""The programs that tasks are written for; the command lists them before it loads anything."""

from enum import StrEnum


class Harness(StrEnum):
    """Programs that tasks are written for."""

    LMMS_EVAL = "lmms-eval"
    LM_EVAL = "lm-eval"
