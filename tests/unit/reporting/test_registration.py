"""Registration of hypotheses: whatever is changed afterwards, the report says so."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import ConfigError
from pipeline.store.registration import Registration
from pipeline.store.store import StageFolder
from reporting import build
from reporting.claims import preregistration
from reporting.claims.preregistration import check_registration, register
from reporting.records import GridRecord, load_grid
from reporting.sections import figures
from reporting.sections.caveats import caveats
from reporting.series import view_of
from tests.support import fake_grid

_CELLS = [axes for axes in fake_grid.mix_axes() if axes["target_share"] in (0.0, 0.2, 1.0)]
_MARGIN = "margin: 0.03"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a finished grid that was registered before its results."""
    return fake_grid.make_grid(tmp_path, cells=_CELLS, num_images=8)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that takes the place of the shipped hypotheses."""
    path = tmp_path / "shipped.yaml"
    path.write_text(preregistration.SHIPPED.read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(preregistration, "SHIPPED", path)
    return path


def _load(folder: Path) -> GridRecord:
    return load_grid(folder.parents[1], "mix_ablation", "embedded", folder.name)


def _problems(folder: Path) -> str:
    return "; ".join(check_registration(_load(folder)).problems)


def _page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(figures, "page_figures", lambda *args: [])
    grid = _load(folder)
    return build.render_page(grid, view_of(grid), [])


def _edit_grid(folder: Path, **fields: object) -> None:
    path = folder / "grid.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.slow
def test_an_untouched_registration_is_confirmatory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _problems(folder) == ""
    page = _page(folder, monkeypatch)
    assert "<h2>Pre-registered claims</h2>" in page
    assert "xploratory" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


@pytest.mark.slow
def test_deleted_copy_and_another_margin_are_noticed(
    folder: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack of the review: delete the copy, raise the shipped margin, build the report."""
    (folder / "hypotheses.yaml").unlink()
    shipped.write_text(shipped.read_text("utf-8").replace(_MARGIN, "margin: 0.30"), "utf-8")
    page = _page(folder, monkeypatch)
    assert "<b>Exploratory.</b>" in page
    assert "copy of the hypotheses is missing" in page
    assert "Pre-registered claims" not in page
    register(folder)  # nor does a new start of the grid register again in silence
    assert "missing" in _problems(folder)


def test_a_changed_copy_is_noticed(folder: Path) -> None:
    copy = folder / "hypotheses.yaml"
    copy.write_text(copy.read_text("utf-8").replace(_MARGIN, "margin: 0.30"), encoding="utf-8")
    assert "has been changed" in _problems(folder)


def test_a_changed_copy_with_its_hash_in_the_grid_is_noticed(folder: Path) -> None:
    """The records of the stage runs keep the hash with which they were started."""
    copy = folder / "hypotheses.yaml"
    copy.write_text(copy.read_text("utf-8").replace(_MARGIN, "margin: 0.30"), encoding="utf-8")
    old = _load(folder).registration
    assert old is not None
    new = preregistration.write_copy(folder, now=old.time)
    _edit_grid(folder, registration=new.to_json())
    assert f"{len(_CELLS)} of the {len(_CELLS)} evaluations do not record" in _problems(folder)


def test_another_registration_in_mlflow_is_noticed(folder: Path) -> None:
    grid = _load(folder)
    assert grid.registration is not None
    same = check_registration(grid, tracked=grid.registration)
    other = Registration(sha256="0" * 64, time=grid.registration.time)
    assert same.is_confirmatory
    assert "MLflow has another registration" in check_registration(grid, tracked=other).problems[0]


def test_a_new_folder_over_the_same_results_is_exploratory(folder: Path) -> None:
    """The results in the store are older than the registration of the new grid."""
    other = folder.parent / "again"
    other.mkdir()
    grid = json.loads((folder / "grid.json").read_text())
    registration = register(other)
    (other / "grid.json").write_text(
        json.dumps({**grid, "registration": registration.to_json()}), encoding="utf-8"
    )
    assert registration.time > time.time() - 60
    assert f"after {len(_CELLS)} of the {len(_CELLS)} evaluations had started" in _problems(other)


def test_a_backdated_registration_over_the_same_results_is_exploratory(folder: Path) -> None:
    other = folder.parent / "again"
    other.mkdir()
    grid = json.loads((folder / "grid.json").read_text())
    copy = (folder / "hypotheses.yaml").read_text("utf-8").replace(_MARGIN, "margin: 0.30")
    (other / "hypotheses.yaml").write_text(copy, encoding="utf-8")
    backdated = preregistration.write_copy(other, now=1.0)
    (other / "grid.json").write_text(
        json.dumps({**grid, "registration": backdated.to_json()}), encoding="utf-8"
    )
    assert "do not record this registration" in _problems(other)


def test_a_grid_without_registration_is_exploratory(tmp_path: Path) -> None:
    folder = fake_grid.make_grid(tmp_path, cells=_CELLS[:2], num_images=8, is_registered=False)
    assert "were not registered" in _problems(folder)
    assert "present reporting/hypotheses.yaml" in _problems(folder)


@pytest.mark.slow
def test_an_extended_grid_keeps_its_first_registration(folder: Path, shipped: Path) -> None:
    before = _load(folder).registration
    shipped.write_text(shipped.read_text("utf-8").replace("first: 0.2", "first: 0.4", 1), "utf-8")
    assert register(folder) == before
    grid = _load(folder)
    assert check_registration(grid).is_confirmatory
    assert any("has changed" in note for note in caveats(grid, view_of(grid)))


def test_a_stage_run_records_the_registrations_under_which_it_started(tmp_path: Path) -> None:
    stage = StageFolder(tmp_path)
    first = Registration(sha256="a" * 64, time=1_790_000_000.25)
    second = Registration(sha256="b" * 64, time=1_790_000_001.0)
    for registration in (first, first, second, None):
        stage.write_stage({"kind": "evaluate"}, {}, registration)
    found = map(Registration.from_json, stage.read_stage()["registrations"])
    assert list(found) == [first, second]


def test_an_invalid_published_registration_stops_the_grid(tmp_path: Path) -> None:
    registration = preregistration.write_copy(tmp_path)
    (tmp_path / preregistration.PUBLISHED_NAME).write_text(
        json.dumps({"registration": registration.to_json()}), encoding="utf-8"
    )
    assert register(tmp_path) == registration
    with (tmp_path / "hypotheses.yaml").open("a") as file:
        file.write("# later\n")
    with pytest.raises(ConfigError, match="has been changed"):
        register(tmp_path)
