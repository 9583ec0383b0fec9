"""Writes a SkyPilot task for a grid: a managed job on spot machines of any cloud.

python -m experiments.skypilot --exp full_grid --profile paper --bucket s3://my-bucket \
    --accelerators H100:8 --out full_grid.yaml
sky jobs launch full_grid.yaml

The bucket holds the shards and the store of results; the grid runs on one machine at a time
(several need a file system that shows each what the others wrote, which a bucket is not). A machine
that is taken away is replaced by SkyPilot; the same command finds what is finished and goes on from
the last checkpoints.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from core.errors import ConfigError
from core.io.files import atomic_write_text
from core.process.command import clear_errors
from experiments.planning import make_plan

_STORE, _DATA = "/irudimen/root", "/irudimen/data"
_BUCKET = re.compile(r"(s3|gs|r2)://[a-z0-9][a-z0-9.-]*[a-z0-9](/[\w./-]*)?")
_ACCELERATORS = re.compile(r"[A-Za-z0-9-]+:[1-9]\d*")
_SETUP = """\
set -e
python3 -m venv ~/irudimen-env
~/irudimen-env/bin/pip install --quiet -r requirements.lock
"""


def make_task(options: argparse.Namespace) -> dict[str, Any]:
    """The task as SkyPilot's YAML has it.

    Raises:
        ConfigError: an experiment, cell, setting, bucket or accelerator that can't be.
    """
    if not _BUCKET.fullmatch(options.bucket):
        raise ConfigError(f"--bucket {options.bucket}: expected s3://, gs:// or r2:// and a name")
    if not _ACCELERATORS.fullmatch(options.accelerators):
        raise ConfigError(f"--accelerators {options.accelerators}: expected e.g. H100:8")
    make_plan(options)  # refuses what the command would refuse, before a machine is paid for
    bucket = options.bucket.rstrip("/")
    return {
        "name": f"irudimen-{options.exp}-{options.profile}".replace("_", "-"),
        "workdir": ".",
        "resources": {
            "accelerators": options.accelerators,
            "use_spot": not options.on_demand,
            "disk_size": options.disk_gb,
            "job_recovery": {"strategy": "FAILOVER", "max_restarts_on_errors": 3},
        },
        # On a bucket it would be torn when the machine goes; it is only a view of the store.
        "envs": {"MLFLOW_TRACKING_URI": "sqlite:////tmp/irudimen-mlflow.db"},
        "file_mounts": {
            # Results are renamed into place, which only the cached mount can do.
            _STORE: {"source": f"{bucket}/root", "mode": "MOUNT_CACHED"},
            _DATA: {"source": f"{bucket}/data", "mode": "MOUNT"},
        },
        "setup": _SETUP,
        "run": _command(options),
    }


def _command(options: argparse.Namespace) -> str:
    devices = options.devices or int(options.accelerators.partition(":")[2])
    words = ["-m", "experiments.run", "--exp", options.exp, "--profile", options.profile,
             "--seeds", str(options.seeds), "--root", _STORE]  # fmt: skip
    if options.only:
        words += ["--only", *options.only]
    words += ["--set", "trainer.accelerator=gpu", f"trainer.devices={devices}",
              f"data.folder={_DATA}", *options.overrides]  # fmt: skip
    return f"exec ~/irudimen-env/bin/python {shlex.join(words)}\n"


def build_parser() -> argparse.ArgumentParser:
    """The options: those of experiments.run that choose the grid, and what to rent."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.skypilot", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--exp", required=True, help="experiment (python -m experiments.run --list)")
    add("--profile", default="paper", help="configuration in configs/ (default: paper)")
    add("--only", nargs="+", default=[], metavar="PART", help="cells whose id contains a part")
    add("--seeds", type=int, default=1, help="training seeds per cell")
    add("--set", nargs="+", action="extend", default=[], metavar="A.B=C", dest="overrides")
    add("--bucket", required=True, help="s3://, gs:// or r2:// with data/ and root/ in it")
    add("--accelerators", default="H100:8", help="SkyPilot's name and number on a machine")
    add("--devices", type=int, default=0, help="GPUs of one stage run (default: all of a machine)")
    add("--disk-gb", type=int, default=512, help="disk of a machine")
    add("--on-demand", action="store_true", help="machines that nobody takes away")
    add("--out", type=Path, required=True, help="file to write")
    return parser


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Scripts line by line, as people write them."""


def _as_script(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_script)


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the task and say how to start it."""
    options, console = build_parser().parse_args(arguments), Console()
    options.dry_run = True  # a plan needs no prepared data here
    task = make_task(options)
    atomic_write_text(options.out, yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000))
    console.print(f"Written. Start it: sky jobs launch {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
