"""A grid on benchmarks whose options stand beside the question, in the style `instructed`."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.shards.manifest import Modality
from evaluation.benchmarks.predictions import read_predictions
from experiments import run
from tests.support import small_world as worlds
from tests.support.doubles import write_shard, write_source

STYLE = ("--set", "data.benchmarks=[benchmark_test,culture]", "evaluate.prompt_style=instructed")
SHORT = ("--set", "align.num_steps=2", "instruct.num_steps=2")


def _both(english: Any, basque: Any) -> dict[str, Any]:
    return {"en": english, "eu": basque}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small world with a second benchmark: choices, direct answers, and open questions."""
    folder = worlds.build_world(tmp_path)
    samples = []
    for at in range(3):
        common = {"question_type": "what", "question": _both(f"Who is {at}?", f"Nor da {at}?")}
        choice = {"question_id": f"c{at}", "benchmark": "mc", "answer_type": "choice", **common,
                  "choices": _both(["Ane", "Miren", "Jon"], ["Anek", "Mirenek", "Jonek"]),
                  "correct_choice": at}  # fmt: skip
        direct = {"question_id": f"d{at}", "benchmark": "da", "answer_type": "direct", **common,
                  "answers": _both(["Ane"] * 3, ["Ane"] * 3)}  # fmt: skip
        wild = {"question_id": f"w{at}", "benchmark": "wild", "answer_type": "open", **common}
        items = {"items": [choice, direct, wild]}
        samples.append((f"culture-{at}", items, worlds.image(2000 + at)))
    entry = write_shard(folder / "data" / "culture-000000.tar", samples)
    write_source(folder / "data", "culture", [entry], language="en,eu", modality=Modality.BENCHMARK)
    monkeypatch.chdir(folder)
    return folder


def test_missing_options_are_reported_before_anything_runs(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = worlds.grid_arguments("mlruns", "--set", "data.benchmarks=[culture]")
    for more in (["--dry-run"], []):
        assert run.main([*arguments, *more]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert "benchmark 'culture': multiple-choice question 'c0' in 'en'" in error
        assert "Set evaluate.prompt_style=instructed" in error
    assert not list(world.glob("mlruns/store/*/*"))


@pytest.mark.slow
def test_a_grid_asks_with_options_and_limits(world: Path) -> None:
    limits = "evaluate.max_new_tokens_by_kind={wild: 7}"
    code, output = worlds.run(world, worlds.grid_arguments("mlruns", *STYLE, limits, *SHORT))
    assert code == 0, output
    folder = worlds.stage_folder(world / "mlruns", "evaluate")
    rows = read_predictions(folder / "result" / "predictions.parquet").to_pylist()
    prompts = {(r["dataset"], r["question_id"], r["language"]): r["prompt"] for r in rows}
    assert len(prompts) == len(rows) == 2 * (12 + 9)
    assert prompts["culture", "c1", "eu"].startswith(
        "Nor da 1?\nA. Anek\nB. Mirenek\nC. Jonek\nErantzun zuzenean"
    )
    assert prompts["culture", "d1", "en"].endswith("using a single word or phrase.")
    assert prompts["culture", "w1", "en"] == "Who is 1?"
    # Random models never end their turn, so that replies have the length of their limit.
    lengths = {row["benchmark"]: row["num_tokens"] for row in rows if row["is_truncated"]}
    assert lengths["wild"] == 7
    assert {n for kind, n in lengths.items() if kind != "wild"} == {8}
    options = yaml.safe_load((folder / "result" / "metrics.json").read_text())["options"]
    assert options["prompt_style"] == "instructed"
    assert options["limits"]["by_kind"]["wild"] == 7
