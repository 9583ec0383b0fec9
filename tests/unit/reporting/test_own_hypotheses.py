"""Hypotheses of an experiment itself are registered with those of the project."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError
from reporting.claims.claim_cells import select_cells
from reporting.claims.preregistration import (
    SHIPPED,
    combine_hypotheses,
    has_changed,
    load_registered,
    register,
)

OWN: dict[str, dict[str, Any]] = {
    "longer_helps": {
        "text": "Training {first} is better than training {second}",
        "source": "open question",
        "axis": "length",
        "first": "long",
        "second": "short",
        "test": "superiority",
    }
}


def test_they_are_added_to_the_registered_copy(tmp_path: Path) -> None:
    registration = register(tmp_path, OWN)
    found = load_registered(tmp_path).hypotheses
    shipped = combine_hypotheses({}).hypotheses
    assert list(found) == [*shipped, "longer_helps"]
    assert {name: found[name] for name in shipped} == shipped
    assert found["longer_helps"].axis == "length"
    assert (tmp_path / "hypotheses.yaml").read_text().startswith(SHIPPED.read_text())
    about = {"registration": registration.to_json(), "experiment_hypotheses": ["longer_helps"]}
    (tmp_path / "grid.json").write_text(json.dumps(about))
    assert not has_changed(tmp_path)


def test_a_registered_hypothesis_is_never_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registration = register(tmp_path, OWN)
    (tmp_path / "grid.json").write_text(json.dumps({"registration": registration.to_json()}))
    with caplog.at_level(logging.WARNING):
        assert register(tmp_path, OWN) == registration
        assert not caplog.records
        changed = {"longer_helps": {**OWN["longer_helps"], "first": "short", "second": "long"}}
        assert register(tmp_path, changed) == registration
    assert "longer_helps" in caplog.text
    assert load_registered(tmp_path).hypotheses["longer_helps"].first == "long"


def test_a_shipped_hypothesis_is_left_out_with_the_reason(tmp_path: Path) -> None:
    own = {"enough": "the shares: none", **OWN}
    registration = register(tmp_path, own)
    found = load_registered(tmp_path).hypotheses
    shipped = combine_hypotheses({}).hypotheses
    assert list(found) == [*shipped, "longer_helps"]
    assert found["enough"].left_out == "the shares: none"
    assert all(not one.left_out for name, one in found.items() if name != "enough")
    cells = [(("target_share", share),) for share in (0.0, 0.2, 1.0)]
    assert not isinstance(select_cells(shipped["enough"], cells, {}), str)
    reason = select_cells(found["enough"], cells, {})
    assert reason == "the experiment leaves it out, because the shares: none"
    about = {"registration": registration.to_json(), "experiment_hypotheses": sorted(own)}
    (tmp_path / "grid.json").write_text(json.dumps(about))
    assert not has_changed(tmp_path)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"enogh": "no shares"}, "unknown hypothesis 'enogh'. Did you mean 'enough'"),
        ({"enough": " "}, "with the reason why the experiment leaves them out"),
        ({"enough": OWN["longer_helps"]}, "'enough' has the name of one in"),
        ({"x": 3}, "expected names with the fields"),
        ({"x": {"text": "no fields"}}, r"hypotheses\.x\.source.*correct them in its file"),
    ],
)
def test_an_invalid_hypothesis_is_named(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        combine_hypotheses(own)
