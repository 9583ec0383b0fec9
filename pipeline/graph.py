"""The stage graph: the stage runs that a list of cells needs, each of them once.

The address of a stage run is the hash of everything that determines its result: the fields of the
stage, the content of the data and weights it reads, the addresses of its inputs, and the version of
its recipe. Nothing else is part of it.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from configuration.axes import AxisValue, GridCell
from configuration.mixture import expected_manifests
from configuration.run_config import RunConfig
from core.config import fingerprint, to_plain
from core.packages import package_versions
from pipeline.benchmark_checks import BenchmarkChecks
from pipeline.code_digest import code_digest
from pipeline.content import ContentHashes
from pipeline.mixture_checks import planned_target_share
from pipeline.stages.base import InputRole, Stage
from pipeline.stages.registry import stage_kinds
from pipeline.stages.training import TrainingStage
from planner.estimator import Estimator, StageEstimate

_ADDRESS_LENGTH = 16
RECORD_ONLY = frozenset({"recipe_version", "code", "versions"})
"""Fields of stage.json about how a result was computed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage run of the graph."""

    stage: Stage
    title: str
    """Name for people; not part of the address."""
    inputs: "dict[str, StageNode]"
    """InputRole -> the stage run whose result plays it."""
    content: dict[str, str]
    """Path of each manifest or weights file -> hash of its content."""
    params: dict[str, AxisValue]
    """Values worth a column in a comparison."""

    @property
    def kind(self) -> str:
        """Name of the stage kind."""
        return self.stage.kind

    @cached_property
    def address(self) -> str:
        """Content address of the result."""
        stage = to_plain(self.stage, with_execution=False)
        # A cached value is a function of fields and content that this node has itself. What else is
        # in the same cache must not matter.
        upstream = {
            role: node.stage.recipe_version if node.stage.is_cache else node.address
            for role, node in self.inputs.items()
        }
        parts = [self.kind, self.stage.recipe_version, stage, upstream, self.content]
        return fingerprint(parts)[:_ADDRESS_LENGTH]

    @property
    def has_tower(self) -> bool:
        """True if the vision tower runs in this stage, which then has no cached features."""
        return InputRole.FEATURES not in self.inputs

    def estimate(self, estimator: Estimator, *, count: int = 1) -> StageEstimate:
        """Estimate the cost on `count` GPUs."""
        return self.stage.estimate(estimator, has_tower=self.has_tower, count=count)

    def describe(self) -> dict[str, object]:
        """Return the content of stage.json.

        Code and package versions are recorded only: the recipe version stands for them in the
        address, and tests/golden keeps it up to date with the code.
        """
        return {
            "kind": self.kind,
            "address": self.address,
            "recipe_version": self.stage.recipe_version,
            "code": code_digest(type(self.stage)).digest,
            "versions": package_versions(),
            "title": self.title,
            "config": to_plain(self.stage),
            "params": self.params,
            "upstream": {role: node.address for role, node in self.inputs.items()},
            "inputs": {role: [node.kind, node.address] for role, node in self.inputs.items()},
            "data": self.content,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """Stage runs in an order in which they can run, and the stages of each cell."""

    nodes: dict[str, StageNode]
    """Address -> stage run; upstream before downstream."""
    cells: dict[str, dict[str, str]]
    """Cell id -> kind -> address."""
    missing: tuple[str, ...] = ()
    """Manifests that do not exist yet: such a graph can be planned, not run."""
    target_shares: dict[str, float] = dataclasses.field(default_factory=dict)
    """Cell id -> share of the target language that its number of samples means."""

    def only(self, cells: Collection[str]) -> "Graph":
        """Return the part that some cells need."""
        kept = {cell: stages for cell, stages in self.cells.items() if cell in cells}
        wanted = {address for stages in kept.values() for address in stages.values()}
        nodes = {address: node for address, node in self.nodes.items() if address in wanted}
        shares = {cell: share for cell, share in self.target_shares.items() if cell in cells}
        return Graph(nodes=nodes, cells=kept, missing=self.missing, target_shares=shares)

    def equal_cells(self) -> list[list[str]]:
        """Return the cells that have the same stage runs although their configurations differ."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for cell, stages in self.cells.items():
            groups.setdefault(tuple(sorted(stages.values())), []).append(cell)
        return [cells for cells in groups.values() if len(cells) > 1]

    def only_titled(self, texts: Collection[str]) -> "Graph":
        """Return the stage runs whose title contains one of the texts, and all they read."""
        wanted: set[str] = set()
        for address, node in reversed(self.nodes.items()):
            if address in wanted or any(text in node.title for text in texts):
                wanted |= {address, *(upstream.address for upstream in node.inputs.values())}
        nodes = {address: node for address, node in self.nodes.items() if address in wanted}
        return dataclasses.replace(self, nodes=nodes)

    def cells_of(self, address: str) -> list[str]:
        """Return the cells that use a stage run."""
        return [cell for cell, stages in self.cells.items() if address in stages.values()]


