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


def _report(message: str) -> int:
    console = Console(stderr=True)
    console.print(f"[red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return USER_ERROR


def catch_user_errors(main: Callable[_P, int]) -> Callable[_P, int]:
    """Make a command report errors of the user without a traceback and return `USER_ERROR`.

    These are every `IrudimenError`, and errors of the system about a file or folder.
    """

    @functools.wraps(main)
    def command(*arguments: _P.args, **named: _P.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except IrudimenError as error:
            return _report(str(error))
        except OSError as error:
            if error.filename is None:  # not about a file that the user named
                raise
            return _report(
                f"{error.filename}: {error.strerror}; check the path and its permissions"
            )

    return command
