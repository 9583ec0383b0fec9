"""Architectures in real stage runs: killed and resumed, and on two ranks (DDP and FSDP2)."""

import signal
from pathlib import Path

import pytest

from benchmarks.model_classes.architecture import ARCHITECTURES
from core.config import dump_config, load_config
from pipeline.stages.registry import stage_class
from pipeline.store.store import Store
from tests.support import ranks
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
SETTINGS = {
    kind: f"model.connector.options.{kind}={options}"
    for kind, options in ARCHITECTURES.items()
    if options
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_killed_and_distributed_stage_runs_give_the_same_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = ranks.build_ranks_world(tmp_path, f"model.connector.kind={kind}", SETTINGS[kind])
    killed = ranks.prepare(world, "instruct", root="killed", devices=1)
    process = ranks.start(world, killed)
    is_alive = lambda: process.poll() is None  # noqa: E731 - waited for in this round
    worlds.wait_for_step(killed.path, 6, is_alive=is_alive, since=0.0)
    worlds.kill_group(process)
    assert process.wait() == -signal.SIGKILL
    ranks.run_to_the_end(world, killed)
    single = Store(Path("one")).folder("instruct", world.node("instruct").address)
    weights = [folder.result / "model.safetensors" for folder in (single, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    # Text without an image does not reach the layers of cross-attention, so it has no gradient.
    has_agreement = kind != "cross_attention"
    two = ranks.train(world, "instruct", root="two", devices=2)
    ranks.check_same(world, "instruct", two, has_agreement=has_agreement)
    sharded = ranks.prepare(world, "instruct", root="sharded", devices=2)
    spec = sharded.path / "spec.yaml"
    stage = load_config(stage_class("instruct"), spec, overrides=["compute.strategy=fsdp2"])
    spec.write_text(dump_config(stage))
    ranks.run_to_the_end(world, sharded)
    ranks.check_same(world, "instruct", sharded, has_agreement=has_agreement)
