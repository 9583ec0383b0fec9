"""The stage graph: what has to run for a list of cells, each thing once.

A stage's address is the hash of what determines its result: its spec, the content of the data and
weights it reads, the addresses it builds on, and the version of its recipe. Nothing else.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from configuration.axes import GridCell
from configuration.mixture import expected_manifests, manifest_path
from configuration.run_config import RunConfig, Stages
from core.config import fingerprint, to_plain
from core.errors import ConfigError, unknown_name
from core.io.files import sha256_file
from datamodules.shards.manifest import load_manifest, verify
from models.language.adapters import TuningConfig
from pipeline.stages.specs import (
    PretrainSpec,
    Spec,
    StageKind,
    TrainSpec,
    align_spec,
    evaluate_spec,
    features_spec,
    instruct_spec,
    retention_spec,
    spec_manifests,
    spec_weights,
)

RECIPE_VERSION = dict.fromkeys(StageKind, 1)
"""Raise a number when the code of that stage changes its results: old results stop matching."""

_ADDRESS_LENGTH = 16
_EXECUTION_ONLY = ("num_workers", "compute")
_YOUNGER = {
    "share_of": "samples",
    "phases": [],
    "optimizer": "adamw",
    "tuning": to_plain(TuningConfig()),
    "weights": "float32",
    "library": "open_clip",
    "hub_revision": "",
}
"""Fields that older stores don't know: at these values a spec means what it meant without them."""
_DEEP_VERIFY_BYTES = 1 << 30
"""Sources up to this size are read and hashed before anything starts; larger ones by size only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage run of the graph."""

    kind: StageKind
    title: str
    spec: Spec
    inputs: "dict[str, StageNode]"
    """Role ("features", "align", "init") -> the stage run whose result plays it."""
    content: dict[str, str]
    """Path of each manifest or weights file -> hash of what it holds."""
    params: dict[str, str | float]
    """The few values worth a column in a comparison."""

    @property
    def address(self) -> str:
        """Content address of the result."""
        spec = _without_execution(to_plain(self.spec))
        # A feature is a function of tower and image, and both are in this node's own content:
        # which other images lie in the same cache must not matter.
        upstream = {
            role: node.address if node.kind is not StageKind.FEATURES else RECIPE_VERSION[node.kind]
            for role, node in self.inputs.items()
        }
        parts = [self.kind.value, RECIPE_VERSION[self.kind], spec, upstream, self.content]
        return fingerprint(parts)[:_ADDRESS_LENGTH]

    @property
    def is_training(self) -> bool:
        """Whether several devices and machines can share it."""
        return isinstance(self.spec, TrainSpec | PretrainSpec)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """Stage runs in an order in which they can run, and what each cell uses."""

    nodes: dict[str, StageNode]
    """Address -> stage run; upstream before downstream."""
    cells: dict[str, dict[str, str]]
    """Cell id -> kind -> address."""
    missing: tuple[str, ...] = ()
    """Manifests that are only expected: such a graph can be looked at, not run."""

    def only(self, cells: Collection[str]) -> "Graph":
        """The part that some cells need."""
        kept = {cell: stages for cell, stages in self.cells.items() if cell in cells}
        wanted = {address for stages in kept.values() for address in stages.values()}
        nodes = {address: node for address, node in self.nodes.items() if address in wanted}
        return Graph(nodes=nodes, cells=kept, missing=self.missing)

    def cells_of(self, address: str) -> list[str]:
        """The cells that use a stage run."""
        return [cell for cell, stages in self.cells.items() if address in stages.values()]


def build_graph(cells: Sequence[GridCell], *, is_plan: bool = False) -> Graph:
    """Turn cells into the smallest set of stage runs.

    Args:
        cells: the cells of the grid.
        is_plan: let expected sources stand for manifests that aren't there yet.

    Raises:
        ConfigError: the benchmark lacks a language.
        DataError: a manifest or shard that isn't there.
    """
    nodes: dict[str, StageNode] = {}
    stages: dict[str, dict[str, str]] = {}
    hashes = ContentHashes()
    for cell in cells:
        config, cell_id = cell.config, cell.cell_id
        if is_plan:
            hashes.expect(expected_manifests(config))
        stages[cell_id] = {}
        if not hashes.is_missing(manifest_path(config, config.data.benchmark)):
            check_languages(config)
        for node in _cell_nodes(cell_id, config, hashes):
            nodes.setdefault(node.address, node)
            stages[cell_id][node.kind.value] = node.address
    return Graph(nodes=nodes, cells=stages, missing=tuple(sorted(hashes.missing)))


