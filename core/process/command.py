"""Error handling shared by all commands."""

import functools
from collections.abc import Callable
from typing import ParamSpec

from rich.console import Console
from rich.markup import escape

from core.errors import IrudimenError

USER_ERROR = 2
"""Exit status of a user error, the same as argparse's for an invalid argument."""

_P = ParamSpec("_P")


def catch_user_errors(main: Callable[_P, int]) -> Callable[_P, int]:
    """Make a command print an `IrudimenError` without a traceback and return `USER_ERROR`."""

    @functools.wraps(main)
    def command(*arguments: _P.args, **named: _P.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except IrudimenError as error:
            console = Console(stderr=True)
            console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
            return USER_ERROR

    return command
