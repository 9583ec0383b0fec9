"""Types of command-line options, which reject numbers that would fail or be misread later."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from core.file_names import FILE_NAME, FILE_NAME_ADVICE, LANGUAGE_CODE


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        try:
            number = int(text)
        except ValueError as error:
            message = f"'{text}' is not a whole number; expected {expected}"
            raise argparse.ArgumentTypeError(message) from error
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{number} is out of range; expected {expected}")
        return number

    return parse


def given_path(text: str) -> Path:
    """Return the path of an option; an empty one, as of an unset variable, is an error.

    Raises:
        argparse.ArgumentTypeError: If the text is empty or has a NUL character.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path")
    return Path(text)


def file_name(text: str) -> str:
    """Return a name that files are named after.

    Raises:
        argparse.ArgumentTypeError: If it could be a path, or has characters that need quotes.
    """
    if FILE_NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r}: {FILE_NAME_ADVICE}")
    return text


def language_code(text: str) -> str:
    """Return the code of a language.

    Raises:
        argparse.ArgumentTypeError: If the text is not a language code.
    """
    if LANGUAGE_CODE.fullmatch(text) is None:
        message = f"{text!r} is not a language code, such as eu or zh-Hant"
        raise argparse.ArgumentTypeError(message)
    return text


port_number = whole_number(0, 65535)
"""Type of the port of a local server; 0 takes a free one."""


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return an argparse type of finite numbers from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most or math.isinf(number):
            bounds = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"'{text}' is invalid; expected a number of {bounds}")
        return number

    return parse
