"""Compare our two VQA scores with the code of lmms-eval on random and adversarial strings.

    pip install --no-deps lmms-eval && python -m benchmarks.harness_parity --cases 100000

Only the two files with the metric are loaded, not the package. `lmms_score` must agree in every
case. Differences of `official_score` are grouped by their reason. A difference without a known
reason leads to exit code 1.
"""

import argparse
import importlib.util
import json
import re
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.rng import named_rng
from evaluation.benchmarks.predictions import read_predictions
from evaluation.metrics.vqa import is_unanimous, lmms_score, official_score
from tests.unit.evaluation.test_vqa import random_case

_METRIC = "lmms_eval.tasks._task_utils.vqa_eval_metric"
_TASK = "lmms_eval.tasks.vqav2.utils"
_ROUNDING = 1e-9
UNANIMOUS = "ten equal answers: the official program normalises nothing then, lmms-eval always"
COMMAS = "several commas between digits: they delete every mark for lmms-eval only"
_SEVERAL_COMMAS = re.compile(r"\d,,+\d")


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
    """Return why the official score may differ from lmms-eval's on a case, or an empty string."""
    if is_unanimous(answers):
        return UNANIMOUS
    has_commas = any(_SEVERAL_COMMAS.search(text) for text in (prediction, *answers))
    return COMMAS if has_commas else ""


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
    same: Counter[str] = Counter()
    for prediction, answers in cases:
        expected = theirs(prediction, answers)
        # lmms-eval takes an exact mean, we and the official program a sum of rounded thirds.
        is_same = abs(lmms_score(prediction, answers) - expected) < _ROUNDING
        same["equal" if is_same else "unexplained"] += 1
        is_equal = abs(official_score(prediction, answers) - expected) < _ROUNDING
        why = "equal" if is_equal else reason(prediction, answers) or "unexplained"
        counts[why] += 1
        if not is_same or why == "unexplained":
            print("unexplained:", repr(prediction), answers)
    for name, found in (("lmms_score", same), ("official_score", counts)):
        for why, count in found.most_common():
            print(f"{name:15} {count:8d}  {count / len(cases):7.2%}  {why}")
    means = [100 * sum(map(score, *zip(*cases, strict=True))) / len(cases)
             for score in (official_score, lmms_score, theirs)]  # fmt: skip
    print("mean: official {:.4f}, lmms {:.4f}, lmms-eval {:.4f}".format(*means))
    if options.json:
        content = {"lmms_score": same, "official_score": counts}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(same["unexplained"] + counts["unexplained"] > 0)


if __name__ == "__main__":
    sys.exit(main())
