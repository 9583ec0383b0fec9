"""Definitions of tasks: the YAML files of both harnesses and the functions that they name."""

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks.items import Benchmark
from evaluation.export_tasks.harness import Harness

_EXACT = {
    "metric": "exact_match",
    "aggregation": "mean",
    "higher_is_better": True,
    "ignore_case": True,
    "ignore_punctuation": True,
    "regexes_to_ignore": [r"^\s+", r"\s+$"],
}
_SOFT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
_ANLS = {"metric": "anls", "aggregation": "mean", "higher_is_better": True}
WITHOUT_METRIC: Mapping[Harness, frozenset[Benchmark]] = {
    Harness.LMMS_EVAL: frozenset({Benchmark.WILD}),
    Harness.LM_EVAL: frozenset({Benchmark.WILD, Benchmark.OPEN}),
}
"""Kinds that a harness has no metric for: wild questions need a judge."""

LMMS_EVAL_FUNCTIONS = '''\
"""Functions of the tasks of this pack; scores are computed by lmms-eval."""

from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
from lmms_eval.tasks.vqav2.utils import vqav2_process_results_val


def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["prompt"]


def score_vqa(doc, results):
    """VQA accuracy as the task vqav2_val computes it."""
    return vqav2_process_results_val(doc, results)


def score_direct(doc, results):
    """Direct answers of A-OKVQA: three equal answers of people are enough."""
    normalise = EvalAIAnswerProcessor()
    reply = normalise(results[0])
    equal = sum(normalise(answer) == reply for answer in doc["references"])
    return {"exact_match": min(1.0, equal / 3)}


def score_open(doc, results):
    from lmms_eval.api.metrics import anls

    return {"anls": anls(references=doc["references"], predictions=[results[0]])["anls"]}
'''
LM_EVAL_FUNCTIONS = '''\
"""Functions of the tasks of this pack; scores are computed by lm-evaluation-harness."""


def doc_to_image(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc):
    # The harness replaces the mark by the image; its chat template decides what is between them.
    return "<image>" + doc["prompt"]
'''


def question_task(
    harness: Harness, kind: Benchmark, *, name: str, tag: str, file: str, max_new_tokens: int
) -> dict[str, Any]:
    """Return the definition of a task over the questions of one kind and language.

    `!function utils.NAME` in the YAML file is written as the text "function:NAME".
    """
    task: dict[str, Any] = {
        "task": name,
        "tag": tag,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"validation": file}},
        "test_split": "validation",
        "output_type": "generate_until",
        "doc_to_text": "function:doc_to_text",
        "doc_to_target": "target",
    }
    if harness is Harness.LM_EVAL:
        return task | {
            "doc_to_image": "function:doc_to_image",
            "generation_kwargs": {
                "until": [], "max_gen_toks": max_new_tokens, "do_sample": False,
                "temperature": 0.0,
            },
            "metric_list": [_EXACT],
            "metadata": {"version": 1.0},
        }  # fmt: skip
    scores: dict[Benchmark, dict[str, Any]] = {
        Benchmark.VQA: {"process_results": "function:score_vqa", "metric_list": [_SOFT]},
        Benchmark.DIRECT: {"process_results": "function:score_direct", "metric_list": [_SOFT]},
        Benchmark.OPEN: {"process_results": "function:score_open", "metric_list": [_ANLS]},
    }
    return (
        task
        | {
            "doc_to_visual": "function:doc_to_visual",
            "generation_kwargs": {"max_new_tokens": max_new_tokens, "temperature": 0},
            "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}},
            "metadata": [{"version": 1.0}],
        }
        | scores.get(kind, {"metric_list": [_EXACT]})
    )


def text_task(*, name: str, tag: str, file: str) -> dict[str, Any]:
    """Return a task of lm-evaluation-harness over running text: bits per byte."""
    return {
        "task": name,
        "tag": tag,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": file}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
        "metadata": {"version": 1.0},
    }
