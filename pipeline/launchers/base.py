"""The interface of launchers, and the steps of a stage run that all launchers share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from configuration.trainer import TrainerConfig
from core.process.stop import EXIT_PREEMPTED
from pipeline.graph import StageNode
from pipeline.launchers.execution import Execution, write_execution
from pipeline.stages.base import Stage
from pipeline.store.retry_policy import Fault
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Store, can_start, reset_attempt, should_retry

PREEMPTED_MESSAGE = "Stopped on request. Rerun the same command to resume."

OnTick = Callable[[dict[str, State]], None]
"""Receives the states of all stage runs (address -> state) while a launcher works."""


class Launcher(Protocol):
    """Runs the stage runs of a graph that are not finished."""

    def run(self, on_tick: OnTick) -> dict[str, State]:
        """Run until every stage run is done or has failed, and return their final states.

        Raises:
            PreemptedError: If the command was asked to stop.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageAttempt:
    """The life of one stage run, in the order in which a launcher calls the methods.

    `is_done`, `prepare`, `can_start` and `begin` lead to a process or job; `collect` determines its
    outcome, and `resolve` whether it is retried.
    """

    store: Store
    node: StageNode
    trainer: TrainerConfig

    @property
    def folder(self) -> StageFolder:
        """Folder of the stage run in the store."""
        return self.store.folder(self.node.kind, self.node.address)

    def is_done(self) -> bool:
        """Return whether the result is complete; then also complete the status, if necessary.

        Raises:
            CheckpointError: If a file of the result is missing or damaged.
        """
        if not self.folder.is_done():
            return False
        self.folder.settle()
        return True

    def prepare(self) -> None:
        """Write the description of the stage run, unless it is finished."""
        registration = self.store.registration
        self.folder.write_stage(self.node.describe(), self.node.stage, registration)

    def has_failed_input(self, states: Mapping[str, State]) -> bool:
        """Return whether a stage run failed whose result this one needs."""
        return any(states[other.address] is State.FAILED for other in self.node.inputs.values())

    def has_all_inputs(self, states: Mapping[str, State]) -> bool:
        """Return whether every result that this stage run needs is finished."""
        return all(states[other.address] is State.DONE for other in self.node.inputs.values())

    def can_start(self) -> bool:
        """Return whether the waiting time after a failure, if any, is over."""
        return can_start(self.folder, retries=self.trainer.retries)

    def begin(self, *, num_threads: int, gpus: str = "") -> None:
        """Reset the status of the last attempt and write the settings of the next one."""
        reset_attempt(self.folder)
        execution = Execution(
            root=str(self.store.root.absolute()),
            num_threads=num_threads,
            trainer=self.trainer,
            gpus=gpus,
        )
        write_execution(self.folder, execution)

    def collect(self, exit_code: int | None, *, death: str) -> State:
        """Return the outcome of an attempt that has ended: done, interrupted or failed.

        Args:
            exit_code: Exit code of the process; None if unknown, as for a job of a scheduler.
            death: Error message for an attempt that ended without reporting a reason.
        """
        if self.is_done():
            return State.DONE
        status = self.folder.read_status()
        if exit_code == EXIT_PREEMPTED or (exit_code is None and status.state is State.INTERRUPTED):
            return State.INTERRUPTED
        if status.state is not State.FAILED:
            status.fail(self.folder.failure(Fault.DIED, death))
            self.folder.write_status(status)
        return State.FAILED

    def resolve(self, outcome: State) -> State:
        """Return the next state: an interrupted or retried stage run waits for its next attempt."""
        if outcome is State.INTERRUPTED or (outcome is State.FAILED and self.should_retry()):
            return State.WAITING
        return outcome

    def should_retry(self) -> bool:
        """Return whether a failed stage run is retried; if not, mark its last failure as final."""
        return should_retry(self.folder, retries=self.trainer.retries)


def choose_num_threads(stage: Stage, num_cores: int) -> int:
    """Return the CPU threads of a stage run: all cores for independent images, otherwise one.

    The number is fixed per stage kind, because the last bits of sums depend on it and a resumed run
    must equal an uninterrupted one. Models of this size lose more at barriers than they gain from a
    second thread; several stage runs fill the cores instead.
    """
    return num_cores if stage.uses_all_cores else 1
