"""What every command does with an error that its user can mend."""

import functools
from collections.abc import Callable
from typing import ParamSpec

from rich.console import Console
from rich.markup import escape

from core.errors import IrudimenError

USER_ERROR = 2
"""Exit status, as argparse has it for a wrong argument."""

_P = ParamSpec("_P")


def clear_errors(main: Callable[_P, int]) -> Callable[_P, int]:
    """Make an `IrudimenError` of a command one message on stderr and `USER_ERROR`, no traceback."""

    @functools.wraps(main)
    def command(*arguments: _P.args, **named: _P.kwargs) -> int:
        try:
            return main(*arguments, **named)
        except IrudimenError as error:
            console = Console(stderr=True)
            console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
            return USER_ERROR

    return command
