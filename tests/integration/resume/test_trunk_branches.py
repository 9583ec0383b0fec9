"""Branches of a trunk equal full warmup-stable-decay schedules of their length, bit for bit."""

from pathlib import Path

import pytest

from tests.support import small_world as worlds

pytestmark = pytest.mark.slow

_POINTS = (16, 32)
_LENGTHS = (20, 40)
"""Steps of both stages, the last fifth of which is the decay: they leave the trunk at `_POINTS`."""
_SCHEDULE = tuple(
    f"{stage}.optim.{field}"
    for stage in ("align", "instruct")
    for field in ("warmup_steps=4", "decay_fraction=0.2")
)


def _train(world: Path, root: str, length: int, *, is_branch: bool) -> Path:
    """Train one cell whose stages have a number of steps; return its output folder."""
    own = [f"{stage}.num_steps={length}" for stage in ("align", "instruct")]
    if is_branch:
        points = ",".join(map(str, _POINTS))
        own += [f"{stage}.branch_points=[{points}]" for stage in ("align", "instruct")]
    arguments = worlds.grid_arguments(root, "--name", f"grid{length}", "--set", *_SCHEDULE, *own)
    code, output = worlds.run(world, arguments)
    assert code == 0, output
    return world / root


def _new(folder: Path, kind: str, known: set[Path]) -> Path:
    (found,) = {*(folder / "store" / kind).iterdir()} - known
    return found


def test_a_branch_equals_the_full_schedule_in_weights_losses_and_rates(tmp_path: Path) -> None:
    world = worlds.build_world(tmp_path)
    known: dict[str, set[Path]] = {"align": set(), "instruct": set()}
    for length, point in zip(_LENGTHS, _POINTS, strict=True):
        full = _train(world, f"full{length}", length, is_branch=False)
        branches = _train(world, "branches", length, is_branch=True)
        # Both lengths continue from the same trunk of stage 1.
        trunk = worlds.stage_folder(branches, "align_trunk")
        branch, whole = _new(branches, "align", known["align"]), worlds.stage_folder(full, "align")
        known["align"].add(branch)
        weights = [folder / "result" / "model.safetensors" for folder in (branch, whole)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        for name in ("train/loss", "train/lr", "train/grad_norm", "loss_by_language/eu"):
            expected = worlds.series(whole, name)
            before, after = worlds.series(trunk, name), worlds.series(branch, name)
            assert {s: v for s, v in before.items() if s < point} | after == expected, name
        assert min(worlds.series(branch)) == point  # the steps before are those of the trunk
        # Stage 2 continues from a trunk as well, which starts from this stage 1.
        branch = _new(branches, "instruct", known["instruct"])
        known["instruct"].add(branch)
        weights = [
            folder / "result" / "model.safetensors"
            for folder in (branch, worlds.stage_folder(full, "instruct"))
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        for name in ("target_data.json", "exposures.json"):
            paths = [path.parent / name for path in weights]
            assert paths[0].exists() == paths[1].exists()
            if paths[0].exists():
                assert paths[0].read_bytes() == paths[1].read_bytes()
    kept = sorted(path.name for path in (trunk / "result").glob("step=*"))
    assert kept == [f"step={point:08d}" for point in _POINTS]
    first, last = (worlds.series(trunk, "train/lr")[step] for step in (4, 31))
    assert first == last  # the rate of a trunk is constant after its warm-up


def test_a_schedule_that_depends_on_the_length_has_no_trunk(tmp_path: Path) -> None:
    world = worlds.build_world(tmp_path)
    for change, words in (
        (("align.optim.warmup_steps=null",), "need optim.warmup_steps"),
        (("align.branch_points=[16,30]",), "leaves the trunk at step 32"),
        (("align.optim.warmup_steps=20",), "ends after the first"),
    ):
        own = ("align.num_steps=40", "align.branch_points=[16,32]")
        arguments = worlds.grid_arguments("no", "--dry-run", "--set", *_SCHEDULE, *own, *change)
        code, output = worlds.run(world, arguments)
        assert code != 0
        assert words in " ".join(output.split())
