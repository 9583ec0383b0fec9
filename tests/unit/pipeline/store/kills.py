"""Kills of a function before every change of a file, and a small output folder to try them on."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from core.io.sealed_folder import seal_folder
from pipeline.store.states import State

_OPERATIONS = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"})


def run_killed(work, at):
    """Run a function in a forked process that SIGKILLs itself before its change number `at`.

    Returns:
        Whether the process was killed; False if it ended before.
    """
    child = os.fork()
    if child == 0:
        left = at

        def count(event, arguments):
            nonlocal left
            is_reading = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in _OPERATIONS and not is_reading:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            work()
        except BaseException:  # noqa: BLE001  # the child must not continue with the tests
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def run_killed_at_size(work, num_bytes):
    """Run a function in a forked process that the kernel kills once a file exceeds a size.

    The file then has exactly `num_bytes` bytes, so that the kill is in the middle of writing it.

    Returns:
        Whether the process was killed; False if it ended before.
    """
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
            work()
        except BaseException:  # noqa: BLE001  # the child must not continue with the tests
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGXFSZ
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def make_world(root):
    """Write two grids that share stage runs, an unfinished cell, and what no grid needs."""
    stages = {
        "features/f0f0f0f0": [],
        "align/a1a1a1a1": ["features/f0f0f0f0"],
        "instruct/11111111": ["features/f0f0f0f0", "align/a1a1a1a1"],
        "evaluate/e1e1e1e1": ["instruct/11111111"],
        "instruct/22222222": ["features/f0f0f0f0", "align/a1a1a1a1"],
        "evaluate/e2e2e2e2": ["instruct/22222222"],
        "align/a3a3a3a3": ["features/f0f0f0f0"],
        "instruct/33333333": ["align/a3a3a3a3"],
        "align/0ddddddd": [],
        "instruct/0eeeeeee": ["align/0ddddddd"],
        "evaluate/0fffffff": ["instruct/0eeeeeee"],
    }
    for name, inputs in stages.items():
        make_stage(root / "store" / name, inputs, is_done=name != "instruct/33333333")
    make_grid(root, "one", {"share0": "11111111", "share20": "22222222"})
    make_grid(root, "two", {"share0": "11111111", "long": "33333333"})
    crashed = root / "store" / "evaluate" / "e1e1e1e1" / "checkpoints"
    crashed.mkdir()
    (crashed / "partial_results.jsonl").write_text("{}\n")
    return root


def make_stage(folder, inputs, *, is_done=True):
    """Write one stage run with a sealed result, or with a checkpoint only."""
    folder.mkdir(parents=True)
    kind, address = folder.parts[-2:]
    about = {
        "kind": kind, "address": address, "title": f"{kind} {address}", "config": {},
        "inputs": {one.split("/")[0]: one.split("/") for one in inputs},
        "upstream": {one.split("/")[0]: one.split("/")[1] for one in inputs},
    }  # fmt: skip
    (folder / "stage.json").write_text(json.dumps(about))
    (folder / "spec.yaml").write_text(f"kind: {kind}\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    status = {"state": (State.DONE if is_done else State.INTERRUPTED).value, "wall_s": 3.0}
    (folder / "status.json").write_text(json.dumps(status))
    if is_done:
        result = folder / "result.tmp"
        (result / "parts").mkdir(parents=True)
        (result / "metrics.json").write_text(json.dumps({"metrics": {}, "of": address}))
        (result / "parts" / "weights.safetensors").write_bytes(address.encode() * 50)
        seal_folder(result)
        result.rename(folder / "result")
    else:
        (folder / "checkpoints" / "step=3").mkdir(parents=True)
        (folder / "checkpoints" / "step=3" / "state.pt").write_bytes(b"state")


def make_grid(root, name, cells):
    """Write a grid whose cells are named by the stage run of stage 2."""
    folder = root / "grids" / name
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.html").write_text(f"<p>{name}")
    described = []
    for cell, instruct in cells.items():
        about = json.loads((root / "store" / "instruct" / instruct / "stage.json").read_text())
        align = about["upstream"]["align"]
        evaluate = {"11111111": "e1e1e1e1", "22222222": "e2e2e2e2"}.get(instruct, "e3e3e3e3")
        stages = {"features": "f0f0f0f0", "align": align, "instruct": instruct}
        described.append({"cell_id": cell, "stages": {**stages, "evaluate": evaluate}})
    content = {"experiment": "mix", "profile": "small", "cells": described}
    (folder / "grid.json").write_text(json.dumps(content))


def contents(root, addresses=None):
    """Return path -> bytes of all files, or of those of some stage runs and all grids."""
    found = {}
    for path in sorted(Path(root).rglob("*")):
        parts = path.relative_to(root).parts
        is_hidden = any(part.startswith(".") for part in parts) or path.name == "lock"
        is_wanted = (
            addresses is None or parts[0] == "grids" or (parts[2:3] and parts[2] in addresses)
        )
        if path.is_file() and not is_hidden and is_wanted:
            found["/".join(parts)] = path.read_bytes()
    return found
