"""`--register`: fix the hypotheses of a grid and publish them before anything is trained."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from configuration.grid_request import GridRequest
from configuration.mixture import expected_manifests
from configuration.source_places import manifest_path
from core.config import to_plain
from core.errors import ConfigError
from core.io.files import atomic_write_text, sha256_file
from evaluation.benchmarks.items import load_benchmark
from experiments.run_steps.grid_description import describe_grid
from pipeline.grid_plan import GridPlan
from pipeline.store.registration import Registration
from reporting.claims.power.pilot import ClaimAssumptions, measure_pilot
from reporting.claims.power.power_plan import BenchmarkSizes, PlannedClaim, plan_claims
from reporting.claims.preregistration import (
    PUBLISHED_NAME,
    combine_hypotheses,
    find_registration,
    load_registered,
    write_copy,
)
from reporting.dry_run.claims import describe_cheapest, show_claims
from reporting.records import grid_folder, load_grid


def planned_claims(
    request: GridRequest, plan: GridPlan, assumptions: ClaimAssumptions
) -> list[PlannedClaim]:
    """Return the power of the claims of a planned grid; none for an experiment without cells."""
    if not plan.cells:
        return []
    folder = grid_folder(request.root, request.experiment, request.profile, request.name)
    has_copy = find_registration(folder) is not None
    hypotheses = load_registered(folder) if has_copy else combine_hypotheses(plan.hypotheses)
    return plan_claims(plan.cells, hypotheses, _benchmark_sizes(plan), assumptions)


def assumed_variances(request: GridRequest) -> ClaimAssumptions:
    """Return the variances of a grid's finished cells; the defaults before it has any."""
    folder = grid_folder(request.root, request.experiment, request.profile, request.name)
    if not (folder / "grid.json").is_file():
        return ClaimAssumptions()
    grid = load_grid(request.root, request.experiment, request.profile, request.name)
    return measure_pilot(grid)


def register_grid(request: GridRequest, plan: GridPlan, console: Console) -> Path:
    """Register the hypotheses of a grid, and write and print what others need to check it.

    Raises:
        ConfigError: If the experiment has no cells, or the grid is registered already.
    """
    if not plan.cells:
        raise ConfigError(f"experiment '{request.experiment}' trains no cells and has no claims")
    folder = grid_folder(request.root, request.experiment, request.profile, request.name)
    if (known := find_registration(folder)) is not None:
        raise ConfigError(
            f"grid '{folder.name}' was registered on {known.time_utc[:19]} UTC; a registration is "
            "never replaced. Register another grid with --name NAME"
        )
    assumptions = assumed_variances(request)
    claims = planned_claims(request, plan, assumptions)
    registration = write_copy(folder, plan.hypotheses)
    path = folder / PUBLISHED_NAME
    content = _describe(request, plan, registration, folder, claims)
    atomic_write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))
    show_claims(console, claims, assumptions)
    for text in (
        f"Registered: {path}",
        f"Hypotheses: {folder / 'hypotheses.yaml'} (sha256 {registration.sha256})",
        f"Publish both files and the hash of the first, sha256 {sha256_file(path)}, before you "
        "start the grid with the same command without --register.",
    ):
        console.print(text, soft_wrap=True, highlight=False)
    return path


def _benchmark_sizes(plan: GridPlan) -> BenchmarkSizes:
    config = plan.cells[0].config
    languages = (config.languages.base, config.languages.target)
    paths = [manifest_path(config, name) for name in config.data.benchmarks]
    expected = expected_manifests(config)
    if not Path(paths[0]).is_file() and paths[0] in expected:
        return BenchmarkSizes([], expected[paths[0]][0].num_samples)
    found = [Path(path) for path in paths if Path(path).is_file()]
    return BenchmarkSizes(
        item for path in found for item in load_benchmark(path, languages=languages)
    )


def _describe(
    request: GridRequest,
    plan: GridPlan,
    registration: Registration,
    folder: Path,
    claims: list[PlannedClaim],
) -> dict[str, Any]:
    grid = describe_grid(request, plan, registration)
    hypotheses = load_registered(folder)
    fingerprints = {
        path: digest
        for node in plan.full_graph.nodes.values()
        if node.kind == "evaluate"
        for path, digest in node.content.items()
        if path in node.stage.manifests
    }
    return {
        "registration": registration.to_json(),
        "experiment": request.experiment,
        "profile": request.profile,
        "overrides": grid["overrides"],
        "git_commit": grid["git_commit"],
        "git_dirty": grid["git_dirty"],
        "languages": grid["languages"],
        "deciding_metric": grid["deciding_metric"],
        "benchmarks": fingerprints,
        "cells": [{"cell_id": cell.cell_id, "axes": to_plain(cell.axes)} for cell in plan.cells],
        "margin": hypotheses.margin,
        "hypotheses": to_plain(hypotheses.hypotheses),
        "power": [_describe_power(claim) for claim in claims],
    }


def _describe_power(claim: PlannedClaim) -> dict[str, Any]:
    if claim.models is None or claim.recipe is None:
        return {"claim": claim.text, "reason": claim.reason}
    return {
        "claim": claim.text,
        "compares": claim.detail,
        "size": dataclasses.asdict(claim.size) if claim.size else None,
        "num_pairs": claim.num_pairs,
        "num_seeds": claim.num_seeds,
        "detectable": claim.models.detectable,
        "power_models": claim.models.power,
        "power_recipe": claim.recipe.power,
        "cheapest": describe_cheapest(claim),
        "assumptions": to_plain(claim.recipe.plan),
    }