def check_languages(config: RunConfig) -> None:
    """Refuse, before the training, languages in which nothing could be asked after it.

    Raises:
        ConfigError: the benchmark lacks one.
    """
    manifest = load_manifest(Path(manifest_path(config, config.data.benchmark)))
    available = manifest.language.split(",")
    for language in (config.languages.base, config.languages.target):
        if language not in available:
            kind = f"language of benchmark '{manifest.name}'"
            raise ConfigError(unknown_name(kind, language, available, fix="See data_prep."))


def _cell_nodes(cell_id: str, config: RunConfig, hashes: "ContentHashes") -> list[StageNode]:
    cell = config.cell
    shared: dict[str, str | float] = {"backbone": cell.backbone, "seed": float(cell.seed)}
    own: dict[str, str | float] = {
        **shared,
        "target_share": cell.target_share,
        "text_only": str(cell.text_only).lower(),
        "stages": cell.stages.value,
    }
    nodes: list[StageNode] = []
    if config.retention.tasks:
        spec, model = retention_spec(config, is_trained=False), {"backbone": cell.backbone}
        nodes.append(hashes.node(StageKind.BACKBONE, f"backbone {cell.backbone}", spec, {}, model))
    shared_inputs: dict[str, StageNode] = {}
    if config.model.cache_features:
        nodes.append(hashes.node(StageKind.FEATURES, "features", features_spec(config), {}, {}))
        shared_inputs = {"features": nodes[-1]}
    inputs = shared_inputs
    if cell.stages is not Stages.INSTRUCT_ONLY:
        title = f"align {cell.backbone} s{cell.seed}"
        nodes.append(hashes.node(StageKind.ALIGN, title, align_spec(config), inputs, shared))
        inputs = {**shared_inputs, "align": nodes[-1]}
    if cell.stages is not Stages.ALIGN_ONLY:
        title = f"instruct {cell_id}"
        nodes.append(hashes.node(StageKind.INSTRUCT, title, instruct_spec(config), inputs, own))
        inputs = {**shared_inputs, "instruct": nodes[-1]}
        if config.retention.tasks:
            title, spec = f"retention {cell_id}", retention_spec(config, is_trained=True)
            nodes.append(hashes.node(StageKind.RETENTION, title, spec, inputs, own))
    title = f"evaluate {cell_id}"
    nodes.append(hashes.node(StageKind.EVALUATE, title, evaluate_spec(config), inputs, own))
    return nodes


class ContentHashes:
    """Hashes of manifests and weights, each file read once per graph."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._verified: set[object] = set()
        self._expected: set[str] = set()
        self.missing: set[str] = set()
        """Expected manifests that were asked for and aren't there."""

    def expect(self, paths: Iterable[str]) -> None:
        """Let these stand for themselves where they don't exist."""
        self._expected |= set(paths)

    def is_missing(self, path: str) -> bool:
        """Whether a manifest is only expected."""
        return path in self._expected and not Path(path).exists()

    def node(
        self,
        kind: StageKind,
        title: str,
        spec: Spec,
        inputs: Mapping[str, StageNode],
        params: Mapping[str, str | float],
    ) -> StageNode:
        """A node with the content of everything its spec names."""
        content = {path: self._manifest(path) for path in spec_manifests(spec)}
        for folder in spec_weights(spec):
            content |= self._weights(folder)
        return StageNode(
            kind=kind,
            title=title,
            spec=spec,
            inputs=dict(inputs),
            content=content,
            params={**params, "stage": kind.value},
        )

    def _manifest(self, path: str) -> str:
        """The fingerprint of a manifest whose shards are there and are the ones it lists."""
        if self.is_missing(path):
            self.missing.add(path)
            return "expected"
        if path not in self._known:
            manifest = load_manifest(Path(path))
            # Sources of several languages list the same shards: read them once.
            shards = (Path(path).parent, manifest.shards)
            is_small = sum(shard.num_bytes for shard in manifest.shards) <= _DEEP_VERIFY_BYTES
            verify(Path(path), deep=is_small and shards not in self._verified)
            self._verified.add(shards)
            self._known[path] = manifest.fingerprint()
        return self._known[path]

    def _weights(self, path: str) -> dict[str, str]:
        """Hashes of a local model folder; a hub name is pinned by its revision instead."""
        folder = Path(path)
        if not path or not folder.is_dir():
            return {}
        files = [*folder.glob("*.safetensors"), *folder.glob("*.json")]
        for file in sorted(files):
            self._known.setdefault(str(file), sha256_file(file))
        return {str(file): self._known[str(file)] for file in sorted(files)}


def _without_execution(tree: object) -> object:
    """Leave out fields that change where and how fast, not what, and those that change nothing."""
    if isinstance(tree, dict):
        kept = {
            key: value
            for key, value in tree.items()
            if key not in _EXECUTION_ONLY and not (key in _YOUNGER and value == _YOUNGER[key])
        }
        return {key: _without_execution(value) for key, value in kept.items()}
    return tree
