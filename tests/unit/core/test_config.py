"""Configuration: round trips, precedence of layers, and error messages."""

import dataclasses
from pathlib import Path

import pytest

from core.chat.format import PromptStyle
from core.config import dump_config, fingerprint, load_config
from core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    width: int = 4
    rate: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    name: str
    style: PromptStyle | None = None
    parts: dict[str, Inner] = dataclasses.field(default_factory=dict)
    sizes: tuple[int, ...] = (1, 2)


def test_round_trip(tmp_path: Path) -> None:
    config = Outer(name="eu 1", style=PromptStyle.PLAIN, parts={"a": Inner(width=9)}, sizes=(3,))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    loaded = load_config(Outer, path)
    assert dataclasses.replace(loaded, sizes=tuple(loaded.sizes)) == config
    assert isinstance(loaded.parts["a"], Inner)
    assert loaded.style is PromptStyle.PLAIN


def test_layers_and_overrides_win_in_order(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: file\nparts:\n  a:\n    width: 5\n")
    loaded = load_config(Outer, path, overrides=["parts.a.rate=0.5", "name=line"])
    assert loaded.name == "line"
    assert loaded.parts["a"] == Inner(width=5, rate=0.5)
    assert load_config(Outer(name="instance"), overrides=["sizes=[7]"]).name == "instance"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nam=x"], "nam"),
        (["name=x", "parts.a.widht=3"], "widht"),
        (["name=x", "parts.a.width=wide"], "parts.a.width is .wide.; expected a whole number"),
        (["name"], "has no '='"),
        ([], ".name. has no value"),
    ],
)
def test_invalid_values_are_reported(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, overrides=overrides)


@pytest.mark.parametrize("text", ["name: [1", "name: a\nname: b: c", "- a\n- b"])
def test_a_malformed_file_is_reported(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(Outer, path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Outer, tmp_path / "nothing.yaml")


def test_fingerprint_depends_on_the_content() -> None:
    assert fingerprint(Inner()) == fingerprint({"rate": 0.1, "width": 4})
    assert fingerprint(Inner()) != fingerprint(Inner(width=5))
    assert fingerprint((1, 2)) == fingerprint([1, 2])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    num_steps: int = 1

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigError(f"num_steps must be at least 1, got {self.num_steps}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    align: Stage = dataclasses.field(default_factory=Stage)
    instruct: Stage = dataclasses.field(default_factory=Stage)


def test_an_error_about_a_value_names_its_override() -> None:
    overrides = ["align.num_steps=2", "instruct.num_steps=-5"]
    with pytest.raises(ConfigError) as caught:
        load_config(Stages, overrides=overrides[1:])
    expected = "num_steps must be at least 1, got -5 (--set instruct.num_steps=-5)"
    assert str(caught.value) == expected
    with pytest.raises(ConfigError, match=r"\(--set align\.num_steps=2 instruct\.num_steps=-5\)"):
        load_config(Stages, overrides=overrides)
