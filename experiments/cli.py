"""Command-line options shared by the commands that work on a grid.

This module imports nothing heavy: a command parses its options before it loads torch.
"""

import argparse
from collections.abc import Collection
from typing import Any

from configuration.grid_request import GridRequest
from core.process.options import given_path


def add_grid_options(
    parser: argparse.ArgumentParser,
    *,
    experiment: str | None = None,
    profile: str = GridRequest.profile,
    omit: Collection[str] = (),
    has_name: bool = False,
) -> "argparse._ArgumentGroup":
    """Add the options from which `request_of` builds a `GridRequest`.

    Args:
        parser: Parser of the command.
        experiment: Default of `--exp`; None makes the option mandatory, "" optional.
        profile: Default of `--profile`.
        omit: Options that have no meaning for the command, such as "--only".
        has_name: Whether the command reads or writes the folder of the grid, which `--name` names.

    Returns:
        The option group, for further options of the same kind.
    """
    known = f"; default: {experiment}" if experiment else ""
    options: dict[str, dict[str, Any]] = {
        "--exp": {
            "required": experiment is None,
            "default": experiment,
            "metavar": "NAME",
            "help": "experiment (python -m experiments.run --list prints the names), or a file of "
            f"your own, path/to/FILE.py{known}",
        },
        "--profile": {
            "default": profile,
            "metavar": "NAME",
            "help": f"configuration file configs/NAME.yaml (default: {profile})",
        },
        "--set": {
            "nargs": "+",
            "action": "extend",
            "default": [],
            "metavar": "KEY=VALUE",
            "dest": "overrides",
            "help": "override configuration values, e.g. instruct.num_steps=600; repeatable",
        },
        "--seeds": {
            "type": int,
            "default": GridRequest.num_seeds,
            "metavar": "N",
            "help": f"training seeds per cell (default: {GridRequest.num_seeds})",
        },
        "--replicate": {
            "nargs": "+",
            "action": "extend",
            "default": [],
            "metavar": "SELECTOR=N",
            "help": "N training seeds for the cells of a selector: a cell id, one of its parts "
            "(share20) or AXIS=VALUE (text_only=true); the others keep --seeds",
        },
        "--only": {
            "nargs": "+",
            "action": "extend",
            "default": [],
            "metavar": "TEXT",
            "help": "select the cells whose id contains one of the texts, or AXIS=VALUE (default: "
            "all cells)",
        },
        "--root": {
            "type": given_path,
            "default": GridRequest.root,
            "metavar": "FOLDER",
            "help": f"output folder of all runs (default: {GridRequest.root})",
        },
    }
    if has_name:
        options["--name"] = {
            "default": GridRequest.name,
            "metavar": "NAME",
            "help": "name of the grid's folder, to keep variants of an experiment apart "
            "(default: EXP-PROFILE)",
        }
    group = parser.add_argument_group("grid options")
    for name, settings in options.items():
        if name in omit:
            destination = settings.get("dest", name.removeprefix("--"))
            parser.set_defaults(**{destination: settings["default"]})
        else:
            group.add_argument(name, **settings)
    parser.set_defaults(dry_run=GridRequest.is_dry_run)
    if not has_name:
        parser.set_defaults(name=GridRequest.name)
    return group


def add_page_language(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add the option of the language in which a command writes its page."""
    parser.add_argument(
        "--page-language",
        default="en",
        metavar="CODE",
        help="language of the page: en, eu, or another with a file in reporting/page_languages; a "
        "page in another language than English is written next to the English one (default: en)",
    )


def request_of(args: argparse.Namespace) -> GridRequest:
    """Build the request from the options that `add_grid_options` has added."""
    name, file = GridRequest.split_experiment(args.exp)
    return GridRequest(
        experiment=name,
        experiment_file=file,
        profile=args.profile,
        only=tuple(args.only),
        overrides=tuple(args.overrides),
        num_seeds=args.seeds,
        replicate=tuple(args.replicate),
        name=args.name,
        root=args.root,
        is_dry_run=args.dry_run,
    )
