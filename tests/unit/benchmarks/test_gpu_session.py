"""The one command for a machine with a GPU: a part that fails does not stop the others."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_session
from benchmarks.gpu_session import __main__ as command
from benchmarks.gpu_session import parts
from benchmarks.gpu_session.memory import compare, failure_of, settings
from benchmarks.gpu_session.parts import MEMORY_ROWS, Part, Session, all_parts, chosen
from benchmarks.gpu_session.summary import Outcome, markdown
from core.precision import Precision


def session_of(folder: Path, num_gpus: int) -> Session:
    return Session(work=folder, out=folder, num_gpus=num_gpus)


def python(name: str, code: str, *, seconds: int = 60) -> Part:
    return Part(name=name, command=(sys.executable, "-c", code), seconds=seconds)


def test_two_ranks_need_two_gpus_and_parts_fit_into_25_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "has_torchao", lambda: False)
    names = {n: [p.name for p in all_parts(session_of(tmp_path, n))] for n in (0, 1, 2)}
    assert "two ranks" in names[0]
    assert "two ranks" not in names[1]
    assert "two ranks" in names[2]
    assert names[2][:4] == [f"smoke {precision}" for precision in Precision]
    assert "smoke float8-mixed" not in names[0], "torchao is installed on a GPU only"
    assert names[2].index("tests") < names[2].index("memory") < names[2].index("benchmark")
    assert sum(part.seconds for part in all_parts(session_of(tmp_path, 1))) <= 25 * 60


def test_a_check_on_the_cpu_asks_for_no_gpu(tmp_path: Path) -> None:
    words = [word for part in all_parts(session_of(tmp_path, 0)) for word in part.command]
    assert not [word for word in words if "gpu" in word and "accelerator" in word]
    assert "cuda" not in words
    study = next(p for p in all_parts(session_of(tmp_path, 0)) if p.name == "small study")
    assert "small" in study.command
    assert "--dry-run" not in study.command, "the small profile's settings are trained with"


@pytest.mark.parametrize(
    ("code", "seconds", "failure"),
    [
        ("print('well')", 60, ""),
        ("raise SystemExit(3)", 60, "FAILED (exit code 3)"),
        ("import time; time.sleep(60)", 1, "FAILED (stopped after 1 s)"),
    ],
)
def test_the_outcome_of_a_part(tmp_path: Path, code: str, seconds: int, failure: str) -> None:
    outcome = command.run_part(python("a part", code, seconds=seconds), tmp_path)
    assert outcome.failure.startswith(failure)
    assert bool(outcome.failure) == bool(failure)
    assert (tmp_path / "a_part.log").read_text() == ("well\n" if not failure else "")


def test_the_rest_runs_after_a_failure_and_the_report_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [python("first", "raise SystemExit(2)"), python("second", "pass")]
    monkeypatch.setattr(gpu_session.__main__, "all_parts", lambda _: both)
    code = command.main(["--cpu-check", "--work", str(tmp_path)])
    assert code == 1
    report = (tmp_path / "report" / "report.md").read_text()
    assert "1 of 2 parts passed" in report
    assert "| second | passed |" in report
    assert '--only "first"' in capsys.readouterr().out


def test_an_unknown_part_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown parts"):
        chosen(all_parts(session_of(tmp_path, 1)), ["fast"])


def test_targets_of_the_step_benchmark_are_in_the_report(tmp_path: Path) -> None:
    result = {"status": "ok", "samples_per_second": 26.1, "tokens_per_second": 9000.0,
              "mfu": 0.41, "peak_memory_gib": None}  # fmt: skip
    stage = {"best": result, "other": {"status": "out of memory"}}
    verdict = "stage 1: samples_per_second 26.1 (required 25.0): met"
    content = {"shape": "8b", "device": "H100", "versions": {"torch": "2.13"}, "commit": "abc",
               "stages": {"1": stage}, "verdicts": {"1": [verdict]}}  # fmt: skip
    path = tmp_path / "gpu_step_h100.json"
    path.write_text(json.dumps(content))
    text = markdown("H100", [Outcome(name="benchmark", seconds=3.0)], [path])
    assert "| 1 | best | 26.1 | 9,000.0 | 0.41 |  | ok |" in text
    assert "| 1 | other |  |  |  |  | out of memory |" in text
    assert "* stage 1: samples_per_second 26.1 (required 25.0): met" in text


def test_memory_that_differs_from_its_trace_fails_and_is_in_the_report(tmp_path: Path) -> None:
    rows = [
        {"setting": "exact", "traced": 2.0 * 2**30, "measured": 2.05 * 2**30},
        {"setting": "too much", "traced": 2.0 * 2**30, "measured": 2.2 * 2**30},
        {"setting": "less", "traced": 2.0 * 2**30, "measured": 1.5 * 2**30},
        {"setting": "planned", "traced": 2.0 * 2**30, "measured": 2.0 * 2**30,
         "planned": 1.0, "traced_whole": 1.2},
    ]  # fmt: skip
    failures = [failure_of(row, is_upper_bound=False) for row in rows]
    assert failures == ["", "measured / traced = 1.100", "measured / traced = 0.750",
                        "planned / traced = 0.833"]  # fmt: skip
    assert not failure_of(rows[2], is_upper_bound=True), "a compiled step may need less"
    assert failure_of(rows[1], is_upper_bound=True)
    path = tmp_path / MEMORY_ROWS
    path.write_text(json.dumps([{**row, "failure": f} for row, f in zip(rows, failures,
                                                                        strict=True)]))  # fmt: skip
    text = markdown("H100", [], [], path)
    assert "| exact | 2.000 | 2.050 | 1.025 | ok |" in text
    assert "| too much | 2.000 | 2.200 | 1.100 | measured / traced = 1.100 |" in text


@pytest.mark.slow
def test_storages_of_a_real_step_live_as_long_as_traced_ones(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    setting = next(s for s in settings(cpu) if s.tuning == "full" and s.stage == "align")
    row = compare(setting, cpu, tmp_path)
    assert not row["failure"]
    assert row["measured"] > 1e8
