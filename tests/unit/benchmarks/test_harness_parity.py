"""The comparison with the programs that define the VQA scores."""

import importlib.util

import pytest

from benchmarks.harness_parity import (
    COMMAS,
    UNANIMOUS,
    compare,
    load_lmms_eval,
    official_scores,
    reason,
)
from core.rng import named_rng
from evaluation.metrics.vqa import lmms_score, official_score
from tests.support import vqa_oracle
from tests.unit.evaluation.metrics.test_vqa import random_case

PROGRAM = """
import sys
class VQAEval:
\tdef __init__(self, vqa, vqaRes, n=2):
\t\tself.n, self.vqa, self.vqaRes, self.evalQA = n, vqa, vqaRes, {}
\tdef evaluate(self):
\t\tprint "computing accuracy"
\t\tfor quesId in self.vqa.getQuesIds():
\t\t\tanswers = [ans['answer'] for ans in self.vqa.qa[quesId]['answers']]
\t\t\tequal = answers.count(self.vqaRes.qa[quesId]['answer'])
\t\t\tself.evalQA[quesId] = round(100 * float(equal) / len(answers), self.n)"""


def test_a_program_in_python_2_is_converted_and_run(tmp_path, capsys):
    path = tmp_path / "vqaEval.py"
    path.write_text(PROGRAM)
    cases = [("a", ["a", "a", "b"]), ("b", ["a", "a", "b"])]
    assert official_scores(path, cases) == pytest.approx([2 / 3, 1 / 3])
    assert not capsys.readouterr().out


def test_differences_are_counted_and_shown(capsys):
    cases = [("dog", ["dog"] * 10), ("Dog", ["dog"] * 10)]
    assert compare(cases, official_score, [1, 0]) == {"equal": 2, "different": 0}
    assert compare(cases, lmms_score, [1, 0]) == {"equal": 1, "different": 1}
    assert "'Dog'" in capsys.readouterr().out


def test_known_reasons_of_a_disagreement():
    assert reason("Dog", ["dog"] * 10) == UNANIMOUS
    assert reason("1,,2", ["dog"] * 9 + ["cat"]) == COMMAS
    assert not reason("dog", ["dog"] * 9 + ["cat"])


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="needs lmms-eval")
def test_lmms_eval_itself():
    theirs, rng = load_lmms_eval(), named_rng(3, "lmms-eval")
    cases = [random_case(rng) for _ in range(500)]
    assert compare(cases, lmms_score, [theirs(*case) for case in cases])["different"] == 0


def test_both_rules_agree_with_their_oracles():
    rng = named_rng(4, "parity of both rules")
    cases = [random_case(rng) for _ in range(1_000)]
    official = [vqa_oracle.score(*case) for case in cases]
    lmms = [vqa_oracle.lmms_score(*case) for case in cases]
    assert compare(cases, official_score, official) == {"equal": 1_000, "different": 0}
    assert compare(cases, lmms_score, lmms) == {"equal": 1_000, "different": 0}
    assert official != lmms
