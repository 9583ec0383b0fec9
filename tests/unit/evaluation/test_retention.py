"""Scores of the language model without images agree with its logits."""

import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.errors import ConfigError, DataError
from datamodules.shards.manifest import Modality
from evaluation import retention
from evaluation.retention import (
    RETENTION_FILE,
    RetentionConfig,
    ScoreCache,
    read_items,
    run_retention,
    save_retention,
)
from tests.support.doubles import make_tokenizer, write_shard, write_source

TEXTS = ("kaixo mundua", "bat bi hiru lau bost", "zuhaitza", "ñ eta ç")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    samples = [
        (f"t{i}", {"messages": [{"role": "text", "content": text}]}, None)
        for i, text in enumerate(TEXTS)
    ]
    entry = write_shard(folder / "text-000000.tar", samples)
    return Path(write_source(folder, "text_eu", [entry], modality=Modality.TEXT))


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, vocab_size=len(tokenizer),
                         bos_token_id=tokenizer.bos_token_id, initializer_range=0.3,
                         max_position_embeddings=256)  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.slow
def test_bits_per_byte_agree_with_the_logits(
    manifest: Path, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    tokenizer, task = make_tokenizer(), "text:text_eu"
    settings = RetentionConfig(tasks=[task], batch_size=3)
    found = run_retention(model, tokenizer, settings, texts={task: str(manifest)}, folder=tmp_path)
    nats, num_bytes = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids_BT = torch.tensor([[tokenizer.bos_token_id, *ids]])
        with torch.no_grad():
            logits_TV = model(ids_BT).logits[0, :-1].log_softmax(-1)
        nats -= float(logits_TV[range(len(ids)), ids].sum())
        num_bytes += len(text.encode("utf-8"))
    score = found[task]
    assert (score.metric, score.n) == ("bits_per_byte", len(TEXTS))
    assert score.num_truncated == 0
    assert score.value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    save_retention(found, tmp_path)
    assert json.loads((tmp_path / RETENTION_FILE).read_text())[task]["n"] == len(TEXTS)
    items = read_items(tmp_path)[task]
    assert items.weights == tuple(len(text.encode("utf-8")) for text in TEXTS)
    assert np.average(items.values, weights=items.weights) == pytest.approx(score.value, rel=1e-6)
    part = RetentionConfig(tasks=[task], limit=2)
    found = run_retention(model, tokenizer, part, texts={task: str(manifest)}, folder=tmp_path)
    assert found[task].n == 2


@pytest.mark.slow
def test_a_stopped_scoring_goes_on(
    manifest: Path, model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task by task, with the scores of one that nobody stopped; a torn line is scored again."""
    import lm_eval

    tasks, asked = ["text:one", "text:two"], []
    settings, texts = RetentionConfig(tasks=tasks), dict.fromkeys(tasks, str(manifest))
    parts = (model, make_tokenizer(), settings)
    whole = run_retention(*parts, texts=texts, folder=tmp_path)
    own = lm_eval.simple_evaluate

    def counted(**arguments: Any) -> Any:
        asked.append(arguments["tasks"][0]["task"])
        return own(**arguments)

    def stop(number: int, total: int) -> None:
        assert (number, total) == (1, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(lm_eval, "simple_evaluate", counted)
    path = tmp_path / "checkpoints" / "kept.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_retention(*parts, texts=texts, folder=tmp_path, cache=ScoreCache(path, stop))
    with path.open("a") as file:
        file.write('{"task": "text:two", "sc')
    cache = ScoreCache(path, lambda *_: None)
    assert run_retention(*parts, texts=texts, folder=tmp_path, cache=cache) == whole
    assert asked == ["text_one", "text_two"]
    assert ScoreCache(path, stop).scores == whole
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"kept.jsonl, line 1 is damaged"):
        ScoreCache(path, stop)


@pytest.mark.slow
def test_prompts_longer_than_the_context_are_counted(
    model: LlamaForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The harness scores their ends and says so in its own log only."""
    path = tmp_path / "documents.jsonl"
    lengths = (10, 300, 400)
    path.write_text("".join(json.dumps({"text": "a" * n}) + "\n" for n in lengths))
    task = {
        "task": "long", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(path)}}, "output_type": "multiple_choice",
        "doc_to_text": "{{text}}", "doc_to_choice": ["b", "c"], "doc_to_target": "0",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "_define_text_task", lambda *_: task)
        patch.setattr(retention, "_harness_name", lambda _: "long")
        settings = RetentionConfig(tasks=["text:long"])
        texts = {"text:long": ""}
        logging.getLogger("irudimen").propagate = True
        with caplog.at_level(logging.WARNING):
            found = run_retention(model, make_tokenizer(), settings, texts=texts, folder=tmp_path)
    assert found["text:long"].num_truncated == 2 * 2, "two documents with two choices each"
    assert "4 prompts are longer than the context of the model (256 tokens)" in caplog.text


@pytest.mark.slow
def test_the_documents_of_a_group_of_tasks_are_counted(
    model: LlamaForCausalLM, tmp_path: Path
) -> None:
    """INCLUDE and Global-MMLU are groups with one task per field, of which the harness counts."""
    from lm_eval.tasks import TaskManager

    parts = []
    for name, count in (("one", 2), ("two", 3)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": "a" * n}) + "\n" for n in range(1, count + 1)))
        parts.append({
            "task": name, "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "output_type": "multiple_choice", "doc_to_text": "{{text}}",
            "doc_to_choice": ["b", "c"], "doc_to_target": "0", "metric_list": [{"metric": "acc"}],
        })  # fmt: skip
    group = {"group": "both", "task": parts,
             "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}  # fmt: skip
    (tmp_path / "both.yaml").write_text(json.dumps(group))  # JSON is YAML
    known = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.tasks.TaskManager", lambda **_: known)
        settings = RetentionConfig(tasks=["both"])
        found = run_retention(model, make_tokenizer(), settings, texts={}, folder=tmp_path)
    assert (found["both"].metric, found["both"].n) == ("acc", 5)


@pytest.mark.slow
def test_an_unknown_task_is_reported_with_the_nearest_known_one(
    model: LlamaForCausalLM, tmp_path: Path
) -> None:
    settings = RetentionConfig(tasks=["eus_proficency"])
    with pytest.raises(ConfigError, match="Did you mean 'eus_proficiency'"):
        run_retention(model, make_tokenizer(), settings, texts={}, folder=tmp_path)


def test_a_missing_harness_is_reported_with_its_extra(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    settings = RetentionConfig(tasks=["eus_proficiency"])
    with pytest.raises(ConfigError, match=r"pip install '.\[harness\]'"):
        run_retention(model, make_tokenizer(), settings, texts={}, folder=tmp_path)
    with pytest.raises(ConfigError, match="batch_size=0"):
        RetentionConfig(batch_size=0)
