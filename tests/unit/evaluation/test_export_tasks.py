"""Task packs: other programs ask our questions with our prompts and score them with their code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.export_tasks.__main__ import main
from evaluation.metrics.vqa import lmms_score
from tests.support import small_world as worlds

BENCHMARK = Path("data/benchmark_test.manifest.json")
CYCLE = ("sun", "eguzki", "A", "a", "B", " Yes. ", "bai", "ez", "etxe", "nothing")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    return built


class _Loader(yaml.SafeLoader):
    """Reads `!function` as text."""


_Loader.add_constructor("!function", lambda loader, node: f"function {node.value}")


def tasks_of(folder: Path) -> dict[str, Any]:
    return {p.stem: yaml.load(p.read_text(), _Loader) for p in sorted(folder.glob("*.yaml"))}


def export(out: Path, harness: str, *more: str) -> None:
    assert main(["--to", harness, "--manifest", str(BENCHMARK), "--out", str(out), *more]) == 0


def test_a_pack_asks_every_question_with_its_prompt(world: Path, tmp_path: Path) -> None:
    export(tmp_path / "pack", "lmms-eval", "--max-new-tokens", "8")
    tasks = tasks_of(tmp_path / "pack")
    kinds = ("capqa", "mc", "vqa")
    assert sorted(tasks) == [
        f"irudimen_benchmark_test_{kind}_{language}" for kind in kinds for language in ("en", "eu")
    ]
    prompts = load_prompts(["en", "eu"], style="instructed")
    items = load_benchmark(BENCHMARK)
    for name, task in tasks.items():
        kind, language = name.split("_")[-2:]
        own = [one for one in items if one.benchmark == kind and one.language == language]
        rows = pq.read_table(task["dataset_kwargs"]["data_files"]["validation"]).to_pylist()
        assert [row["prompt"] for row in rows] == [prompts.question_text(one) for one in own]
        assert [row["image"]["bytes"] for row in rows] == [one.image for one in own]
        assert task["generation_kwargs"]["max_new_tokens"] == 8
        assert task["doc_to_visual"] == "function utils.doc_to_visual"
    (first, *_) = pq.read_table(
        tmp_path / "pack/data/irudimen_benchmark_test_mc_eu.parquet"
    ).to_pylist()
    assert first["target"] == "A"
    assert "A. " in first["prompt"]


def test_without_letters_in_the_prompt_the_target_is_the_choice(
    world: Path, tmp_path: Path
) -> None:
    export(tmp_path / "pack", "lmms-eval", "--style", "bare", "--languages", "eu")
    rows = pq.read_table(tmp_path / "pack/data/irudimen_benchmark_test_mc_eu.parquet").to_pylist()

    assert rows[0]["target"] in rows[0]["prompt"]
    assert len(tasks_of(tmp_path / "pack")) == 3


def test_what_a_harness_can_not_take_is_an_error(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", "lmms-eval", "--out", str(tmp_path / "a")]
    assert main([*words, "--manifest", "data/text_eu.manifest.json"]) == 2
    assert "holds text data, for which lmms-eval has no task" in capsys.readouterr().err
    export(tmp_path / "b", "lm-eval")
    assert (
        main(["--to", "lm-eval", "--manifest", str(BENCHMARK), "--out", str(tmp_path / "b")]) == 2
    )
    assert "is not empty" in capsys.readouterr().err


def by_hand(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.slow
def test_lm_eval_runs_the_packs_and_scores_exact_matches(world: Path, tmp_path: Path) -> None:
    """A model that gives fixed replies, through the real harness."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Fixed(LM):
        """Replies in turn, and sees the prompt and the image."""

        MULTIMODAL = True

        def __init__(self) -> None:
            super().__init__()
            self.asked: list[Any] = []

        def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
            self.asked += [request.args for request in requests]
            return [CYCLE[i % len(CYCLE)] for i in range(len(requests))]

        def loglikelihood(self, requests: list[Any], **_: Any) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
            return [-1.0 * len(request.args[0].encode()) for request in requests]

    pack = tmp_path / "pack"
    export(pack, "lm-eval")
    name = "irudimen_benchmark_test_capqa_eu"
    manager = TaskManager(include_path=str(pack), include_defaults=False)
    model = Fixed()
    results = lm_eval.simple_evaluate(
        model=model, tasks=[name], task_manager=manager, bootstrap_iters=0, verbosity="WARNING"
    )
    rows = pq.read_table(pack / "data" / f"{name}.parquet").to_pylist()
    replies = [CYCLE[i % len(CYCLE)].strip().lower().rstrip(".") for i in range(len(rows))]
    wanted = by_hand([reply == row["target"] for reply, row in zip(replies, rows, strict=True)])
    assert results["results"][name]["exact_match,none"] == pytest.approx(wanted)
    assert model.asked[0][0] == f"<image>{rows[0]['prompt']}"
    assert model.asked[0][2]["visual"][0].size == (32, 32)

    texts = tmp_path / "texts"
    assert (
        main(["--to", "lm-eval", "--manifest", "data/text_eu.manifest.json", "--out", str(texts)])
        == 0
    )
    manager = TaskManager(include_path=str(texts), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=Fixed(), tasks=["irudimen_text_eu"], task_manager=manager, bootstrap_iters=0,
        verbosity="WARNING",
    )  # fmt: skip
    bits = results["results"]["irudimen_text_eu"]["bits_per_byte,none"]
    assert bits == pytest.approx(1.442695, abs=1e-5), "one nat per byte"


@pytest.mark.slow
def test_lmms_eval_scores_as_our_own_copy_of_its_metric(world: Path, tmp_path: Path) -> None:
    """Skipped without lmms-eval, whose functions the pack imports."""
    pytest.importorskip("lmms_eval")
    export(tmp_path / "pack", "lmms-eval", "--languages", "eu")
    functions: dict[str, Any] = {}
    exec((tmp_path / "pack/utils.py").read_text(), functions)
    rows = pq.read_table(tmp_path / "pack/data/irudimen_benchmark_test_vqa_eu.parquet").to_pylist()
    for row in rows:
        for reply in CYCLE:
            wanted = lmms_score(reply, row["references"])
            found = functions["score_vqa"](
                row | {"answers": [dict(a) for a in row["answers"]]}, [reply]
            )
            assert found["exact_match"] == pytest.approx(wanted)
