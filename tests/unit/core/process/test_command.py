"""User errors print one message; bugs print a traceback."""

from core.process.command import USER_ERROR, catch_user_errors

import ast
import importlib
import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from core.errors import DataError

REPOSITORY = Path(__file__).parents[4]
ROOMS = ("data_prep", "evaluation", "experiments", "pipeline")
WITHOUT = {"pipeline/launchers/worker.py"}
"""Commands without the decorator: their launcher reads the exit status of the stage run."""


def test_a_user_error_prints_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    @catch_user_errors
    def main() -> int:
        raise DataError("shards[0] of [bold]a.json[/bold] is missing; make it")

    assert main() == USER_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: shards[0] of [bold]a.json[/bold] is missing; make it\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_in_any_encoding_and_width_is_printed(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A path with letters that the terminal lacks ended in a traceback, and width 0 in silence."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    monkeypatch.setenv("COLUMNS", "0")

    @catch_user_errors
    def main() -> int:
        Console().print("ñ 猫 \udcf1/b.json")
        return 0

    assert main() == 0
    sys.stdout.flush()
    assert written.getvalue().endswith(b"\\udcf1/b.json\n")


def test_other_errors_keep_their_traceback() -> None:
    @catch_user_errors
    def main(number: int) -> int:
        return 1 // number

    assert main(1) == 1
    with pytest.raises(ZeroDivisionError):
        main(0)


def test_every_command_handles_user_errors() -> None:
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
            assert hasattr(module.main, "__wrapped__"), f"{name}: @catch_user_errors on main"
            tree = ast.parse((REPOSITORY / name).read_text())
            first = next(x for x in tree.body if isinstance(x, ast.Import | ast.ImportFrom))
            assert ast.unparse(first) == "from core.process.command import catch_user_errors", (
                f"{name}: import it first, so that Ctrl-C during the other imports is one line"
            )


def test_an_error_about_a_file_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @catch_user_errors
    def main() -> int:
        (tmp_path / "file").write_text("")
        (tmp_path / "file" / "below").mkdir()
        return 0

    assert main() == USER_ERROR
    assert "file/below: Not a directory; check the path" in capsys.readouterr().err
