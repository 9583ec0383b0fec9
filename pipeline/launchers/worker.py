"""Runs one stage run: `python -m pipeline.launchers.worker FOLDER`, or a fork of the launcher.

Exit codes: 0 done, 143 asked to stop and saved, 1 failed (the reason is in status.json).
"""

import argparse
import dataclasses
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

import torch

from configuration.trainer import TrainerConfig
from core.config import load_config
from core.errors import IrudimenError, PreemptedError
from core.io.files import atomic_write_text
from core.process.distributed import is_first_process, is_initialized
from core.process.log import show_info
from core.process.stop import EXIT_PREEMPTED, PARENT, StopFlag
from pipeline.stages.base import StageContext
from pipeline.stages.registry import stage_class
from pipeline.store.retry_policy import Fault, fault_of
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store, timed_attempt

_EXECUTION = "execution.json"
_OTHER_RANK = "other_rank.json"
"""What a further rank failed of; rank 0 only sees that it is gone."""
_LAST_WORDS_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a stage run is carried out; no part of its address."""

    root: str
    threads: int
    trainer: TrainerConfig
    gpus: str = ""
    """CUDA_VISIBLE_DEVICES of the stage run; empty leaves it as it is."""


def write_execution(folder: StageFolder, execution: Execution) -> None:
    """Leave the execution settings where the worker finds them."""
    atomic_write_text(folder.path / _EXECUTION, json.dumps(dataclasses.asdict(execution)))


def run_forked(path: Path) -> None:
    """Entry of a forked worker: its own log file, and an eye on the parent."""
    sys.exit(run_logged(path))


def run_logged(path: Path) -> int:
    """The same as `run`, with everything that is printed in the stage run's log file."""
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return run(path)


def run(path: Path) -> int:
    """Carry out one stage run and return the exit code."""
    flag = StopFlag()
    flag.install()
    _stop_with_parent(flag)
    _set_up_logs()
    folder = StageFolder(path)
    if not is_first_process():
        code = _assist(folder, flag)
    else:
        with folder.locked():
            if folder.is_done():
                folder.settle()
                return 0
            code = _attempt(folder, flag)
    if code not in (0, EXIT_PREEMPTED) and is_initialized():
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: taking down a process group waits for ranks that may be gone."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _assist(folder: StageFolder, flag: StopFlag) -> int:
    """A further rank, started by Lightning beside rank 0, which keeps the books."""
    try:
        _dispatch(folder, flag)
    except PreemptedError:
        return EXIT_PREEMPTED
    except Exception as error:  # noqa: BLE001  # the border of the process: rank 0 tells
        traceback.print_exc()
        if fault_of(error) is not Fault.PEER:
            told = {"fault": fault_of(error).value, "error": _words(error)}
            atomic_write_text(folder.path / _OTHER_RANK, json.dumps(told))
        return 1
    return 0


def _words(error: Exception) -> str:
    known = isinstance(error, IrudimenError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _explain(folder: StageFolder, error: Exception) -> tuple[Fault, str]:
    """What ended an attempt: of lost contact, what the other rank has to say."""
    fault, path = fault_of(error), folder.path / _OTHER_RANK
    if fault is not Fault.PEER:
        return fault, _words(error)
    time.sleep(_LAST_WORDS_S)
    if not path.is_file():
        return fault, _words(error)
    told = json.loads(path.read_text())
    return Fault(told["fault"]), f"on another rank: {told['error']}"


def _attempt(folder: StageFolder, flag: StopFlag) -> int:
    (folder.path / _OTHER_RANK).unlink(missing_ok=True)
    with timed_attempt(folder) as status:
        try:
            _dispatch(folder, flag)
            folder.seal()
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
            status.state = State.DONE
            return 0
        except PreemptedError as error:
            status.state, status.error = State.INTERRUPTED, str(error)
            return EXIT_PREEMPTED
        except Exception as error:  # noqa: BLE001  # the border of the process: report and exit 1
            traceback.print_exc()
            status.fail(folder.failure(*_explain(folder, error)))
            return 1
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            status.max_rss_mb = max(status.max_rss_mb, peak)


def _dispatch(folder: StageFolder, flag: StopFlag) -> None:
    execution = _read_execution(folder)
    torch.set_num_threads(execution.threads)
    if execution.gpus:  # read when CUDA starts, which nothing before this has done
        os.environ["CUDA_VISIBLE_DEVICES"] = execution.gpus
    stage = folder.read_stage()
    store = Store(Path(execution.root))
    context = StageContext(
        folder=folder,
        inputs={role: store.folder(*place).result for role, place in stage["inputs"].items()},
        cache=Path(execution.root) / "cache",
        trainer=execution.trainer,
        flag=flag,
        on_hung=partial(_note_hung, folder),
    )
    folder.scratch.mkdir(exist_ok=True)
    load_config(stage_class(stage["kind"]), folder.path / "spec.yaml").run(context)


def _note_hung(folder: StageFolder, reason: str) -> None:
    """What rank 0 leaves behind when its watchdog ends it."""
    if is_first_process():
        status = folder.read_status()
        status.fail(folder.failure(Fault.HUNG, f"{reason}; see {folder.path / 'log.txt'}"))
        folder.write_status(status)


def _read_execution(folder: StageFolder) -> Execution:
    raw = json.loads((folder.path / _EXECUTION).read_text())
    return Execution(**{**raw, "trainer": TrainerConfig(**raw["trainer"])})


def _stop_with_parent(flag: StopFlag) -> None:
    """Save and stop when the launching process dies without a word (SIGKILL)."""
    parent, given = multiprocessing.parent_process(), os.environ.get(PARENT)
    if parent is None and given != str(os.getppid()):  # a further rank ends with the first one
        return

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
        while parent is None and given == str(os.getppid()):
            time.sleep(1.0)
        flag.is_set = True

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _set_up_logs() -> None:
    """This house's words with their time, without Lightning's advertisements."""
    show_info()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (".*does not have many workers.*", ".*isinstance.*LeafSpec.*"):
        warnings.filterwarnings("ignore", message=text)


def main() -> None:
    """Command line of a single stage run (also what Lightning starts for further ranks)."""
    parser = argparse.ArgumentParser(description="Run one stage run of the store.")
    parser.add_argument("folder", type=Path, help="mlruns/store/KIND/ADDRESS")
    sys.exit(run(parser.parse_args().folder))


if __name__ == "__main__":
    main()
