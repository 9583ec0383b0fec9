"""The worker process of one stage run: `python -m pipeline.launchers.worker FOLDER`, or a fork.

Exit codes: 0 if the stage is done, 143 if it was asked to stop and has saved, 1 if it failed (the
error is in status.json).
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import threading
import time
import traceback
import warnings
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

from core.process.loading import without_collection

with without_collection():
    import torch

    from core.config import load_config
    from core.errors import IrudimenError, PreemptedError
    from core.io.files import atomic_write_text
    from core.process.distributed import is_first_process, is_initialized
    from core.process.log import show_info
    from core.process.machine import (
        prefer_expandable_segments,
        raise_open_files_limit,
        use_short_socket_folder,
    )
    from core.process.stop import EXIT_PREEMPTED, PARENT, StopFlag
    from pipeline.launchers.environment import CUDA_VISIBLE_DEVICES
    from pipeline.launchers.execution import read_execution
    from pipeline.stages.base import StageContext
    from pipeline.stages.registry import stage_class, stage_kinds
    from pipeline.store.notes import read_note
    from pipeline.store.retry_policy import Fault, fault_of
    from pipeline.store.states import State
    from pipeline.store.store import StageFolder, Store, timed_attempt

    stage_kinds()  # imports their modules

_FOLLOWER_ERROR_FILE = "other_rank.json"
"""Error of another rank; rank 0 itself only sees that the connection is lost."""
_FOLLOWER_ERROR_WAIT_S = 2.0
_PARENT_POLL_S = 1.0


def run_forked(path: Path) -> None:
    """Run a stage in a forked worker and exit."""
    sys.exit(run_logged(path))


def run_logged(path: Path) -> int:
    """Run a stage with all output in its log.txt, and return the exit code."""
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return run(path)


def run(path: Path) -> int:
    """Run a stage and return the exit code."""
    flag = StopFlag()
    flag.install()
    _stop_with_parent(flag)
    _set_up_logging()
    use_short_socket_folder()
    raise_open_files_limit()
    prefer_expandable_segments()
    folder = StageFolder(path)
    if not is_first_process():
        code = _run_follower_rank(folder, flag)
    else:
        try:
            with folder.locked(is_stopped=lambda: flag.is_set):
                if folder.is_done():
                    folder.settle()
                    return 0
                code = _run_attempt(folder, flag)
        except PreemptedError:
            return EXIT_PREEMPTED
    if code not in (0, EXIT_PREEMPTED) and is_initialized():
        _exit_immediately(code)
    return code


def _exit_immediately(code: int) -> NoReturn:
    """Exit without destroying the process group, which would wait for lost ranks."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_follower_rank(folder: StageFolder, flag: StopFlag) -> int:
    """Run a stage on a rank that Lightning started beside rank 0, which writes the status."""
    try:
        _run_stage(folder, flag)
    except PreemptedError:
        return EXIT_PREEMPTED
    except Exception as error:  # noqa: BLE001  # boundary of the process: rank 0 reports the error
        traceback.print_exc()
        fault = fault_of(error)
        if fault is not Fault.PEER:
            report = {"fault": fault.value, "error": _format_error(error)}
            atomic_write_text(folder.path / _FOLLOWER_ERROR_FILE, json.dumps(report))
        return 1
    return 0


def _format_error(error: Exception) -> str:
    is_ours = isinstance(error, IrudimenError)
    return str(error) if is_ours else f"{type(error).__name__}: {error}"


def _diagnose(folder: StageFolder, error: Exception) -> tuple[Fault, str]:
    """Return the fault and the message of an error; for a lost connection, the other rank's."""
    fault, path = fault_of(error), folder.path / _FOLLOWER_ERROR_FILE
    if fault is not Fault.PEER:
        return fault, _format_error(error)
    time.sleep(_FOLLOWER_ERROR_WAIT_S)
    report = read_note(path)
    if not report:
        return fault, _format_error(error)
    return Fault(report["fault"]), f"on another rank: {report['error']}"


def _run_attempt(folder: StageFolder, flag: StopFlag) -> int:
    """Run a stage on rank 0, seal its result and write its status; return the exit code."""
    (folder.path / _FOLLOWER_ERROR_FILE).unlink(missing_ok=True)
    with timed_attempt(folder) as status:
        try:
            _run_stage(folder, flag)
            folder.seal()
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
            status.state = State.DONE
            return 0
        except PreemptedError as error:
            status.state, status.error = State.INTERRUPTED, str(error)
            return EXIT_PREEMPTED
        except Exception as error:  # noqa: BLE001  # boundary of the process: report and exit 1
            with contextlib.suppress(OSError):  # log.txt may be on the full disk that is the error
                traceback.print_exc()
            status.fail(folder.failure(*_diagnose(folder, error)))
            return 1
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            status.max_rss_mb = max(status.max_rss_mb, peak)


def _run_stage(folder: StageFolder, flag: StopFlag) -> None:
    execution = read_execution(folder)
    torch.set_num_threads(execution.num_threads)
    if execution.gpus:  # CUDA reads the variable when it is initialised, which happens later
        os.environ[CUDA_VISIBLE_DEVICES] = execution.gpus
    description = folder.read_stage()
    store = Store(Path(execution.root))
    context = StageContext(
        folder=folder,
        inputs={role: store.folder(*key).result for role, key in description["inputs"].items()},
        cache=Path(execution.root) / "cache",
        trainer=execution.trainer,
        flag=flag,
        on_hung=partial(_record_hang, folder),
    )
    folder.scratch.mkdir(exist_ok=True)
    load_config(stage_class(description["kind"]), folder.path / "spec.yaml").run(context)


def _record_hang(folder: StageFolder, reason: str) -> None:
    """Write the failure of rank 0 before its watchdog ends the process."""
    if is_first_process():
        status = folder.read_status()
        status.fail(folder.failure(Fault.HUNG, f"{reason}; see {folder.path / 'log.txt'}"))
        folder.write_status(status)


def _stop_with_parent(flag: StopFlag) -> None:
    """Set the flag when the launching process has been killed (SIGKILL sends no signal here)."""
    parent, parent_id = multiprocessing.parent_process(), os.environ.get(PARENT)
    if parent is None and parent_id != str(os.getppid()):  # a rank that ends with rank 0
        return

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
        while parent is None and parent_id == str(os.getppid()):
            time.sleep(_PARENT_POLL_S)
        flag.is_set = True

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _set_up_logging() -> None:
    """Log our messages with timestamps and silence Lightning's tips."""
    show_info()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*"):
        warnings.filterwarnings("ignore", message=text)


def main() -> None:
    """Run the command, which Lightning also starts for the other ranks of a node."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.launchers.worker", description="Run one stage run of the store."
    )
    parser.add_argument("folder", type=Path, help="folder of the stage: ROOT/store/KIND/ADDRESS")
    sys.exit(run(parser.parse_args().folder))


if __name__ == "__main__":
    main()
