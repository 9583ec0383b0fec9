"""Axes of a grid: varying any configuration field, and naming cells by what they differ in."""

import dataclasses
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from configuration.replacing import replace_fields
from configuration.run_config import CellConfig, RunConfig, Stages
from core.config import fingerprint, to_plain
from core.errors import ConfigError

AxisValue: TypeAlias = str | float | int | bool | None
AxisValues: TypeAlias = Sequence[Any] | Mapping[str, Mapping[str, Any]]
"""Values of a configuration field; or named variants, each with the values of several fields."""

_STUDY = "cell"
"""The section of a `RunConfig` whose fields are always axes."""
_ALWAYS_AXES = frozenset({"target_share", "target_samples", "base_samples", "seed"})
"""Fields of the study that stay axes of their own where a variant sets them: amounts and seed."""
_VARIANTS = "variants"
"""The field of a `VariedConfig` that is no part of the configuration."""
_AXIS_NAME = re.compile(r"[^\W\d]\w*")
_MAX_VALUE_CHARS = 24
"""Longer values appear in a cell id as a hash."""
_HASH_CHARS = 8
_SAME_NUMBER = 1e-12
"""Relative difference below which a number is the one that was written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A name for the values of several configuration fields."""

    axis: str
    name: str
    values: Mapping[str, Any]
    """Dotted path -> value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariedConfig(RunConfig):
    """The configuration of a cell that named variants were applied to."""

    variants: Mapping[str, Variant] = dataclasses.field(default_factory=dict)
    """Axis -> the variant that was applied."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridCell:
    """One cell of a grid: its configuration and its place on the axes."""

    cell_id: str
    """Readable name, unique within the grid; no code parses it."""
    config: RunConfig
    axes: dict[str, AxisValue]
    """The fields of `CellConfig` by name, the named variants by axis, and every other configuration
    path in which cells of the grid differ."""
    fields: dict[str, AxisValue] = dataclasses.field(default_factory=dict)
    """Configuration paths that are no axes because the named variants of the cells set them."""


def vary(
    base: RunConfig, fields: Mapping[str, AxisValues] | None = None, /, **cell: Sequence[Any]
) -> list[RunConfig]:
    """Return one configuration per combination of values; the last axis varies fastest.

    Args:
        base: Configuration that all cells share.
        fields: Dotted path of any configuration field -> its values, for example
            `{"model.connector.kind": ("linear", "mlp2x_gelu")}`. Or the name of a new axis -> its
            variants by name, each with the fields that it sets, for example `{"training":
            {"short": {}, "long": {"align.num_steps": 600, "instruct.num_steps": 1800}}}`.
        **cell: Field of `CellConfig` -> its values. `target_samples` replaces the share.

    Raises:
        ConfigError: If a path does not exist, a value has another type than its field, an axis has
            no values, two axes set the same field, or the base fixes a number of images that an
            axis replaces.
    """
    if base.cell.target_samples is not None and {"target_share", "target_samples"} & cell.keys():
        raise ConfigError(
            f"cell.target_samples={base.cell.target_samples}: the experiment varies the amount of "
            "target-language data itself; use one that does not, such as stage_ablation, or an "
            "experiment of your own (docs/guides/mixtures.md)"
        )
    if "target_samples" in cell:
        cell = {"target_share": (None,), **cell}
    axes = {**(fields or {}), **{f"{_STUDY}.{name}": values for name, values in cell.items()}}
    choices = [_choices(name, values) for name, values in axes.items()]
    _check_disjoint(choices)
    return [_apply(base, combination) for combination in itertools.product(*choices)]


def _choices(name: str, values: AxisValues) -> list[Variant]:
    """Return the choices of an axis; those of a field have no name."""
    if isinstance(values, str) or not isinstance(values, Mapping | Sequence):
        raise ConfigError(f"axis '{name}' is {values!r}; expected a list of values or variants")
    if not values:
        raise ConfigError(f"axis '{name}' has no values; list at least one")
    if not isinstance(values, Mapping):
        return [Variant(axis="", name="", values={name: value}) for value in values]
    known = {field.name for field in dataclasses.fields(CellConfig)}
    sections = {field.name for field in dataclasses.fields(RunConfig)}
    if not _AXIS_NAME.fullmatch(name) or name in known | sections:
        raise ConfigError(
            f"axis '{name}' has named variants; give it a new name of letters, digits and _, not "
            "that of a configuration field"
        )
    for variant, changes in values.items():
        if not isinstance(variant, str) or not variant or not isinstance(changes, Mapping):
            raise ConfigError(
                f"axis '{name}': variant {variant!r} is {changes!r}; expected a name and the "
                "fields that it sets"
            )
        if f"{_STUDY}.seed" in changes:
            raise ConfigError(
                f"axis '{name}': variant '{variant}' sets the seed; use --seeds or --replicate"
            )
    return [Variant(axis=name, name=variant, values=dict(v)) for variant, v in values.items()]


