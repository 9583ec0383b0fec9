"""Stage runs of a subject in processes of their own: killed and resumed, and on two ranks."""

import signal
import time
from typing import Any

import safetensors.torch

from callbacks.checkpoints import latest_checkpoint
from core.process.stop import StopFlag
from pipeline.launchers import worker
from pipeline.store.store import StageFolder
from tests.support import ranks
from tests.support import small_world as worlds
from tests.support.ranks import World

KIND, WHOLE = "instruct", "one"
"""Stage kind that is measured, and the folder of its uninterrupted run by one process."""
_KILLED_AT = 6
"""Step behind which a run is killed; its last checkpoint is at most one step older."""


def train(world: World, root: str, *, kind: str = KIND) -> StageFolder:
    """Run a stage run to its end in this process, unless it is done."""
    folder = ranks.prepare(world, kind, root=root, devices=1)
    if not folder.is_done() and worker._run_attempt(folder, StopFlag()) != 0:
        raise RuntimeError(f"{folder.path}: {folder.read_status().error}")
    return folder


def measure_processes(world: World) -> dict[str, Any]:
    """Train a subject in other processes and compare the results with those of an undisturbed run.

    Returns:
        `killed`: see `_kill_and_resume`; `two_ranks`: see `_compare_two_ranks`.
    """
    whole = train(world, WHOLE)
    return {
        "killed": _kill_and_resume(world, whole),
        "two_ranks": _compare_two_ranks(world, whole),
    }


def _kill_and_resume(world: World, whole: StageFolder) -> dict[str, Any]:
    """Send SIGKILL to a run in the middle, and let another process resume it.

    Returns:
        `step`: last step that the killed process logged; `resumed_at`: step of the checkpoint;
        `equal`: whether the weights are those of the uninterrupted run, byte for byte.
    """
    folder = ranks.prepare(world, KIND, root="killed", devices=1)
    since = time.time()
    process = ranks.start(world, folder)
    worlds.wait_for_step(
        folder.path, _KILLED_AT, is_alive=lambda: process.poll() is None, since=since
    )
    worlds.kill_group(process)
    if process.wait() != -signal.SIGKILL or folder.is_done():
        raise RuntimeError(f"{folder.path} ended before it was killed")
    saved = latest_checkpoint(folder.checkpoints)
    if saved is None:
        raise RuntimeError(f"{folder.path} was killed before its first checkpoint")
    step = max(worlds.series(folder.path))
    _finish(world, folder)
    paths = [one.result / "model.safetensors" for one in (whole, folder)]
    equal = paths[0].read_bytes() == paths[1].read_bytes()
    return {"step": step, "resumed_at": saved.step, "equal": equal}


def _compare_two_ranks(world: World, whole: StageFolder) -> dict[str, float]:
    """Train on two ranks (DDP, gloo).

    Returns:
        `loss`: largest relative difference of a step's loss from the run of one process;
        `weights`: largest difference of a weight.
    """
    folder = ranks.prepare(world, KIND, root="two", devices=2)
    _finish(world, folder)
    expected, found = (worlds.series(one.path) for one in (whole, folder))
    if sorted(found) != sorted(expected) or not expected:
        raise RuntimeError(f"{folder.path} has logged other steps than {whole.path}")
    files = [one.result / "model.safetensors" for one in (whole, folder)]
    theirs, ours = (safetensors.torch.load_file(path) for path in files)
    if theirs.keys() != ours.keys():
        raise RuntimeError(f"{folder.path} has saved other weights than {whole.path}")
    return {
        "loss": max(abs(found[step] / loss - 1) for step, loss in expected.items()),
        "weights": max(float((ours[name] - theirs[name]).abs().max()) for name in theirs),
    }


def _finish(world: World, folder: StageFolder) -> None:
    code, output = worlds.finish(ranks.start(world, folder))
    if code != 0 or not folder.is_done():
        raise RuntimeError(f"{folder.path} failed ({code}):\n{output}")
