"""Write a SkyPilot task for a grid: a managed job on spot instances of any cloud.

python -m experiments.skypilot --exp full_grid --profile paper --bucket s3://my-bucket \
    --accelerators H100:8 --out full_grid.yaml
sky jobs launch full_grid.yaml
"""

from core.process.command import catch_user_errors

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from configuration.grid_request import GridRequest
from core.errors import ConfigError
from core.io.files import atomic_write_text
from core.process.options import given_path, whole_number
from experiments.cli import add_grid_options, request_of

_STORE, _DATA = "/irudimen/root", "/irudimen/data"
_BUCKET = re.compile(r"(s3|gs|r2)://[a-z0-9][a-z0-9.-]*[a-z0-9](/[\w./-]*)?")
_ACCELERATORS = re.compile(r"[A-Za-z0-9-]+:[1-9]\d*")
_EPILOG = """examples:
  python -m experiments.skypilot --exp full_grid --bucket s3://my-bucket --out full_grid.yaml
  sky jobs launch full_grid.yaml

The bucket holds the datasets (data/) and the store of results (root/). The grid runs on one node at
a time; several nodes need a file system on which each node sees the files of the others, which a
bucket does not provide. SkyPilot replaces a preempted node; the same command then skips finished
stage runs and resumes the others from their last checkpoints.
"""
_SETUP = """\
set -e
python3 -m venv ~/irudimen-env
~/irudimen-env/bin/pip install --quiet -r requirements.lock
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloudResources:
    """Resources of a SkyPilot task."""

    bucket: str
    """URL of the bucket with data/ and root/."""
    accelerators: str = "H100:8"
    """Name and number of the GPUs of a node, as SkyPilot spells them."""
    devices: int = 0
    """GPUs of one stage run; 0 uses all GPUs of the node."""
    disk_gb: int = 512
    is_on_demand: bool = False

    def __post_init__(self) -> None:
        """Check the bucket and the accelerators."""
        if not _BUCKET.fullmatch(self.bucket):
            raise ConfigError(f"--bucket {self.bucket}: expected s3://, gs:// or r2:// and a name")
        if not _ACCELERATORS.fullmatch(self.accelerators):
            raise ConfigError(f"--accelerators {self.accelerators}: expected e.g. H100:8")


def make_task(request: GridRequest, resources: CloudResources) -> dict[str, Any]:
    """Return the task as the content of SkyPilot's YAML file.

    Raises:
        ConfigError: If the experiment, the profile, a cell or an override is invalid.
    """
    from experiments.run_steps.planning import make_plan  # loads torch

    make_plan(request)  # reject an invalid request before a node is rented
    bucket = resources.bucket.rstrip("/")
    return {
        "name": f"irudimen-{request.experiment}-{request.profile}".replace("_", "-"),
        "workdir": ".",
        "resources": {
            "accelerators": resources.accelerators,
            "use_spot": not resources.is_on_demand,
            "disk_size": resources.disk_gb,
            "job_recovery": {"strategy": "FAILOVER", "max_restarts_on_errors": 3},
        },
        # The database is only a view of the store; on a bucket, a preemption would corrupt it.
        "envs": {"MLFLOW_TRACKING_URI": "sqlite:////tmp/irudimen-mlflow.db"},
        "file_mounts": {
            # Results are renamed into place, which only the cached mount supports.
            _STORE: {"source": f"{bucket}/root", "mode": "MOUNT_CACHED"},
            _DATA: {"source": f"{bucket}/data", "mode": "MOUNT"},
        },
        "setup": _SETUP,
        "run": _run_script(request, resources),
    }


def _run_script(request: GridRequest, resources: CloudResources) -> str:
    devices = resources.devices or int(resources.accelerators.partition(":")[2])
    command = ["-m", "experiments.run", "--exp", _experiment_option(request)]
    command += ["--profile", request.profile]
    command += ["--seeds", str(request.num_seeds), "--root", _STORE]
    if request.only:
        command += ["--only", *request.only]
    command += ["--set", "trainer.accelerator=gpu", f"trainer.devices={devices}"]
    command += [f"data.folder={_DATA}", *request.overrides]
    return f"exec ~/irudimen-env/bin/python {shlex.join(command)}\n"


def _experiment_option(request: GridRequest) -> str:
    """Return `--exp` as the node needs it: SkyPilot copies the working folder, and nothing else.

    Raises:
        ConfigError: If the experiment is a file outside of the working folder.
    """
    if request.experiment_file is None:
        return request.experiment
    file, folder = request.experiment_file.resolve(), Path.cwd().resolve()
    if not file.is_relative_to(folder):
        raise ConfigError(
            f"--exp {request.experiment_file} is outside of {folder}, which is all that SkyPilot "
            "copies to the node; move the file into it"
        )
    return str(file.relative_to(folder))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.skypilot",
        description="Write a SkyPilot task that runs a grid as a managed job on spot instances.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # A plan needs no prepared datasets, and --root is the mounted bucket.
    add_grid_options(parser, profile="paper", omit=("--root",))
    parser.set_defaults(dry_run=True)
    add = parser.add_argument_group("task options").add_argument
    add("--bucket", required=True, metavar="URL", help="s3://, gs:// or r2:// with data/ and root/")
    add(
        "--accelerators",
        default="H100:8",
        metavar="NAME:COUNT",
        help="GPUs of a node, as SkyPilot spells them (default: H100:8)",
    )
    add(
        "--devices",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="GPUs per stage run (default: all GPUs of a node)",
    )
    add(
        "--disk-gb",
        type=whole_number(1),
        default=512,
        metavar="GB",
        help="disk size of a node (default: 512)",
    )
    add("--on-demand", action="store_true", help="use on-demand instead of spot instances")
    add("--out", type=given_path, required=True, metavar="FILE", help="YAML file to write")
    return parser


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """YAML dumper that writes scripts as literal blocks."""


def _represent_script(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_script)


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args, console = build_parser().parse_args(arguments), Console()
    resources = CloudResources(
        bucket=args.bucket,
        accelerators=args.accelerators,
        devices=args.devices,
        disk_gb=args.disk_gb,
        is_on_demand=args.on_demand,
    )
    task = make_task(request_of(args), resources)
    atomic_write_text(args.out, yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000))
    console.print(f"Task written. Launch it with: sky jobs launch {args.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