def _check_disjoint(choices: Sequence[Sequence[Variant]]) -> None:
    """Check that no two axes set the same field or parts of it."""
    seen: set[str] = set()
    for axis in choices:
        paths = {path for choice in axis for path in choice.values}
        for path in sorted(paths):
            if any(f"{a}.".startswith(f"{b}.") for one in seen for a, b in
                   ((one, path), (path, one))):  # fmt: skip
                raise ConfigError(f"two axes set {path}; name their combinations as variants")
        seen |= paths


def _apply(base: RunConfig, choices: Sequence[Variant]) -> RunConfig:
    """Return a configuration with the values of one choice per axis."""
    values = {path: value for choice in choices for path, value in choice.values.items()}
    config = replace_fields(base, values)
    named = {choice.axis: choice for choice in choices if choice.axis}
    if not named:
        return config
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(RunConfig)}
    return VariedConfig(**parts, variants={**_variants_of(base), **named})


def _variants_of(config: RunConfig) -> Mapping[str, Variant]:
    return config.variants if isinstance(config, VariedConfig) else {}


def name_cells(configs: Sequence[RunConfig]) -> tuple[GridCell, ...]:
    """Name the cells of a grid by the fields in which they differ.

    Raises:
        ConfigError: If two cells are equal.
    """
    flat = [flatten(config) for config in configs]
    named = [_variants_of(config) for config in configs]
    implied = _implied_paths(flat, named)
    paths = [path for path in _varying_paths(flat) if path not in implied]
    axes = [*dict.fromkeys(axis for one in named for axis in one), *paths]
    values = [
        {axis: _value_on(axis, leaves, one) for axis in axes}
        for leaves, one in zip(flat, named, strict=True)
    ]
    varying = [axis for axis in axes if len({_exact(one[axis]) for one in values}) > 1]
    names = short_names(varying)
    ids = [
        "_".join([_study_id(config.cell), *(f"{names[a]}{_slug(one[a])}" for a in varying)])
        for config, one in zip(configs, values, strict=True)
    ]
    cells = [
        GridCell(
            cell_id=cell_id,
            config=config,
            axes=_study_axes(config.cell, implied) | one,
            fields={path: leaves[path] for path in implied if path in leaves},
        )
        for cell_id, config, one, leaves in zip(ids, configs, values, flat, strict=True)
    ]
    return _distinct(cells, flat)


def _distinct(
    cells: Sequence[GridCell], flat: Sequence[Mapping[str, AxisValue]]
) -> tuple[GridCell, ...]:
    """Complete ids by which cells are not told apart: numbers and texts are shortened in them."""
    first: dict[str, str] = {}
    for cell, leaves in zip(cells, flat, strict=True):
        key = fingerprint(leaves)
        if key in first:
            raise ConfigError(
                f"two cells of the grid are equal: '{first[key]}'"
                + (f" and '{cell.cell_id}'" if cell.cell_id != first[key] else "")
                + "; vary a field"
            )
        first[key] = cell.cell_id
    counts = Counter(cell.cell_id for cell in cells)
    completed = []
    for cell, leaves in zip(cells, flat, strict=True):
        others = {path: value for path, value in leaves.items() if path != f"{_STUDY}.seed"}
        suffix = f"_{fingerprint(others)[:_HASH_CHARS]}" if counts[cell.cell_id] > 1 else ""
        completed.append(dataclasses.replace(cell, cell_id=cell.cell_id + suffix))
    return tuple(completed)


def _study_axes(cell: CellConfig, implied: Iterable[str]) -> dict[str, AxisValue]:
    """Return the fields of the study that are set and that no variant stands for."""
    return {
        name: value
        for name, value in to_plain(cell).items()
        if value is not None and f"{_STUDY}.{name}" not in implied
    }


