"""Changed code of a stage raises its recipe version, or declares that its results are unchanged."""

import sys

import pytest

from pipeline.code_digest import code_digest
from pipeline.stages.registry import stage_kinds
from tests.golden.code_digests import find_problem, read_record


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="Python writes code out per version")
@pytest.mark.parametrize("kind", sorted(stage_kinds()))
def test_code_is_as_recorded_for_the_recipe_version(kind: str) -> None:
    stage = stage_kinds()[kind]
    problem = find_problem(kind, stage.recipe_version, code_digest(stage), read_record().get(kind))
    assert not problem, problem


def test_every_recorded_kind_exists() -> None:
    assert read_record().keys() <= stage_kinds().keys(), "remove the record of a removed kind"
