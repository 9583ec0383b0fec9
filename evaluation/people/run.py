"""People as judges: `python -m evaluation.people.run --db FILE`.

Makes the annotation file, serves the page on this machine, says what came of it, exports, imports.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError
from core.io import loopback
from core.io.files import atomic_write_text
from core.process.command import catch_user_errors
from evaluation.benchmarks.images import open_images
from evaluation.people import exchange
from evaluation.people.measures import acceptance, preferences
from evaluation.people.page import build_app
from evaluation.people.store import PeopleStore
from evaluation.people.tasks import TaskKind, compare_tasks, validate_tasks

_EXPORTS = {
    "labelstudio": exchange.to_label_studio,
    "argilla": exchange.to_argilla,
    "csv": exchange.to_csv,
}
_IMPORTS = {"labelstudio": exchange.from_label_studio, "argilla": exchange.from_argilla}
_EPILOG = """examples:
  make a comparison of two cells in Basque, 199 pairs, 40 of them for everybody, and serve it:
    python -m evaluation.people.run --db people.db --language eu --most 199 --overlap 40 \\
        --pairs general=A/result/predictions.parquet adapted=B/result/predictions.parquet \\
        --images data/embedded/benchmark_test.manifest.json
  go on later:      python -m evaluation.people.run --db people.db --images ...
  what came of it:  python -m evaluation.people.run --db people.db --results
  validate:         python -m evaluation.people.run --db eu.db --items translated.jsonl
  take it out:      python -m evaluation.people.run --db people.db --export labelstudio out.json
The page is on this machine only; for others: ssh -L 7870:127.0.0.1:7870 HOST.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.people.run",
        description="Blind comparisons of two models and validation of translations by people.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--db", type=Path, required=True, help="annotation file (SQLite)")
    add("--pairs", nargs=2, metavar="NAME=PREDICTIONS", help="make it: two systems to compare")
    add("--items", type=Path, metavar="JSONL", help="make it: translated items to validate")
    add("--language", default="eu", help="of the compared questions and the page (default: eu)")
    add("--most", type=int, default=0, help="so many tasks at most, drawn by chance")
    add("--overlap", type=int, default=20, help="tasks that everybody judges (default: 20)")
    add("--images", type=Path, metavar="MANIFEST", help="where the images are")
    add("--port", type=int, default=7870, help="port of the page (default: 7870)")
    add("--results", action="store_true", help="say what came of it, as JSON, and stop")
    add("--export", nargs=2, metavar=("FORMAT", "FILE"), help="labelstudio, argilla or csv")
    add("--import", nargs=2, metavar=("FORMAT", "FILE"), dest="take", help="judgements back in")
    return parser


def run(options: argparse.Namespace, console: Console) -> None:
    """Do what the command line says.

    Raises:
        ConfigError: a file that is or isn't there, or an unknown format.
        DataError: files that don't fit.
    """
    store = _make(options) if options.pairs or options.items else PeopleStore(options.db)
    if options.take:
        kind, path = options.take
        judgements = _known(_IMPORTS, kind)(Path(path).read_text(encoding="utf-8"))
        count = exchange.import_judgements(store, judgements)
        console.print(f"{count} judgements taken in", highlight=False)
    elif options.export:
        kind, path = options.export
        atomic_write_text(Path(path), _known(_EXPORTS, kind)(store))
        console.print(f"written: {escape(path)}", highlight=False)
    elif options.results:
        console.print_json(results(store))
    else:
        images = open_images(options.images) if options.images else lambda _key: None
        app = build_app(store, images, language=options.language)
        console.print(f"Open http://{loopback.HOST}:{options.port}  (Ctrl-C stops it)")
        loopback.serve(app, port=options.port)


def results(store: PeopleStore) -> str:
    """As JSON."""
    if store.kind is TaskKind.VALIDATE:
        return json.dumps(dataclasses.asdict(acceptance(store)))
    return json.dumps({name: dataclasses.asdict(one) for name, one in preferences(store).items()})


def _make(options: argparse.Namespace) -> PeopleStore:
    if options.items:
        tasks = validate_tasks(options.items, most=options.most)
        return PeopleStore.create(options.db, tasks, overlap=options.overlap)
    named = [pair.partition("=") for pair in options.pairs]
    if not all(name and path for name, _, path in named):
        raise ConfigError(f"--pairs wants NAME=PREDICTIONS twice, got {' '.join(options.pairs)}")
    (first, _, one), (second, _, other) = named
    tasks = compare_tasks(
        Path(one), Path(other), (first, second), language=options.language, most=options.most
    )
    return PeopleStore.create(options.db, tasks, overlap=options.overlap)


def _known(formats: Mapping[str, Any], kind: str) -> Any:
    if kind not in formats:
        raise ConfigError(f"format '{kind}' is not known; take {', '.join(formats)}")
    return formats[kind]


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run."""
    console = Console()
    run(build_parser().parse_args(arguments), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
