"""Types of command-line options, which reject numbers that would fail or be misread later."""

import argparse
import math
from collections.abc import Callable


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type of whole numbers from `least` to `most`."""

    def parse(text: str) -> int:
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        try:
            number = int(text)
        except ValueError as error:
            message = f"'{text}' is no whole number; expected {expected}"
            raise argparse.ArgumentTypeError(message) from error
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{number}, expected {expected}")
        return number

    return parse


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
            raise argparse.ArgumentTypeError(f"'{text}', expected a number of {bounds}")
        return number

    return parse
