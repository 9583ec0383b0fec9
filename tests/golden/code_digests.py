"""Record of the code that computes the results of each stage kind.

`python -m tests.golden.code_digests` records a kind whose recipe version was raised. With
`--results-unchanged REASON` it declares that changed code computes the same results as before.
"""

from core.process.command import catch_user_errors

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from pipeline.code_digest import CodeDigest, code_digest
from pipeline.stages.registry import stage_kinds

RECORD = Path(__file__).parent / "code_digests.json"
COMMAND = "python -m tests.golden.code_digests"
_FIRST = "first result of this recipe version"


def read_record() -> dict[str, dict[str, Any]]:
    """Return stage kind -> recorded recipe version, digest, packages and entries."""
    if not RECORD.is_file():
        return {}
    record: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def find_problem(
    kind: str, version: int, code: CodeDigest, recorded: Mapping[str, Any] | None
) -> str:
    """Return what a developer has to do about a stage kind; empty if the record is right."""
    if recorded is None:
        return f"stage kind '{kind}' is not recorded; run {COMMAND}"
    entries = recorded["entries"]
    if [entry for entry in entries if not str(entry.get("reason", "")).strip()]:
        return f"an entry of stage kind '{kind}' has no reason; state why its results are unchanged"
    if version < recorded["recipe_version"]:
        return (
            f"the recipe version of '{kind}' was lowered from {recorded['recipe_version']} to "
            f"{version}: finished results of the old recipe would be taken for new ones"
        )
    if version > recorded["recipe_version"]:
        return f"the recipe version of '{kind}' was raised to {version}; run {COMMAND}"
    if code.digest != entries[-1]["digest"]:
        return (
            f"the code behind stage kind '{kind}' has changed ({_changed(code, recorded)}). If its "
            f"results change, raise `recipe_version` in pipeline/stages and run {COMMAND}. If they "
            f"are the same bit for bit, run {COMMAND} --results-unchanged 'REASON'"
        )
    return ""


def _changed(code: CodeDigest, recorded: Mapping[str, Any]) -> str:
    before: Mapping[str, str] = recorded["packages"]
    names = sorted(code.packages.keys() | before.keys())
    changed = [name for name in names if code.packages.get(name) != before.get(name)]
    return f"in {', '.join(changed)}" if changed else "definitions moved between packages"


def updated(
    kind: str, version: int, code: CodeDigest, recorded: Mapping[str, Any] | None, reason: str
) -> dict[str, Any]:
    """Return the record of a stage kind for the present code.

    Args:
        kind: The stage kind.
        version: Its recipe version.
        code: Its code.
        recorded: Its record; None for a new kind.
        reason: Why changed code computes the same results; empty if that was not declared.

    Raises:
        ConfigError: If the code has changed, but neither the recipe version nor a reason says what
            that means for the results.
    """
    is_new = recorded is None or version > recorded["recipe_version"]
    entries = [] if recorded is None or is_new else list(recorded["entries"])
    if not entries:
        entries = [{"digest": code.digest, "reason": _FIRST}]
    elif entries[-1]["digest"] != code.digest:
        if not reason.strip():
            raise ConfigError(find_problem(kind, version, code, recorded))
        entries.append({"digest": code.digest, "reason": reason.strip()})
    return {"recipe_version": version, "packages": dict(code.packages), "entries": entries}


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Update the record, or refuse to."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument(
        "--results-unchanged",
        default="",
        metavar="REASON",
        help="why the changed code computes the same results, bit for bit",
    )
    parser.add_argument("--list", metavar="KIND", help="print the definitions behind a stage kind")
    options = parser.parse_args(arguments)
    kinds = stage_kinds()
    if options.list:
        sys.stdout.write("\n".join(code_digest(kinds[options.list]).definitions) + "\n")
        return 0
    before = read_record()
    record = {
        kind: updated(
            kind,
            stage.recipe_version,
            code_digest(stage),
            before.get(kind),
            options.results_unchanged,
        )
        for kind, stage in sorted(kinds.items())
    }
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
