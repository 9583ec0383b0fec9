"""Command for human annotation: `python -m evaluation.people.run --db FILE`.

Creates the annotation database, serves the annotation page on the local host, prints results, and
exports and imports judgements.
"""

from core.process.command import catch_user_errors

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, DataError
from core.io import loopback
from core.io.files import atomic_write_text
from core.io.reading import read_text_file
from core.process.options import given_path, port_number, whole_number
from evaluation.benchmarks.images import open_images
from evaluation.people import exchange, label_studio
from evaluation.people.comparison import compare_systems
from evaluation.people.judge_agreement import compare_with_people
from evaluation.people.measures import acceptance, preferences
from evaluation.people.page import build_app
from evaluation.people.preferences import people_record, read_preferences, save_preferences
from evaluation.people.store import AnnotationStore
from evaluation.people.tasks import TaskKind, validate_tasks

_LABEL_STUDIO = "labelstudio"
_EXPORTS = {
    _LABEL_STUDIO: label_studio.to_label_studio,
    "argilla": exchange.to_argilla,
    "csv": exchange.to_csv,
}
_IMPORTS = {
    _LABEL_STUDIO: label_studio.from_label_studio,
    "argilla": lambda text: (exchange.from_argilla(text), []),
}
_EPILOG = """examples:
  compare two cells on 199 Basque questions, 40 of them judged by all annotators:
    python -m evaluation.people.run --db people.db --language eu --most 199 --overlap 40 \\
        --pairs general=A/result/predictions.parquet adapted=B/result/predictions.parquet \\
        --images data/embedded/benchmark_test.manifest.json
  resume:           python -m evaluation.people.run --db people.db --images ...
  print results:    python -m evaluation.people.run --db people.db --results
  for the report:   python -m evaluation.people.run --db people.db \\
                        --save mlruns/grids/GRID/preferences
  compare a judge:  python -m evaluation.people.run --db people.db --judge JUDGE.parquet --out FILE
  review items:     python -m evaluation.people.run --db eu.db --items translated.jsonl
  export:           python -m evaluation.people.run --db people.db --export labelstudio out.json
The page is served on 127.0.0.1 only. To use it from another host: ssh -L 7870:127.0.0.1:7870 HOST.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.people.run",
        description="Human annotation: blind comparison of two systems or review of translations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--db", type=given_path, required=True, help="annotation database (SQLite)")
    add(
        "--pairs",
        nargs=2,
        metavar="NAME=PREDICTIONS",
        help="create the database: names and predictions.parquet of two systems to compare",
    )
    add(
        "--items",
        type=given_path,
        metavar="JSONL",
        help="create the database: translated items to review",
    )
    add(
        "--language",
        nargs="+",
        default=["eu"],
        help="languages of the compared questions; the first one is that of the page (default: eu)",
    )
    add(
        "--dataset",
        nargs="+",
        default=[],
        help="benchmarks of the questions, such as wildvision (default: all)",
    )
    add(
        "--most",
        type=whole_number(0),
        default=0,
        help="draw a random sample of this many tasks per language (default: all)",
    )
    add(
        "--overlap",
        type=whole_number(0),
        default=20,
        help="number of tasks that all annotators judge (default: 20)",
    )
    add("--images", type=given_path, metavar="MANIFEST", help="manifest of the images")
    add("--port", type=port_number, default=7870, help="port of the page (default: 7870)")
    add("--results", action="store_true", help="print the results as JSON and exit")
    add(
        "--save",
        type=given_path,
        metavar="FOLDER",
        help="store the preferences per question for the report, in mlruns/grids/GRID/preferences",
    )
    add(
        "--judge",
        type=given_path,
        metavar="PREFERENCES",
        help="print the agreement with a judge (file of evaluation.judge --save) and the estimate "
        "that combines both, per language",
    )
    add(
        "--out",
        type=given_path,
        metavar="FILE",
        help="also write the results or the agreement as JSON",
    )
    add(
        "--export",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        help="export judgements as labelstudio, argilla or csv",
    )
    add(
        "--import",
        nargs=2,
        metavar=("FORMAT", "FILE"),
        dest="import_from",
        help="import judgements from labelstudio or argilla",
    )
    return parser


def run(options: argparse.Namespace, console: Console) -> None:
    """Execute the parsed command line.

    Raises:
        ConfigError: If the database exists already or is missing, or a format is unknown.
        DataError: If an input file is invalid or does not match the tasks.
    """
    store = (
        _create_store(options) if options.pairs or options.items else AnnotationStore(options.db)
    )
    if options.import_from:
        kind, path = options.import_from
        parse = _select_format(_IMPORTS, kind)
        text = read_text_file(Path(path))
        try:
            judgements, left_out = parse(text)
        except DataError as error:
            raise DataError(f"{path}: {error}; export it again") from error
        count = exchange.import_judgements(store, judgements)
        for reason in left_out:
            console.print(f"[yellow]left out:[/] {escape(reason)}", highlight=False)
        console.print(f"Imported {count} judgements, left out {len(left_out)}", highlight=False)
    elif options.export:
        kind, path = options.export
        write = _select_format(_EXPORTS, kind)
        if kind == _LABEL_STUDIO:
            images = open_images(options.images) if options.images else None
            atomic_write_text(Path(path), label_studio.to_label_studio(store, images))
            config = Path(path).with_suffix(".labels.xml")
            text = label_studio.label_config(store.kind, has_images=images is not None)
            atomic_write_text(config, text)
            console.print(f"Labelling configuration: {escape(str(config))}", highlight=False)
        else:
            atomic_write_text(Path(path), write(store))
        console.print(f"Judgements written to {escape(path)}", highlight=False)
    elif options.save:
        path = save_preferences(options.save, people_record(store))
        console.print(f"Preferences written to {escape(str(path))}", highlight=False)
    elif options.results or options.judge:
        text = agreement_json(store, options.judge) if options.judge else results_json(store)
        console.print_json(text)
        if options.out:
            atomic_write_text(options.out, text + "\n")
    else:
        images = open_images(options.images) if options.images else lambda _key: None
        app = build_app(store, images, language=options.language[0])
        console.print(f"Open http://{loopback.HOST}:{options.port}  (press Ctrl-C to stop)")
        loopback.serve(app, port=options.port)


def results_json(store: AnnotationStore) -> str:
    """Return the results of all judgements as JSON."""
    if store.kind is TaskKind.VALIDATE:
        return json.dumps(dataclasses.asdict(acceptance(store)))
    return json.dumps([dataclasses.asdict(summary) for summary in preferences(store)])


def agreement_json(store: AnnotationStore, judge: Path) -> str:
    """Return the agreement of a judge with the people and their combination, per language, as JSON.

    Raises:
        DataError: If the judge judged other replies, or the people's sample is not random.
    """
    people, verdicts = people_record(store), read_preferences(judge)
    return json.dumps(
        [
            dataclasses.asdict(compare_with_people(people, verdicts, language=language))
            for language in people.comparison.languages
        ]
    )


def _create_store(options: argparse.Namespace) -> AnnotationStore:
    if options.items:
        tasks = validate_tasks(options.items, most=options.most)
        return AnnotationStore.create(options.db, tasks, overlap=options.overlap)
    named = [pair.partition("=") for pair in options.pairs]
    if not all(name and path for name, _, path in named):
        raise ConfigError(f"--pairs expects NAME=PREDICTIONS twice, got {' '.join(options.pairs)}")
    (first, _, first_path), (second, _, second_path) = named
    comparison, tasks = compare_systems(
        (Path(first_path), Path(second_path)),
        (first, second),
        languages=options.language,
        datasets=options.dataset,
        most=options.most,
    )
    if not tasks:
        raise DataError(
            f"all {len(comparison.questions)} replies of the two systems are equal; there is "
            "nothing to judge"
        )
    return AnnotationStore.create(options.db, tasks, overlap=options.overlap, comparison=comparison)


def _select_format(formats: Mapping[str, Any], kind: str) -> Any:
    if kind not in formats:
        raise ConfigError(f"unknown format '{kind}'; choose from {', '.join(formats)}")
    return formats[kind]


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    console = Console()
    run(build_parser().parse_args(arguments), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
