"""Ends a training that no longer moves: a collective that waits for a lost machine, a dead disk.

A process that hangs holds its GPUs for ever and nobody is told. Here every rank watches itself:
when no step ends for too long, all threads' places go to the log and the process ends, so that the
launcher can go on from the last checkpoint, here or elsewhere.
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
_LOOKS = 20
"""Looks at the clock within the limit."""


class Watchdog(Callback):
    """Stands after the checkpoint callback: a long save is no hang as long as steps follow."""

    def __init__(
        self,
        limit_s: float,
        *,
        tell: Callable[[str], None] = lambda _: None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """Nothing starts before the training does.

        Args:
            limit_s: longest time without a step.
            tell: gets the reason before the process ends.
            leave: ends the process; nothing gentler gets past a thread that waits in a collective.
        """
        self.limit_s = limit_s
        self._tell, self._leave = tell, leave
        self._last, self._step = 0.0, 0
        self._ended = threading.Event()

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Begin to watch."""
        del args
        self._ended.clear()
        self._beat(trainer)
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """A step is done, and what belongs to it."""
        del args
        self._beat(trainer)

    def on_exception(self, trainer: lightning.Trainer, *args: Any) -> None:
        """One process ends by itself; several may wait for each other even then."""
        del args
        if trainer.world_size == 1:
            self._ended.set()
        self._beat(trainer)

    def on_train_end(self, *args: Any) -> None:
        """All steps are done."""
        del args
        self._ended.set()

    def _beat(self, trainer: lightning.Trainer) -> None:
        self._last, self._step = time.monotonic(), trainer.global_step

    def _watch(self) -> None:
        while not self._ended.wait(self.limit_s / _LOOKS):
            if time.monotonic() - self._last > self.limit_s:
                self._give_up()
                return

    def _give_up(self) -> None:
        reason = f"hung: no step after step {self._step} for {self.limit_s:.0f} s"
        _LOG.error("%s; what every thread was doing:", reason)
        faulthandler.dump_traceback(file=2, all_threads=True)
        try:
            self._tell(reason)
        finally:
            self._leave(EXIT_HUNG)
