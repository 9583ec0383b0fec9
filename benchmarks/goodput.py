"""Measure goodput under failures: short real trainings killed by a random trace, per save policy.

python -m benchmarks.goodput --mtbf 75 --minutes 3 --json docs/benchmarks/goodput.json
python -m benchmarks.goodput --mtbf 75 --minutes 3 --large     # a large state
python -m benchmarks.goodput --three-hours --minutes 30        # every 3 h, scaled

The main command trains one cell of the embedded profile. Its process group receives SIGKILL at
random times, the same for every policy, and the command is rerun. Goodput is the useful time (each
step once, at the median step time of its attempt) divided by the wall time until the stage is done.
The rest is lost to starting, saving and repeating steps.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from callbacks.checkpoint_interval import best_interval_s
from core.io.jsonl import read_jsonl

_WEIBULL_SHAPE = 0.7
"""Failures of real clusters are bursty: Schroeder and Gibson (DSN 2006) fitted 0.7 to 0.8."""
_PAPER_RESTART_S = 180.0
"""Assumed restart time of an 8B model on a cluster: queue, imports, weights, first step."""
_THREE_HOURS = 10_800.0
_STRATA = 4
_TOLD = re.compile(r"a save keeps training waiting ([\d.]+) s")
_BACKBONE = Path("data/embedded/models/lm_general")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Checkpoint policy."""

    every: int
    """Steps between checkpoints; 0 chooses the best interval."""
    in_background: bool = True


