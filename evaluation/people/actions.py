"""Actions of `evaluation.people.run`: create a database, serve it, measure and exchange."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, DataError
from core.io import loopback
from core.io.files import atomic_write_text
from core.io.reading import read_text_file
from evaluation.benchmarks.images import ImageLookup, open_images
from evaluation.people import argilla, exchange, label_studio
from evaluation.people.comparison import compare_systems
from evaluation.people.judge_agreement import compare_with_people
from evaluation.people.measures import acceptance, preferences
from evaluation.people.page import build_app
from evaluation.people.preferences import people_record, read_preferences, save_preferences
from evaluation.people.store import AnnotationStore
from evaluation.people.tasks import TaskKind, validate_tasks

_Write = Callable[[AnnotationStore, ImageLookup | None], str]
_Settings = Callable[..., str]
_CSV = "csv"
_EXPORTS: dict[str, tuple[_Write, str, _Settings]] = {
    "labelstudio": (label_studio.to_label_studio, ".labels.xml", label_studio.label_config),
    "argilla": (argilla.to_argilla, ".settings.json", argilla.dataset_settings),
}
"""How each program gets the tasks, and the settings of a project, in a file with that suffix."""
_IMPORTS = {
    "labelstudio": label_studio.from_label_studio,
    "argilla": argilla.from_argilla,
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
        parse = _select_format(_IMPORTS, kind, tuple(_IMPORTS))
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
        if kind == _CSV:
            atomic_write_text(Path(path), exchange.to_csv(store))
        else:
            _export_tasks(store, kind, Path(path), images=options.images, console=console)
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
        language = options.language[0] if options.language else store.tasks[0].language
        app = build_app(store, images, language=language)
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


def _export_tasks(
    store: AnnotationStore, kind: str, path: Path, *, images: Path | None, console: Console
) -> None:
    """Write the tasks for an annotation program, and the settings of its project beside them."""
    write, suffix, describe = _select_format(_EXPORTS, kind, (*_EXPORTS, _CSV))
    lookup = open_images(images) if images else None
    atomic_write_text(path, write(store, lookup))
    settings = path.with_suffix(suffix)
    atomic_write_text(settings, describe(store.kind, has_images=lookup is not None))
    console.print(f"Settings of the project: {escape(str(settings))}", highlight=False)
    keys = [task.image_key for task in store.tasks if task.image_key]
    num_missing = sum(lookup is None or lookup(key) is None for key in keys)
    if num_missing:
        console.print(
            f"[yellow]{num_missing} of {len(store.tasks)} tasks are exported without their "
            "image;[/] name the manifest of the images with --images",
            highlight=False,
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


def _select_format(formats: Mapping[str, Any], kind: str, names: Sequence[str]) -> Any:
    if kind not in formats:
        raise ConfigError(f"unknown format '{kind}'; choose from {', '.join(names)}")
    return formats[kind]
