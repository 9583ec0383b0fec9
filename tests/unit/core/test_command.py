"""A user's mistake is one message; a mistake of ours is a traceback."""

import importlib
import re
from pathlib import Path

import pytest

from core.errors import DataError
from core.process.command import USER_ERROR, clear_errors

REPOSITORY = Path(__file__).parents[3]
ROOMS = ("data_prep", "evaluation", "experiments", "pipeline")
WITHOUT = {"pipeline/launchers/worker.py"}
"""Its launcher reads the exit status of the stage run."""


def test_a_users_mistake_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    @clear_errors
    def main() -> int:
        raise DataError("shards[0] of [bold]a.json[/bold] is missing; make it")

    assert main() == USER_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: shards[0] of [bold]a.json[/bold] is missing; make it\n"


def test_what_is_no_mistake_of_the_user_passes() -> None:
    @clear_errors
    def main(number: int) -> int:
        return 1 // number

    assert main(1) == 1
    with pytest.raises(ZeroDivisionError):
        main(0)


def test_every_command_does_it() -> None:
    commands = [
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        for path in sorted((REPOSITORY / room).rglob("*.py"))
        if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE)
    ]
    assert len(commands) >= 20
    for name in commands:
        if name not in WITHOUT:
            module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            assert hasattr(module.main, "__wrapped__"), f"{name}: @clear_errors on main"
