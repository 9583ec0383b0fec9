"""One process, one stage run: `python -m experiments.worker FOLDER`, or forked by the launcher.

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
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from core.config import load_config
from core.errors import IrudimenError, PreemptedError
from core.files import atomic_write_text
from core.log import show_info
from core.stop import EXIT_PREEMPTED, StopFlag
from experiments import backbone_runs, evaluation_runs, stage_runs
from experiments.schema import TrainerConfig
from experiments.specs import (
    EvaluateSpec,
    FeaturesSpec,
    PretrainSpec,
    RetentionSpec,
    StageKind,
    TokenizerSpec,
    TowerSpec,
    TrainSpec,
)
from experiments.states import State
from experiments.store import StageFolder, Store, timed_attempt

_RUNS: dict[StageKind, tuple[type[Any], Callable[[Any, stage_runs.StageContext], None]]] = {
    StageKind.FEATURES: (FeaturesSpec, stage_runs.run_features),
    StageKind.ALIGN: (TrainSpec, stage_runs.run_align),
    StageKind.INSTRUCT: (TrainSpec, stage_runs.run_instruct),
    StageKind.EVALUATE: (EvaluateSpec, evaluation_runs.run_evaluate),
    StageKind.BACKBONE: (RetentionSpec, evaluation_runs.run_backbone),
    StageKind.RETENTION: (RetentionSpec, evaluation_runs.run_after),
    StageKind.TOKENIZER: (TokenizerSpec, backbone_runs.run_tokenizer),
    StageKind.PRETRAIN: (PretrainSpec, backbone_runs.run_pretrain),
    StageKind.TOWER: (TowerSpec, backbone_runs.run_tower),
}
_EXECUTION = "execution.json"


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
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(run(path))


def run(path: Path) -> int:
    """Carry out one stage run and return the exit code."""
    flag = StopFlag()
    flag.install()
    _stop_with_parent(flag)
    _set_up_logs()
    folder = StageFolder(path)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return _assist(folder, flag)
    with folder.locked():
        if folder.is_done():
            folder.settle()
            return 0
        return _attempt(folder, flag)


def _assist(folder: StageFolder, flag: StopFlag) -> int:
    """A further rank, started by Lightning beside rank 0, which keeps the books."""
    try:
        _dispatch(folder, flag)
    except PreemptedError:
        return EXIT_PREEMPTED
    return 0


def _attempt(folder: StageFolder, flag: StopFlag) -> int:
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
            known = isinstance(error, IrudimenError)
            status.state = State.FAILED
            status.error = str(error) if known else f"{type(error).__name__}: {error}"
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
    spec_class, run_stage = _RUNS[StageKind(stage["kind"])]
    spec = load_config(spec_class, folder.path / "spec.yaml")
    store = Store(Path(execution.root))
    context = stage_runs.StageContext(
        folder=folder,
        inputs={role: store.folder(*place).result for role, place in stage["inputs"].items()},
        cache=Path(execution.root) / "cache",
        trainer=execution.trainer,
        flag=flag,
    )
    folder.scratch.mkdir(exist_ok=True)
    run_stage(spec, context)


def _read_execution(folder: StageFolder) -> Execution:
    raw = json.loads((folder.path / _EXECUTION).read_text())
    return Execution(**{**raw, "trainer": TrainerConfig(**raw["trainer"])})


def _stop_with_parent(flag: StopFlag) -> None:
    """Save and stop when the launching process dies without a word (SIGKILL)."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
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
