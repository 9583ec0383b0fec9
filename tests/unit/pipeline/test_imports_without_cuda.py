"""The modules that the fork server preloads never touch CUDA: a CUDA context can't be forked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.launchers import forkserver

ROOT = Path(__file__).resolve().parents[3]
SPY = """
import importlib, json, sys, traceback
import torch
calls = []
def spy(name):
    def record(*args, **kwargs):
        frames = traceback.extract_stack()[:-1]
        calls.append([name, *(f"{x.filename}:{x.lineno}" for x in frames[-3:])])
        return real(*args, **kwargs)
    real = getattr(torch.cuda, name)
    setattr(torch.cuda, name, record)
for name in ("is_available", "device_count", "_lazy_init", "current_device",
             "get_device_capability", "is_bf16_supported"):
    spy(name)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(calls))
"""


@pytest.mark.slow
@pytest.mark.gpu_path
def test_preloading_calls_nothing_of_torch_cuda() -> None:
    modules = json.dumps(forkserver._PRELOADED_MODULES)
    process = subprocess.run(
        [sys.executable, "-c", SPY, modules], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(process.stdout.splitlines()[-1]) == []
