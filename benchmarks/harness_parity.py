"""Compare our VQA accuracy with the code of lmms-eval on random and adversarial strings.

    pip install --no-deps lmms-eval && python -m benchmarks.harness_parity --cases 100000

Only the two files with the metric are loaded, not the package. Differences are grouped by their
reason; a difference without a known reason leads to exit code 1.
"""

import argparse
import importlib.util
import json
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.rng import named_rng
from evaluation.benchmarks.predictions import read_predictions
from evaluation.metrics.vqa import official_score
from tests.unit.evaluation.test_vqa import random_case

_METRIC = "lmms_eval.tasks._task_utils.vqa_eval_metric"
_TASK = "lmms_eval.tasks.vqav2.utils"
_ROUNDING = 1e-9
UNANIMOUS = "ten equal answers: the official program normalises nothing then, lmms-eval always"
COMMAS = "a comma between digits: the official program then deletes every mark, lmms-eval its comma"


def load_their_score() -> Callable[[str, Sequence[str]], float]:
    """Return `vqav2_process_results` of the installed package."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("lmms-eval is not installed; run: pip install --no-deps lmms-eval")
    root = Path(next(iter(spec.submodule_search_locations)))
    for name in ("lmms_eval", "lmms_eval.tasks", "lmms_eval.tasks._task_utils"):
        sys.modules[name] = types.ModuleType(name)
    for name in ("loguru", "lmms_eval.tasks._task_utils.file_utils"):  # not needed by the metric
        stand_in: Any = types.ModuleType(name)
        stand_in.logger = None
        sys.modules[name] = stand_in
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, stand_in)
    _load_file(_METRIC, root / "tasks/_task_utils/vqa_eval_metric.py")
    process: Any = _load_file(_TASK, root / "tasks/vqav2/utils.py").vqav2_process_results

    def score(prediction: str, answers: Sequence[str]) -> float:
        entries = [{"answer": text, "answer_id": i} for i, text in enumerate(answers)]
        return float(process({"question_id": 0, "answers": entries}, [prediction])["exact_match"])

    return score


def _load_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} can't be loaded; is this lmms-eval?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def reason(prediction: str, answers: Sequence[str]) -> str:
    """Return the reason why both may differ on a case, or an empty string."""
    if len({text.replace("\n", " ").replace("\t", " ").strip() for text in answers}) == 1:
        return UNANIMOUS
    for text in (prediction, *answers):
        for at, mark in enumerate(text[1:-1], start=1):
            if mark == "," and text[at - 1].isdigit() and text[at + 1].isdigit():
                return COMMAS
    return ""


def _cases(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield replies with ten answers each, random or from an evaluation."""
    if options.predictions is None:
        rng = named_rng(7, "harness parity")
        yield from (random_case(rng) for _ in range(options.cases))
        return
    for row in read_predictions(options.predictions).to_pylist():
        if row["benchmark"] == "vqa":
            yield row["output"], row["answers"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare both programs and fail on unexplained differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--predictions", type=Path, help="use these replies instead of random ones")
    options = parser.parse_args(arguments)
    theirs = load_their_score()
    cases = list(_cases(options))
    counts: Counter[str] = Counter()
    for prediction, answers in cases:
        # lmms-eval takes an exact mean, the official program a sum of rounded thirds.
        if abs(official_score(prediction, answers) - theirs(prediction, answers)) < _ROUNDING:
            counts["equal"] += 1
            continue
        why = reason(prediction, answers) or "unexplained"
        counts[why] += 1
        if why == "unexplained" and counts[why] <= 5:
            print("unexplained:", repr(prediction), answers)
    for why, count in counts.most_common():
        print(f"{count:8d}  {count / len(cases):7.2%}  {why}")
    means = [100 * sum(map(score, *zip(*cases, strict=True))) / len(cases)
             for score in (official_score, theirs)]  # fmt: skip
    print(f"mean score: ours {means[0]:.4f}, theirs {means[1]:.4f}")
    if options.json:
        options.json.write_text(json.dumps(counts, indent=1) + "\n")
    return int(counts["unexplained"] > 0)


if __name__ == "__main__":
    sys.exit(main())
