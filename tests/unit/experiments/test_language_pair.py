"""Two target languages in one model: mixtures of the cells, and settings without effect."""

from fractions import Fraction
from pathlib import Path

import pytest

from configuration.axes import name_cells
from configuration.mixture import check_second_language, trained_languages
from configuration.run_config import RunConfig
from core.config import load_config
from core.errors import ConfigError
from experiments.grids import language_pair
from pipeline.stages.align import AlignStage
from pipeline.stages.instruct import InstructStage
from reporting.claims.claim_cells import select_cells
from reporting.claims.preregistration import combine_hypotheses
from reporting.settings import configured_axes


def _base(*overrides: str) -> RunConfig:
    return load_config(RunConfig, Path("configs/embedded.yaml"), overrides=overrides)


def _plan(*overrides: str) -> None:
    """Check a cell as a plan does."""
    config = _base(*overrides)
    InstructStage.from_config(config)
    check_second_language([config])


def test_half_of_the_images_are_in_either_language() -> None:
    cells = name_cells(language_pair.cells(_base("languages.second=gl")))
    assert len(cells) == 6
    for cell in cells:
        is_pair = cell.axes["second"] == "added"
        assert trained_languages(cell.config) == (("en", "eu", "gl") if is_pair else ("en", "eu"))
        for kind in (AlignStage, InstructStage):
            parts = kind.from_config(cell.config).stream.mixture.components
            amounts: dict[str, Fraction] = {}
            for part in parts.values():
                language = Path(part.target).name.split(".")[0].rpartition("_")[2]
                amount = Fraction(part.samples_per_step).limit_denominator(100)
                amounts[language] = amounts.get(language, Fraction(0)) + amount
            amounts.pop("")  # the line in the base language stays as it is
            whole = sum(amounts.values())
            assert amounts == ({"eu": whole / 2, "gl": whole / 2} if is_pair else {"eu": whole})
            assert whole == Fraction(144, 5) if kind is AlignStage else Fraction(36, 5)
            assert next(iter(parts.values())).target.endswith("_eu.manifest.json")


def test_every_claim_finds_its_cells() -> None:
    cells = name_cells(language_pair.cells(_base("languages.second=gl")))
    planned = [configured_axes(cell.axes) for cell in cells]
    fields = {configured_axes(cell.axes): cell.fields for cell in cells}
    own = combine_hypotheses(language_pair.hypotheses).hypotheses
    numbers = {
        name: len(select_cells(own[name], planned, {}, fields)) for name in language_pair.hypotheses
    }
    assert all(numbers.values()), numbers


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("languages.second=eu",), "languages.second is 'eu'"),
        (("instruct.visual.conversations.language=gl",), "language=gl, but languages.second is ''"),
        (("languages.second=gl",), "languages.second=gl has no effect"),
    ],
)
def test_contradictions_are_rejected(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _plan(*overrides)


def test_the_second_language_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"needs --set languages\.second"):
        language_pair.cells(_base())
