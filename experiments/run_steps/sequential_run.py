"""Run of a sequential grid: train a start set, then the most informative cell, until decided.

Every prediction is written to the journal before its cell is trained (`reporting.sequential`). The
command can be stopped at any time: finished cells are found in the store, decided claims and the
cell that was chosen last in the journal.
"""

import dataclasses
import math

from core.errors import ConfigError, StageFailedError
from evaluation.statistics.sequential.choice import Candidate
from evaluation.statistics.sequential.study import Look
from evaluation.statistics.surfaces.cell_surface import Observed
from experiments.run_steps.grid_run import GridRun
from experiments.run_steps.launching import LauncherName
from experiments.run_steps.sequential_plan import SequentialPlan, expected_errors
from pipeline.launchers import torchrun
from pipeline.store.locks import using_store
from pipeline.store.states import State
from reporting.claims.measures import Measurements
from reporting.claims.preregistration import register
from reporting.records import GridRecord, grid_folder, load_grid
from reporting.sequential.grid_claims import observe
from reporting.sequential.journal import Journal

DECIDED = "all claims are decided"
COMPLETE = "the full grid is trained"
SPENT = "no further cell fits into the budget"


class SequentialRun:
    """Trains cells of a plan one after the other and publishes the results."""

    def __init__(self, grid: GridRun, sequential: SequentialPlan, *, budget: float) -> None:
        """Prepare the run.

        Args:
            grid: Run of the complete grid.
            sequential: Its cells and claims.
            budget: Hours that may be spent.
        """
        self._plan, self._sequential, self._budget = grid.plan, sequential, budget
        self._is_torchrun = grid.options.launcher is LauncherName.TORCHRUN
        grid.options = dataclasses.replace(grid.options, keeps_ranks=self._is_torchrun)
        self._grid, self._request, self._console = grid, grid.request, grid.console
        request = grid.request
        self._folder = grid_folder(request.root, request.experiment, request.profile, request.name)
        self._ids = [cell.cell_id for cell in sequential.cells]

    def run(self) -> None:
        """Train until the claims are decided, and write the report, while nothing can be deleted.

        Raises:
            ConfigError: If the folder of the grid holds another one, or a sequential grid with
                other cells or claims.
            DataError: If the journal was changed, or training samples do not fit into rows.
            StageFailedError: If stage runs failed; the others are finished.
            PreemptedError: If the command was asked to stop; running stages have saved.
        """
        with using_store(self._request.root):
            self._run()

    def _run(self) -> None:
        journal = self._open()
        settings = journal.settings or {}
        chosen = [self._ids.index(cell) for cell in settings["start"]]
        chosen += [self._ids.index(one.cell_id) for one in journal.predictions()]
        states = self._train(chosen)
        while all(state is State.DONE for state in states.values()):
            best = self._look(journal, chosen)
            if best is None:
                break
            chosen.append(best)
            states = self._train(chosen)
        if self._is_torchrun:
            torchrun.release_ranks(self._grid.flag)
        self._grid.publish(states)

    def _open(self) -> Journal:
        """Return the journal, which a new grid begins with its start set."""
        journal = Journal.load(self._folder)
        found = self._sequential
        fixed = {
            "cells": self._ids,
            "claims": dict(found.claims.texts),
            "measure": found.claims.measure.describe(),
            "level": found.study.alpha,
            "certainty": list(found.study.certainties),
        }
        if journal.settings is None:
            # Registered first: the journal names the hypotheses by their hash.
            registration = register(self._folder, self._plan.hypotheses)
            errors = expected_errors(self._request, self._plan, found)
            start = found.study.start(noise_variance=float(errors.covariance_PP[0, 0]))
            journal.begin(
                {
                    **fixed,
                    "left_out": dict(found.claims.left_out),
                    "hypotheses_sha256": registration.sha256,
                    "unit": found.hours.unit,
                    "full_hours": found.hours.total(range(len(self._ids)))[1],
                    "start": [self._ids[point] for point in start],
                }
            )
        differs = [name for name, value in fixed.items() if (journal.settings or {})[name] != value]
        if differs:
            raise ConfigError(
                f"sequential grid '{self._folder.name}' began with other {', '.join(differs)}; use "
                "the options of the earlier command, or start another grid with --name NAME"
            )
        return journal

    def _train(self, points: list[int]) -> dict[str, State]:
        """Train some cells, and return the states of all their stage runs."""
        selected = {self._ids[point] for point in points}
        graph = self._plan.full_graph.only(selected)
        self._grid.plan = dataclasses.replace(self._plan, graph=graph)
        self._grid.graph = graph
        return self._grid.train()

    def _look(self, journal: Journal, chosen: list[int]) -> int | None:
        """Decide what the trained cells decide; return the next cell, or None at the end.

        Raises:
            StageFailedError: If a trained cell has no values.
        """
        observed = self._observe()
        self._score(journal, observed)
        study, hours = self._sequential.study, self._sequential.hours
        spent = hours.total(chosen)[1]
        left = math.inf if math.isinf(self._budget) else self._budget - spent
        look = study.look(observed, closed=journal.closed, affordable=left)
        trained = [self._ids[point] for point in observed.points]
        if not journal.looks or journal.looks[-1]["trained"] != trained:
            journal.record_look(trained, look, spent)
        self._show(look)
        if look.candidates:
            best = look.candidates[0]
            journal.predict(self._ids[best.point], best, hours.total([*chosen, best.point])[1])
            self._announce(best)
            return best.point
        reason = DECIDED if look.is_decided else COMPLETE if look.is_complete else SPENT
        if journal.end != reason:
            journal.finish(reason)
        self._print(f"Sequential grid: {reason}, after {len(trained)} of {len(self._ids)} cells.")
        return None

    def _observe(self) -> Observed:
        request = self._request
        grid: GridRecord = load_grid(
            request.root, request.experiment, request.profile, request.name
        )
        found = self._sequential
        observed = observe(found.cells, Measurements(grid), found.claims.measure)
        if observed is None:
            raise StageFailedError(
                f"no trained cell has values of {found.claims.measure.describe()}; see the report"
            )
        return observed

    def _score(self, journal: Journal, observed: Observed) -> None:
        """Compare the prediction of a cell that has been trained since with its measurement."""
        means = {self._ids[p]: m for p, m in zip(observed.points, observed.means_T, strict=True)}
        for one in journal.predictions():
            if one.measured is None and one.cell_id in means:
                journal.score(one.cell_id, float(means[one.cell_id]))

    def _show(self, look: Look) -> None:
        for claim in look.claims:
            likely = max(claim.forecast, key=lambda verdict: claim.forecast[verdict])
            state = (
                f"decided, {claim.closed.value}"
                if claim.closed is not None
                else f"open; the full grid would find it {likely.value} with a probability of "
                f"{100 * claim.forecast[likely]:.0f} %"
            )
            self._print(f"  {claim.name}: {state}")

    def _announce(self, best: Candidate) -> None:
        self._print(
            f"Next cell: {self._ids[best.point]}, predicted {100 * best.mean:.1f} % "
            f"({100 * best.low:.1f} to {100 * best.high:.1f}), {best.cost:.2g} more "
            f"{self._sequential.hours.unit}"
        )

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
