"""Compare ready-made classes and architectures with references and exports, on tiny models.

    python -m benchmarks.model_classes                    # what is missing, about 10 minutes
    python -m benchmarks.model_classes --only qwen3_vl resampler

Writes docs/benchmarks/model_classes.json and .md. Subjects in the JSON file are not measured again;
delete it to start over. The exit status is 1 if anything is not equal within the limits.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.model_classes.processes import measure_processes
from benchmarks.model_classes.runs import measure_runs
from benchmarks.model_classes.subjects import SUBJECTS, build_subject
from benchmarks.model_classes.table import Row, write_table

OUT = Path("docs/benchmarks/model_classes").resolve()
LOSS, GRADIENTS, LOGITS, RANKS = 1e-6, 1e-5, 1e-4, 1e-5
"""Largest allowed differences: of loss and gradients from the class itself, of logits between an
export and the trained model, and of losses (relative) and weights between two ranks and one."""


def measure(name: str, known: Row = MappingProxyType({})) -> dict[str, Any]:
    """Measure what a row lacks, in a folder of its own; returns the whole row."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        folder = Path(temporary)
        subject, row = build_subject(name, folder), dict(known)
        if "loss" not in row:
            row |= subject.measure_forward()
        if "exports" not in row:
            row |= measure_runs(subject)
        if "killed" not in row:
            row |= measure_processes(subject.world())
        return row


def faults(name: str, row: Row) -> list[str]:
    """Return what is not equal within the limits."""
    found = [key for key in ("resume", "lora_resume", "qlora_resume") if not row[key]]
    if "killed" in row:
        found += [] if row["killed"]["equal"] else ["resume after SIGKILL"]
        found += [f"{key} of two ranks" for key, x in row["two_ranks"].items() if not x <= RANKS]
    limits = (("loss", LOSS), ("gradients", GRADIENTS))
    found += [key for key, limit in limits if not row[key] <= limit]
    found += ["generated ids"] if row["ids"] < row["num_ids"] else []
    for tuning, formats in row["exports"].items():
        for kind, export in formats.items():
            if export["answers"] < export["num_answers"]:
                found.append(f"answers of {kind} ({tuning})")
            if not export.get("logits", 0.0) <= LOGITS:
                found.append(f"logits of {kind} ({tuning})")
    return [f"{name}: {what}" for what in found]


def main() -> int:
    """Measure what is missing; the exit status is 1 if anything is not equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--only",
        nargs="+",
        default=SUBJECTS,
        choices=SUBJECTS,
        metavar="NAME",
        help="the only classes and architectures to measure",
    )
    parser.add_argument("--out", type=Path, default=OUT, help="path of the files without suffix")
    options = parser.parse_args()
    stored = options.out.resolve().with_suffix(".json")
    rows = json.loads(stored.read_text()) if stored.is_file() else {}
    for name in SUBJECTS:
        if name in options.only and "killed" not in rows.get(name, {}):
            rows[name] = measure(name, rows.get(name, {}))
            print(f"{name}: {'; '.join(faults(name, rows[name])) or 'equal'}", flush=True)
            order = {key: rows[key] for key in SUBJECTS if key in rows}
            stored.write_text(json.dumps(order, indent=1) + "\n")
            stored.with_suffix(".md").write_text(write_table(order))
    unequal = [fault for name, row in rows.items() for fault in faults(name, row)]
    print("\n".join(unequal))
    return 1 if unequal else 0


if __name__ == "__main__":
    raise SystemExit(main())
