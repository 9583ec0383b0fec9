"""Expectations that only an intended change may alter (`python -m tests.golden.snapshots`)."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.golden import snapshots


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lengths of samples, which are the same in every plan."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "profile"), snapshots.PLANS)
def test_plans_and_addresses(experiment: str, profile: str, cache: Path) -> None:
    expected = json.loads((snapshots.FOLDER / "plans" / f"{experiment}-{profile}.json").read_text())
    found = json.loads(json.dumps(snapshots.plan_snapshot(experiment, profile, cache)))
    assert found["cells"] == expected["cells"]
    assert found["nodes"] == expected["nodes"]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse lays out help per version")
@pytest.mark.parametrize("command", snapshots.COMMANDS)
def test_help_texts(command: str) -> None:
    expected = (snapshots.FOLDER / "help" / f"{command}.txt").read_text()
    assert snapshots.help_text(command) == expected


@pytest.mark.slow
def test_smoke_weights_and_metrics(tmp_path: Path) -> None:
    """Bit for bit on the recorded kind of processor; elsewhere norms agree to 0.1 %."""
    expected = json.loads((snapshots.FOLDER / "smoke.json").read_text())
    found = json.loads(json.dumps(snapshots.smoke_snapshot(tmp_path)))
    if snapshots.processor() == expected["processor"]:
        assert found == expected["stages"]
        return
    assert _norms(found) == {
        kind: pytest.approx(norms, rel=0.001) for kind, norms in _norms(expected["stages"]).items()
    }
    assert {kind: sorted(entry) for kind, entry in found.items()} == {
        kind: sorted(entry) for kind, entry in expected["stages"].items()
    }


def _norms(stages: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {kind: entry["norms"] for kind, entry in stages.items() if "norms" in entry}
