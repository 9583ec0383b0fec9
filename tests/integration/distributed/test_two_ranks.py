"""Two processes compute the same losses at every step and the same weights as one.

The data are ragged: conversations of different lengths beside samples without an image, several
micro-batches in a step, some of them on one rank only.
"""

import signal

import pytest

from callbacks.checkpoints import latest_checkpoint
from core.process.stop import EXIT_PREEMPTED
from tests.support import ranks
from tests.support import small_world as worlds
from tests.support.ranks import World

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["align", "instruct"])
def test_two_ranks_train_like_one(world: World, kind: str) -> None:
    folder = ranks.train(
        world, kind, root="two", devices=2, agreement_every_n_steps=ranks.AGREEMENT_STEPS
    )
    ranks.check_same(world, kind, folder)
    assert len(worlds.series(folder.path, ranks.AGREEMENT)) == 2


def test_two_ranks_stop_together_and_one_resumes(world: World) -> None:
    """SIGTERM to one rank saves on both; the next attempt has another number of ranks."""
    folder = ranks.prepare(world, "instruct", root="stopped", devices=2)
    process = ranks.start(world, folder)
    worlds.wait_for_step(folder.path, 3, is_alive=lambda: process.poll() is None, since=0.0)
    process.send_signal(signal.SIGTERM)
    code, output = worlds.finish(process)
    assert code == EXIT_PREEMPTED, output
    saved = latest_checkpoint(folder.checkpoints)
    assert saved is not None
    assert saved.step == max(worlds.series(folder.path)) + 1
    resumed = ranks.train(world, "instruct", root="stopped", devices=1)
    ranks.check_same(world, "instruct", resumed)
