"""Detection of a hung training, e.g. by a collective that waits for a lost node or a dead disk.

A process that hangs occupies its GPUs without any report. Every rank therefore watches itself: if
no step ends for too long, it logs the stacks of all threads and exits, so that the launcher can
resume from the last checkpoint, on this or another node.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from core.process.log import get_logger
from core.process.stop import EXIT_HUNG

_LOG = get_logger("watchdog")
_CHECKS_PER_LIMIT = 20
"""Number of checks within the time limit."""


class Watchdog(Callback):
    """Callback that ends the process after a time without steps.

    It follows the checkpoint callback, so that the time of a save counts as a part of its step.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        report: Callable[[str], None] = lambda _: None,
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        """Configure the watchdog; it starts with the training.

        Args:
            limit_s: Maximum time without a step.
            report: Receives the reason before the process exits.
            exit_process: Ends the process; only `os._exit` works if a thread waits in a collective.
        """
        self.limit_s = limit_s
        self._report, self._exit_process = report, exit_process
        self._last, self._step = 0.0, 0
        self._ended = threading.Event()

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Start the watching thread."""
        del args
        self._ended.clear()
        self._beat(trainer)
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Record the end of a step."""
        del args
        self._beat(trainer)

    def on_exception(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop watching a single process; with several, the others may still hang."""
        del args
        if trainer.world_size == 1:
            self._ended.set()
        self._beat(trainer)

    def on_train_end(self, *args: Any) -> None:
        """Stop watching."""
        del args
        self._ended.set()

    def _beat(self, trainer: lightning.Trainer) -> None:
        self._last, self._step = time.monotonic(), trainer.global_step

    def _watch(self) -> None:
        while not self._ended.wait(self.limit_s / _CHECKS_PER_LIMIT):
            if time.monotonic() - self._last > self.limit_s:
                self._exit_hung()
                return

    def _exit_hung(self) -> None:
        reason = f"hung: no step after step {self._step} for {self.limit_s:.0f} s"
        _LOG.error("%s; stacks of all threads:", reason)
        faulthandler.dump_traceback(file=2, all_threads=True)
        try:
            self._report(reason)
        finally:
            self._exit_process(EXIT_HUNG)
