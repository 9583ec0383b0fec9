"""`evaluation.run` continues after it was killed, and asks no stored question again."""

import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from evaluation import model_evaluation, run
from evaluation.answerers.base import ModelReply
from evaluation.answerers.cached import BATCHES_PER_SLICE
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from tests.support import small_world as worlds
from tests.support.models.foreign_checkpoints import write_llava

BENCHMARK = worlds.REPOSITORY / "data/embedded/benchmark_test.manifest.json"
BATCH_SIZE, NUM_QUESTIONS = 2, 200
SLICE_SIZE = BATCH_SIZE * BATCHES_PER_SLICE


def words(folder: Path, out: str, *more: str) -> list[str]:
    return [
        "--model", str(folder / "model"), "--benchmark", str(BENCHMARK), "--languages", "eu",
        "--limit", str(NUM_QUESTIONS), "--max-new-tokens", "2", "--no-blind",
        "--batch-size", str(BATCH_SIZE), "--out", str(folder / out), *more,
    ]  # fmt: skip


def stored_lines(folder: Path, out: str) -> int:
    """Return how many slices of an evaluation are complete on disk."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / f"{out}.asked").glob("*.jsonl"))


@pytest.mark.slow
def test_a_killed_evaluation_resumes_with_equal_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_llava(tmp_path / "model")
    process = worlds.start(
        worlds.REPOSITORY, *words(tmp_path, "killed"), module="evaluation.run",
        log=tmp_path / "log",
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while stored_lines(tmp_path, "killed") < 1 and time.monotonic() < deadline:
        time.sleep(0.002)
    worlds.kill_group(process)
    process.wait()
    stored = stored_lines(tmp_path, "killed")
    assert stored >= 1, (tmp_path / "log").read_text()
    assert not any((tmp_path / "killed").iterdir())

    asked: list[VisualQuestion] = []
    answer = HuggingFaceAnswerer.answer

    def counted(self: HuggingFaceAnswerer, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        asked.extend(questions)
        return answer(self, questions)

    monkeypatch.setattr(HuggingFaceAnswerer, "answer", counted)
    assert run.main(words(tmp_path, "killed")) == 0
    num_resumed = len(asked)
    assert run.main(words(tmp_path, "whole")) == 0
    num_distinct = len(asked) - num_resumed
    assert num_resumed == num_distinct - stored * SLICE_SIZE
    for name in ("metrics.json", "predictions.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "killed.asked").exists(), "finished results hold all replies"
    assert pq.read_table(tmp_path / "whole" / "predictions.parquet").num_rows == NUM_QUESTIONS


def test_replies_of_another_model_or_setting_are_not_taken(tmp_path: Path) -> None:
    write_llava(tmp_path / "model")
    keys = [replies_key(tmp_path), replies_key(tmp_path)]
    keys.append(replies_key(tmp_path, "--dtype", "bfloat16"))
    keys.append(replies_key(tmp_path, "--batch-size", "3"))
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    keys.append(replies_key(tmp_path))
    (tmp_path / "model").rename(tmp_path / "moved")
    keys.append(replies_key(tmp_path, "--model", str(tmp_path / "moved")))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert keys[-1] == keys[-2], "the folder of a checkpoint may be moved"


def replies_key(folder: Path, *more: str) -> str:
    options = run.build_parser().parse_args(words(folder, "out", *more))
    return model_evaluation._replies_key(options)
