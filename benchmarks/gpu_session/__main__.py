"""Run everything that needs a GPU, in at most 25 minutes on one H100-class GPU (`make gpu`).

Smoke runs in every precision, the GPU tests, memory of real steps against their traces, the step
benchmark, two sharded ranks where there are two GPUs, and the small profile's mix_ablation. A part
that fails or exceeds its time does not stop the others. Results and a report go to
docs/results/gpu/, logs to mlruns_gpu/.

    python -m benchmarks.gpu_session
    python -m benchmarks.gpu_session --wheels FOLDER         # a machine without a network
    python -m benchmarks.gpu_session --cpu-check             # all of it in miniature on a CPU
    python -m benchmarks.gpu_session --only benchmark "two ranks"
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu_session.parts import (
    MEMORY_ROWS,
    Part,
    Session,
    all_parts,
    chosen,
    has_float8,
)
from benchmarks.gpu_session.summary import Outcome, markdown

_REPOSITORY = Path(__file__).resolve().parents[2]
_OUT = _REPOSITORY / "docs" / "results" / "gpu"
_WORK = _REPOSITORY / "mlruns_gpu"
_KILL_AFTER_S = 30
_TAIL_LINES = 15
_DESCRIBE_GPUS = (
    "import torch; n = torch.cuda.device_count(); "
    "print(n, torch.cuda.get_device_name(0) if n else 'CPU')"
)


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write the report; return 1 if a part failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--cpu-check", action="store_true", help="run every part in miniature on the CPU")
    add("--only", nargs="+", default=[], metavar="PART", help="run only these parts")
    add("--wheels", type=Path, help="install missing packages from this folder")
    add("--skip-install", action="store_true", help="do not install missing packages")
    add("--out", type=Path, default=_OUT, help="folder for the report and results")
    add("--work", type=Path, default=_WORK, help="folder for logs and stores")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    outcomes = []
    if not options.cpu_check and not options.skip_install:
        outcomes.append(run_part(_install(options.work, options.wheels), options.work))
    num_gpus, device = (0, "CPU") if options.cpu_check else describe_gpus()
    if not options.cpu_check and num_gpus == 0:
        parser.error("torch sees no GPU here; to check the session on a CPU: --cpu-check")
    # A check on a CPU measures nothing that is worth keeping.
    out = options.work / "report" if options.cpu_check else options.out
    out.mkdir(parents=True, exist_ok=True)
    session = Session(work=options.work, out=out, num_gpus=num_gpus)
    try:
        parts = chosen(all_parts(session), options.only)
    except ValueError as error:
        parser.error(str(error))
    if not has_float8(session):
        print("float8 is left out: torchao is not installed (pip install '.[float8]')")
    outcomes += [run_part(part, options.work) for part in parts]
    return finish(session, device, outcomes)


def describe_gpus() -> tuple[int, str]:
    """Return the number of visible GPUs and the name of the first."""
    command = [sys.executable, "-c", _DESCRIBE_GPUS]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    number, name = output.split(maxsplit=1)
    return int(number), name.strip()


def run_part(part: Part, work: Path) -> Outcome:
    """Run one part within its time limit, with its output in a log and the end of it shown."""
    log = work / f"{part.name.replace(' ', '_')}.log"
    print(f"== {part.name} (at most {part.seconds} s): {' '.join(part.command)}", flush=True)
    started = time.monotonic()
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **dict(part.environment)}
    with log.open("wb") as output:
        code, is_late = _run(part, environment, output.fileno())
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(lines[-_TAIL_LINES:]), flush=True)
    failure = f"exit code {code}" if code else ""
    if is_late:  # training saves and exits with another code when it is stopped
        failure = f"stopped after {part.seconds} s"
    if failure:
        failure = f"FAILED ({failure}), see {log}"
    seconds = time.monotonic() - started
    print(f"-- {part.name}: {failure or 'passed'} ({seconds:.0f} s)\n", flush=True)
    return Outcome(name=part.name, seconds=seconds, failure=failure)


def _run(part: Part, environment: Mapping[str, str], output: int) -> tuple[int, bool]:
    """Return the exit code, and whether the part exceeded its time."""
    process = subprocess.Popen(
        part.command, cwd=_REPOSITORY, env=environment, stdout=output, stderr=output
    )
    try:
        return process.wait(part.seconds), False
    except subprocess.TimeoutExpired:
        process.terminate()
    try:
        return process.wait(_KILL_AFTER_S), True
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(), True


def finish(session: Session, device: str, outcomes: list[Outcome]) -> int:
    """Collect the results, write the report and return the exit code."""
    reports = sorted(
        session.work.glob("small/**/report.html"), key=lambda path: path.stat().st_mtime
    )
    if reports:
        target = session.out / "small_mix_ablation"
        target.mkdir(exist_ok=True)
        for file in filter(Path.is_file, reports[-1].parent.iterdir()):
            shutil.copy(file, target)
    folder = session.work if session.is_cpu else session.out
    memory = session.out / MEMORY_ROWS
    text = markdown(
        device,
        outcomes,
        sorted(folder.glob("gpu_step_*.json")),
        memory if memory.is_file() else None,
    )
    path = session.out / "report.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"Report: {path}")
    failed = [outcome.name for outcome in outcomes if outcome.failure]
    if failed:
        names = " ".join(f'"{name}"' for name in failed)
        print(f"To run only what failed: python -m benchmarks.gpu_session --only {names}")
    return int(bool(failed))


def _install(work: Path, wheels: Path | None) -> Part:
    script = str(Path(__file__).with_name("install.py"))
    words = [str(work), *([str(wheels)] if wheels else [])]
    return Part(name="install", command=(sys.executable, script, *words), seconds=180)


if __name__ == "__main__":
    sys.exit(main())
