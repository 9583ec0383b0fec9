"""Explanation of which stage runs of a cell are finished, and why the others have to run."""

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, unknown_name
from pipeline.code_digest import code_digest
from pipeline.differences import StageDifferences
from pipeline.graph import Graph, StageNode
from pipeline.store.notes import read_json
from pipeline.store.store import StageFolder, Store


def explain_cells(console: Console, graph: Graph, store: Store, name: str) -> None:
    """Print the state of every stage run of the cells that a name selects.

    Args:
        console: Where to print.
        graph: Stage runs of the whole grid.
        store: Their results.
        name: A cell id, or a part of one or more.

    Raises:
        ConfigError: If no cell matches.
    """
    cells = [name] if name in graph.cells else [cell for cell in graph.cells if name in cell]
    if not cells:
        fix = "--why takes a cell id or a part of it."
        raise ConfigError(unknown_name("cell", name, graph.cells, fix=fix))
    differences = StageDifferences(store)
    shown: dict[str, str] = {}
    for cell in cells:
        console.print(f"[bold]{escape(cell)}[/]", highlight=False)
        for address in graph.cells[cell].values():
            if address in shown:
                line = f"  {graph.nodes[address].kind} {address}: as in cell {shown[address]}"
                console.print(escape(line), highlight=False, soft_wrap=True)
                continue
            shown[address] = cell
            for line in _explain_stage(graph.nodes[address], store, differences):
                console.print(escape(line), highlight=False, soft_wrap=True)


def _explain_stage(node: StageNode, store: Store, differences: StageDifferences) -> list[str]:
    folder = store.folder(node.kind, node.address)
    name = f"  {node.kind} {node.address}"
    if folder.result.is_dir():
        return [f"{name}: finished{_changed_code(node, folder)}"]
    status = folder.read_status()
    if status.attempts:
        saved = folder.safe_step()
        progress = f", resumes from saved step or part {saved}" if saved >= 0 else ""
        return [f"{name}: started, {status.state}{progress}"]
    nearest = differences.nearest(node)
    if nearest is None:
        return [f"{name}: has to run; no stage run of this kind is finished"]
    title = f" ({nearest.title})" if nearest.title else ""
    return [
        f"{name}: has to run; it differs from the nearest finished one, {nearest.address}{title}:",
        *(f"    {cause}" for cause in nearest.causes),
    ]


def _changed_code(node: StageNode, folder: StageFolder) -> str:
    """Return a remark about a result of other code, which the recipe version declares as equal."""
    recorded = read_json(folder.path / "stage.json", default={}).get("code")
    now = code_digest(type(node.stage)).digest
    if recorded in (None, now):
        return ""
    return f", by code {recorded}; it is now {now} and declared to compute the same results"