def build_graph(cells: Sequence[GridCell], *, is_plan: bool = False) -> Graph:
    """Build the smallest set of stage runs for a list of cells.

    Args:
        cells: The cells of the grid.
        is_plan: Whether expected sources may stand for manifests that don't exist yet.

    Raises:
        ConfigError: If a benchmark lacks a language of the study, one of its items can't be asked
            or scored with the settings of the evaluation, or a source has too few samples.
        DataError: If a manifest or shard is missing or damaged.
    """
    nodes: dict[str, StageNode] = {}
    stages: dict[str, dict[str, str]] = {}
    target_shares: dict[str, float] = {}
    hashes = ContentHashes()
    checks = BenchmarkChecks(hashes)
    for cell in cells:
        expected = expected_manifests(cell.config) if is_plan else {}
        hashes.expect(expected)
        checks.check(cell.config)
        sizes = {path: source.num_samples for path, (source, _) in expected.items()}
        for node in _cell_nodes(cell.config, hashes):
            if isinstance(node.stage, TrainingStage):
                share = planned_target_share(node.stage, sizes)
                if share is not None and cell.config.cell.target_samples is not None:
                    target_shares[cell.cell_id] = share  # that of the last stage
            nodes.setdefault(node.address, node)
            stages.setdefault(cell.cell_id, {})[node.kind] = node.address
    named = _name_nodes(nodes, cells, stages)
    return Graph(
        nodes=named,
        cells=stages,
        missing=tuple(sorted(hashes.missing)),
        target_shares=target_shares,
    )


def make_node(
    stage: Stage,
    hashes: ContentHashes,
    *,
    inputs: Mapping[str, StageNode] | None = None,
    title: str = "",
    params: Mapping[str, AxisValue] | None = None,
) -> StageNode:
    """Return a node with the content hashes of everything that a stage reads."""
    return StageNode(
        stage=stage,
        title=title or stage.kind,
        inputs=dict(inputs or {}),
        content=hashes.of_stage(stage),
        params={**(params or {}), "stage": stage.kind},
    )


def _cell_nodes(config: RunConfig, hashes: ContentHashes) -> list[StageNode]:
    """Return the stage runs of a cell, upstream before downstream."""
    nodes: dict[str, StageNode] = {}
    for kind, stage_class in stage_kinds().items():
        stage = stage_class.from_config(config)
        if stage is not None:
            available = {role: nodes[role] for role in stage_class.upstream if role in nodes}
            inputs = stage_class.choose_inputs(available)
            nodes[kind] = make_node(stage, hashes, inputs=inputs)
    return list(nodes.values())


def _name_nodes(
    nodes: Mapping[str, StageNode],
    cells: Sequence[GridCell],
    stages: Mapping[str, Mapping[str, str]],
) -> dict[str, StageNode]:
    """Name every stage run by its cell, or by the axes on which the cells that share it agree."""
    varying = _varying_axes(cells)
    named: dict[str, StageNode] = {}
    for address, node in nodes.items():
        users = [cell for cell in cells if address in stages[cell.cell_id].values()]
        shared = {
            axis: value
            for axis, value in (users[0].axes | users[0].fields).items()
            if all((cell.axes | cell.fields).get(axis) == value for cell in users)
        }
        if len(users) == 1:
            label = users[0].cell_id
        else:
            label = " ".join(f"{axis}={shared[axis]}" for axis in varying if axis in shared)
        title = f"{node.kind} {label}".strip()
        named[address] = dataclasses.replace(node, title=title, params={**shared, **node.params})
    # Nodes refer to each other: rebuild the inputs from the named nodes.
    for address, node in named.items():
        inputs = {role: named[other.address] for role, other in node.inputs.items()}
        named[address] = dataclasses.replace(node, inputs=inputs)
    return named


def _varying_axes(cells: Sequence[GridCell]) -> list[str]:
    axes = dict.fromkeys(axis for cell in cells for axis in cell.axes)
    return [axis for axis in axes if len({cell.axes.get(axis) for cell in cells}) > 1]