AS_OFTEN_AS_PAYS = "as often as pays"
POLICIES = {
    AS_OFTEN_AS_PAYS: Policy(every=0),
    "as often as pays, training waits": Policy(every=0, in_background=False),
    "every 5 steps": Policy(every=5),
    "every 1,000 steps": Policy(every=1000),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Times measured in an uninterrupted run."""

    step_s: float
    save_s: float
    restart_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a completed stage run."""

    wall_s: float
    attempts: list[list[tuple[int, float]]]
    """Steps of each attempt with their completion times."""
    folder: Path

    @property
    def useful_s(self) -> float:
        """Return the useful time: each step once, at the median step time of its attempt."""
        total, end = 0.0, math.inf
        for lines in reversed(self.attempts):
            if not lines:
                continue
            gaps = [after[1] - before[1] for before, after in itertools.pairwise(lines)]
            kept = sum(step < end for step, _ in lines)
            total += kept * (statistics.median(gaps) if gaps else 0.0)
            end = min(end, lines[0][0])
        return total


class Study:
    """Runner of the instruction stage of one cell under different policies."""

    def __init__(self, folder: Path, *, large: bool) -> None:
        """Set up the study; `large` trains the model of `_write_large` in small steps."""
        self._folder = folder
        self.calm_steps = 600
        self._settings = [
            "align.num_steps=20", "retention.tasks=[]", "trainer.log_every_n_steps=1",
            *(f"instruct.{name}.max_epochs=9999" for name in
              ("visual.conversations", "text_only.chat", "text_only.text")),
        ]  # fmt: skip
        if large:
            self.calm_steps = 120
            _write_large(folder / "large")
            self._settings += [
                f"backbones.general.path={folder / 'large'}",
                "instruct.visual.conversations.samples_per_step=1",
                "instruct.text_only.chat.samples_per_step=0.25",
                "instruct.text_only.text.samples_per_step=0.25",
            ]

    def _command(self, root: Path, num_steps: int, policy: Policy, mtbf_s: float) -> list[str]:
        settings = [*self._settings, f"instruct.num_steps={num_steps}",
                    f"trainer.checkpoint_every_n_steps={policy.every}",
                    f"trainer.save_in_background={str(policy.in_background).lower()}",
                    f"trainer.hours_between_failures={mtbf_s / 3600}"]  # fmt: skip
        return [sys.executable, "-m", "experiments.run", "--exp", "mix_ablation", "--jobs", "1",
                "--only", "general_share20_s0", "--root", str(root), "--set",
                *settings]  # fmt: skip

    def prepare(self) -> Path:
        """Return a root with all earlier stages, which is copied for every run."""
        root = self._folder / "before"
        with _group(self._command(root, 1000, Policy(every=1000), 1e6)) as command:
            _wait(command, lambda: bool(_steps(root)))
            if command.poll() is not None:
                raise SystemExit(f"the command ended with {command.returncode}; see {root}")
        shutil.rmtree(root / "store" / "instruct")
        return root

    def run(self, before: Path, name: str, num_steps: int, policy: Policy, mtbf_s: float,
            kills: list[float]) -> Outcome:  # fmt: skip
        """Train the stage to completion despite the kills."""
        root = self._folder / re.sub(r"[^a-z0-9]", "_", name)
        shutil.copytree(before, root)
        words = self._command(root, num_steps, policy, mtbf_s)
        begin, left, attempts = time.monotonic(), list(kills), list[list[tuple[int, float]]]()
        while True:
            since, until = time.time(), begin + left.pop(0) if left else math.inf
            with _group(words) as command:
                _wait(command, lambda: _is_done(root), until)
                seconds, finished = time.monotonic() - begin, _is_done(root)
            attempts.append([line for line in _steps(root) if line[1] > since])
            if finished:
                folder = next((root / "store" / "instruct").iterdir())
                return Outcome(wall_s=seconds, attempts=attempts, folder=folder)
            if time.monotonic() < until:
                raise SystemExit(f"{name}: the command ended with {command.returncode}; see {root}")


def _write_large(folder: Path) -> None:
    """Write a random Llama of 20 M parameters as the backbone, with a state of 240 MB."""
    import transformers

    from models.language.language_model import save_language_model

    shutil.copytree(_BACKBONE, folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.update({"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6,
                   "num_attention_heads": 8, "num_key_value_heads": 8,
                   "head_dim": 64})  # fmt: skip
    save_language_model(folder, transformers.AutoModelForCausalLM.from_config(config))


@contextlib.contextmanager
def _group(words: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command in its own process group and kill the group at the end."""
    command = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        command.wait()


def _wait(
    command: "subprocess.Popen[bytes]", condition: Callable[[], bool], until: float = math.inf
) -> None:
    """Wait until the condition holds, the deadline passes or the command ends."""
    while command.poll() is None and time.monotonic() < until and not condition():
        time.sleep(0.05)


def _steps(root: Path) -> list[tuple[int, float]]:
    paths = list((root / "store" / "instruct").glob("*/metrics.jsonl"))
    lines = read_jsonl(paths[0]) if paths else []
    return [
        (line["step"], float(line["time"])) for line in lines if "train/loss" in line["metrics"]
    ]


def _is_done(root: Path) -> bool:
    return any((root / "store" / "instruct").glob("*/result"))


def measure(study: Study, before: Path, mtbf_s: float) -> Measured:
    """Measure times in a short uninterrupted run with the best save interval."""
    calm = study.run(before, "calm", study.calm_steps, POLICIES[AS_OFTEN_AS_PAYS], mtbf_s, [])
    step_s, save_s = calm.useful_s / study.calm_steps, _save_s(calm)
    if save_s is None:
        raise SystemExit(f"no save was measured in {calm.folder}")
    restart_s = calm.wall_s - study.calm_steps * step_s
    return Measured(step_s=step_s, save_s=save_s, restart_s=restart_s)


def _save_s(outcome: Outcome) -> float | None:
    """Return how long a save blocks training, according to the last log line about it."""
    told = _TOLD.findall((outcome.folder / "log.txt").read_text(encoding="utf-8"))
    return float(told[-1]) if told else None


def predicted(measured: Measured, interval_s: float, mtbf_s: float) -> float:
    """Predict the goodput by the exponential model (Daly 2006, eq. 20)."""
    segment = mtbf_s * math.exp(measured.restart_s / mtbf_s)
    segment *= math.exp((interval_s + measured.save_s) / mtbf_s) - 1
    return interval_s / segment


def draw_kills(mtbf_s: float, until_s: float, seed: int, trace: str) -> list[float]:
    """Draw times of kills with exponential or bursty gaps of the same mean.

    Gaps are stratified: each group of `_STRATA` has one gap from each part of the distribution in
    random order, so that even a short trace has the requested mean.
    """
    chance, at, found = random.Random(seed), 0.0, list[float]()
    scale, power = mtbf_s, 1.0
    if trace == "bursts":
        scale, power = mtbf_s / math.gamma(1 + 1 / _WEIBULL_SHAPE), 1 / _WEIBULL_SHAPE
    while at < until_s:
        for part in chance.sample(range(_STRATA), _STRATA):
            survival = 1 - (part + chance.random()) / _STRATA
            at += scale * (-math.log(survival)) ** power
            found.append(at)
    return found


def compare(study: Study, options: argparse.Namespace) -> dict[str, object]:
    """Run every policy with the same kills."""
    before = study.prepare()
    measured = measure(study, before, options.mtbf)
    scaled = _THREE_HOURS * measured.restart_s / _PAPER_RESTART_S
    mtbf_s = scaled if options.three_hours else options.mtbf
    num_steps = round(60 * options.minutes / measured.step_s)
    kills = draw_kills(mtbf_s, 1200 * options.minutes, options.seed, options.trace)
    rows = {}
    for name in options.policies:
        outcome = study.run(before, name, num_steps, POLICIES[name], mtbf_s, kills)
        rows[name] = _row(POLICIES[name], outcome, measured, num_steps, mtbf_s)
        Console(stderr=True).print(name, rows[name])
    return {
        "measured": dataclasses.asdict(measured), "mtbf_s": round(mtbf_s, 1), "steps": num_steps,
        "trace": options.trace, "large": options.large, "policies": rows,
        "three_hours_scaled_s": round(scaled, 1),
    }  # fmt: skip


def _row(
    policy: Policy, outcome: Outcome, calm: Measured, num_steps: int, mtbf_s: float
) -> dict[str, object]:
    """Return the figures of a policy; fixed policies do not measure the cost of a save."""
    measured = dataclasses.replace(calm, save_s=_save_s(outcome) or calm.save_s)
    interval_s = policy.every * measured.step_s or best_interval_s(measured.save_s, mtbf_s)
    interval_s = min(interval_s, num_steps * measured.step_s)
    return {
        "wall_s": round(outcome.wall_s, 1), "kills": len(outcome.attempts) - 1,
        "save_s": _save_s(outcome), "goodput": round(outcome.useful_s / outcome.wall_s, 4),
        "predicted": round(predicted(measured, interval_s, mtbf_s), 4),
    }  # fmt: skip


def main() -> int:
    """Run the benchmark, print the figures and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--mtbf", type=float, default=75.0, help="mean seconds between kills (default: 75)")
    add("--minutes", type=float, default=3.0, help="uninterrupted training time (default: 3)")
    add(
        "--three-hours",
        action="store_true",
        help="one kill per 3 h on average, scaled to the start-up time",
    )
    add("--large", action="store_true", help="train a model of 20 M parameters in small steps")
    add("--trace", choices=("exponential", "bursts"), default="exponential")
    add("--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME",
        help=f"of: {'; '.join(POLICIES)} (default: all)")  # fmt: skip
    add("--seed", type=int, default=0, help="seed of the trace (default: 0)")
    add("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Study(Path(folder), large=options.large), options)
    Console().print_json(data=found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
