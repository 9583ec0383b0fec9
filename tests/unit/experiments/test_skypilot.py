"""SkyPilot tasks: their content, rejected requests, and a check by SkyPilot if installed."""

from pathlib import Path

import pytest
import yaml

from experiments import skypilot
from experiments.run import build_parser

_COMMON = ("--exp", "full_grid", "--bucket", "s3://a-bucket/study", "--accelerators", "H100:8")


def _write(tmp_path: Path, *more: str) -> Path:
    out = tmp_path / "task.yaml"
    assert skypilot.main([*_COMMON, *more, "--out", str(out)]) == 0
    return out


def test_a_task_has_the_resources_mounts_and_command(tmp_path: Path) -> None:
    more = ("--only", "share20", "--seeds", "2", "--set", "trainer.checkpoint_every_n_steps=0")
    task = yaml.safe_load(_write(tmp_path, *more).read_text())
    assert task["resources"]["use_spot"] is True
    mounts = {place: mount["source"] for place, mount in task["file_mounts"].items()}
    assert mounts == {
        "/irudimen/root": "s3://a-bucket/study/root", "/irudimen/data": "s3://a-bucket/study/data"
    }  # fmt: skip
    words = task["run"].split()
    options = build_parser().parse_args(words[words.index("experiments.run") + 1 :])
    assert (options.exp, options.profile, options.seeds) == ("full_grid", "paper", 2)
    assert options.only == ["share20"]
    assert str(options.root) in mounts
    assert options.overrides == [
        "trainer.accelerator=gpu", "trainer.devices=8", "data.folder=/irudimen/data",
        "trainer.checkpoint_every_n_steps=0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--bucket", "my-bucket"), "expected s3://"),
        (("--accelerators", "H100"), "expected e.g. H100:8"),
        (("--exp", "ful_grid"), "Did you mean 'full_grid'?"),
        (("--set", "trainer.devises=2"), "devises"),
        (("--only", "share77"), "share77"),
    ],
)
def test_invalid_requests_are_rejected(
    tmp_path: Path, more: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert skypilot.main([*_COMMON, *more, "--out", str(tmp_path / "x.yaml")]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


def test_skypilot_accepts_the_task(tmp_path: Path) -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install skypilot")
    task = sky.Task.from_yaml(str(_write(tmp_path)))
    (resources,) = task.resources
    assert resources.use_spot
