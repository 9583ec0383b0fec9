"""Compare both VQA scores with the programs that define them on random and adversarial strings.

    pip install --no-deps lmms-eval
    git clone https://github.com/GT-Vision-Lab/VQA VQA
    cp VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py .
    python -m benchmarks.harness_parity --official vqaEval.py

`lmms_score` must equal lmms-eval and `official_score` the official program in every case; any
difference leads to exit code 1. The output also says how often the two programs disagree and why.
Only the files with the metrics are loaded. The official program is in Python 2 and is converted.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import re
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.rng import named_rng
from evaluation.benchmarks.predictions import read_predictions
from evaluation.metrics.vqa import is_unanimous, lmms_score, official_score
from tests.unit.evaluation.metrics.test_vqa import random_case

_METRIC = "lmms_eval.tasks._task_utils.vqa_eval_metric"
_TASK = "lmms_eval.tasks.vqav2.utils"
_ROUNDING = 1e-9
_DECIMALS = 12
UNANIMOUS = "ten equal answers: the official program normalises nothing then, lmms-eval always"
COMMAS = "several commas between digits: they delete every mark for lmms-eval only"
_SEVERAL_COMMAS = re.compile(r"\d,,+\d")

Case = tuple[str, Sequence[str]]
"""A reply and the human answers."""


def load_lmms_eval() -> Callable[[str, Sequence[str]], float]:
    """Return the score of `vqav2_process_results` of the installed package."""
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
        document = {"question_id": 0, "answers": _answer_records(answers)}
        return float(process(document, [prediction])["exact_match"])

    return score


def _load_file(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} can't be loaded; is this lmms-eval?")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def official_scores(program: Path, cases: Sequence[Case]) -> list[float]:
    """Return the scores of `VQAEval` of the official program.

    Args:
        program: The file vqaEval.py of GT-Vision-Lab/VQA.
        cases: Replies with their human answers.
    """
    truth, replies = _Questions(), _Questions()
    for at, (prediction, answers) in enumerate(cases):
        record = {"answers": _answer_records(answers), "question_type": "", "answer_type": ""}
        truth.qa[at] = record
        replies.qa[at] = {"answer": prediction}
    evaluator: Any = _load_python_2(program).VQAEval(truth, replies, n=_DECIMALS)
    with contextlib.redirect_stdout(io.StringIO()):  # a progress bar
        evaluator.evaluate()
    return [evaluator.evalQA[at] / 100 for at in range(len(cases))]


class _Questions:
    """Stand-in for the program's reader of question files."""

    def __init__(self) -> None:
        self.qa: dict[int, dict[str, Any]] = {}

    def getQuesIds(self) -> list[int]:  # noqa: N802 - the name in the official program
        """Return the ids of all questions."""
        return list(self.qa)


def _answer_records(answers: Sequence[str]) -> list[dict[str, Any]]:
    return [{"answer": text, "answer_id": at} for at, text in enumerate(answers)]


def _load_python_2(path: Path) -> types.ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter is deprecated; its escapes are old
        from lib2to3.refactor import RefactoringTool, get_fixers_from_package

        tool = RefactoringTool(get_fixers_from_package("lib2to3.fixes"))
        source = str(tool.refactor_string(path.read_text().rstrip() + "\n", str(path)))
        module = types.ModuleType("official_vqa")
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def reason(prediction: str, answers: Sequence[str]) -> str:
    """Return why the two programs may differ on a case, or an empty string."""
    if is_unanimous(answers):
        return UNANIMOUS
    has_commas = any(_SEVERAL_COMMAS.search(text) for text in (prediction, *answers))
    return COMMAS if has_commas else ""


def compare(
    cases: Sequence[Case], ours: Callable[[str, Sequence[str]], float], theirs: Sequence[float]
) -> Counter[str]:
    """Count equal and different scores, and print the first differences.

    lmms-eval takes an exact mean, we and the official program a sum of rounded thirds.
    """
    counts: Counter[str] = Counter(equal=0, different=0)
    for case, expected in zip(cases, theirs, strict=True):
        is_equal = abs(ours(*case) - expected) < _ROUNDING
        counts["equal" if is_equal else "different"] += 1
        if not is_equal and counts["different"] <= 5:
            print(f"different: {case!r}: {ours(*case)}, expected {expected}")
    return counts


def _disagreements(
    cases: Sequence[Case], official: Sequence[float], lmms: Sequence[float]
) -> Counter[str]:
    return Counter(
        "equal" if abs(first - second) < _ROUNDING else reason(*case) or "unexplained"
        for case, first, second in zip(cases, official, lmms, strict=True)
    )


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield replies with ten answers each, random or from an evaluation."""
    if options.predictions is None:
        rng = named_rng(7, "harness parity")
        yield from (random_case(rng) for _ in range(options.cases))
        return
    for row in read_predictions(options.predictions).to_pylist():
        if row["benchmark"] == "vqa":
            yield row["output"], row["answers"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare both scores with their programs and fail on any difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--official", type=Path, required=True,
                        help="vqaEval.py of GT-Vision-Lab/VQA")  # fmt: skip
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    parser.add_argument("--predictions", type=Path, help="use these replies instead of random ones")
    options = parser.parse_args(arguments)
    cases = list(_cases(options))
    score = load_lmms_eval()
    lmms = [score(*case) for case in cases]
    official = official_scores(options.official, cases)
    result = {
        "cases": len(cases),
        "lmms_eval": importlib.metadata.version("lmms-eval"),
        "official_sha256": hashlib.sha256(options.official.read_bytes()).hexdigest(),
        "lmms_score and lmms-eval": compare(cases, lmms_score, lmms),
        "official_score and the official program": compare(cases, official_score, official),
        "the official program and lmms-eval": _disagreements(cases, official, lmms),
        "mean": {"official": _mean(official), "lmms-eval": _mean(lmms)},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    counts = [value for value in result.values() if isinstance(value, Counter)]
    return int(any(count["different"] + count["unexplained"] for count in counts))


def _mean(scores: Sequence[float]) -> float:
    return round(100 * sum(scores) / len(scores), 4)


if __name__ == "__main__":
    sys.exit(main())