def _implied_paths(
    flat: Sequence[Mapping[str, AxisValue]], named: Sequence[Mapping[str, Variant]]
) -> dict[str, None]:
    """Return the varying paths that are set by the variants of one axis and by nothing else."""
    implied: dict[str, None] = {}
    for axis in dict.fromkeys(axis for one in named for axis in one):
        variants = [one[axis].name if axis in one else None for one in named]
        sets = {path for one in named if axis in one for path in one[axis].values}
        for path in dict.fromkeys(path for leaves in flat for path in leaves):
            # A variant may set a section: all fields in it are its own.
            if not any(f"{path}.".startswith(f"{owner}.") for owner in sets):
                continue
            found = [_exact(leaves.get(path)) for leaves in flat]
            is_function = len({*zip(variants, found, strict=True)}) == len({*variants})
            is_amount = path in {f"{_STUDY}.{name}" for name in _ALWAYS_AXES}
            if len({*found}) > 1 and is_function and not is_amount:
                implied[path] = None
    return implied


def _value_on(
    axis: str, leaves: Mapping[str, AxisValue], named: Mapping[str, Variant]
) -> AxisValue:
    if axis in named:
        return named[axis].name
    return leaves.get(axis)


def _exact(value: AxisValue) -> str:
    """Return a text that is different for different values: 1, 1.0 and True are equal in Python."""
    return json.dumps(value)


def flatten(config: object) -> dict[str, AxisValue]:
    """Return the leaves of a configuration by dotted path; lists are JSON text."""
    leaves: dict[str, AxisValue] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else key, value)
        else:
            leaves[prefix] = json.dumps(node) if isinstance(node, list) else node

    plain = to_plain(config)
    if isinstance(config, VariedConfig):
        del plain[_VARIANTS]
    walk("", plain)
    return leaves


def _varying_paths(flat: Sequence[Mapping[str, AxisValue]]) -> list[str]:
    """Return the paths outside the study's own axes whose value is not the same in all cells."""
    known = dict.fromkeys(path for leaves in flat for path in leaves)
    return [
        path
        for path in known
        if not path.startswith(f"{_STUDY}.")
        and len({_exact(leaves.get(path)) for leaves in flat}) > 1
    ]


def is_value(found: AxisValue, wanted: Any) -> bool:
    """Return whether a value of an axis is the one that a user has written.

    Texts may stand for other types, as on a command line: 1e-3 is the number 0.001.
    """
    if isinstance(wanted, list | tuple):
        wanted = json.dumps(to_plain(wanted))
    if found is None or wanted is None:
        return found is None and (wanted is None or str(wanted).lower() in ("null", "none"))
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if is_number and not isinstance(wanted, bool):
        try:
            return math.isclose(float(found), float(wanted), rel_tol=_SAME_NUMBER)
        except ValueError:
            return False
    return str(found).lower() == str(wanted).strip().lower()


def short_names(paths: Iterable[str], *, min_parts: int = 1) -> dict[str, str]:
    """Map each path to its shortest suffix, of `min_parts` or more, that no other path has."""
    paths, names = list(paths), {}
    for path in paths:
        parts = path.split(".")
        for length in range(min(min_parts, len(parts)), len(parts) + 1):
            suffix = ".".join(parts[-length:])
            if sum(f".{other}".endswith(f".{suffix}") for other in paths) == 1:
                break
        names[path] = suffix
    return names


def _study_id(cell: CellConfig) -> str:
    text = "_txt" if cell.text_only else ""
    stages = "" if cell.stages is Stages.BOTH else f"_{cell.stages.value}"
    return f"{cell.backbone}_{_amount_id(cell)}{text}{stages}_s{cell.seed}"


def _amount_id(cell: CellConfig) -> str:
    if cell.target_share is not None:
        return f"share{100 * cell.target_share:g}"
    base = "" if cell.base_samples is None else f"+{cell.base_samples}"
    return f"samples{cell.target_samples}{base}"


def _slug(value: AxisValue) -> str:
    text = re.sub(r"[^\w.+-]+", "-", f"{value:g}" if isinstance(value, float) else str(value))
    return text if len(text) <= _MAX_VALUE_CHARS else fingerprint(value)[:_HASH_CHARS]
