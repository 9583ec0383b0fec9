"""Actions of `evaluation.people.run`: create a database, serve it, measure and exchange."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, DataError
from core.io import loopback
from core.io.files import atomic_write_text
from core.io.reading import read_text_file
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


def execute(options: argparse.Namespace, console: Console) -> None:
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
