"""The prepare command, from stand-ins of the published datasets to shards used in training."""

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml

from data_prep.fixes import main as fix
from data_prep.prepare.__main__ import main
from data_prep.prepare.translation.quality import CUT_OFF
from data_prep.prepare.translation.translators import (
    Backend,
    MarianTranslator,
    Request,
    TranslateConfig,
)
from data_prep.shards.data_card import write_card
from datamodules.shards.manifest import load_manifest, open_shard
from evaluation.benchmarks.items import load_benchmark
from evaluation.people.tasks import validate_tasks
from tests.support import prepare_world as world
from tests.support import small_world

pytestmark = pytest.mark.slow
_COUNT = 200
_PER_PART = 60
pytest.importorskip("ctranslate2")


@pytest.fixture(scope="module")
def web() -> Iterator[Any]:
    with world.web() as server:
        yield server


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, web: Any) -> Path:
    """The `paper` recipe for Basque, with a Marian model for unpublished translations."""
    folder = tmp_path_factory.mktemp("prepared")
    model = world.make_marian(folder / "marian")
    places = world.places(folder / "files", web.url, _COUNT + 50)
    out = folder / "eu"
    code = main(
        ["--language", "eu", "--recipe", "paper", "--limit", str(_COUNT), "--out", str(out),
         "--set", *places, f"per_part={_PER_PART}", "per_shard=40", "validate=20",
         "translate.backend=ctranslate2", f"translate.model={model}",
         "translate.max_tokens=250"]
    )  # fmt: skip
    assert code == 0
    return out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, web: Any) -> Path:
    """A custom recipe with its sources in the same folder."""
    folder = tmp_path_factory.mktemp("recipe")
    files = folder / "files"
    sources: dict[str, dict[str, Any]] = {
        "caps": {"kind": "caption", "place": world.cc3m(files / "c.parquet", web.url, 60),
                 "columns": {"image_url": "url", "caption": "caption_en"}},
        "ama": {"kind": "qa", "place": world.pixmo_ama(files / "a.parquet", web.url, 60),
                "columns": {"image_url": "image_url", "sha256": "image_sha256",
                            "question": "question", "answer": "answer"}},
        "chats": {"kind": "chat", "place": world.magpie(files / "m.parquet", 60, side=0),
                  "columns": {"conversation": "conversations"}},
        "quiz": {"kind": "benchmark", "benchmark": "vqav2",
                 "place": world.vqav2(files / "v.parquet", 30, side=0)},
    }  # fmt: skip
    for name, source in sources.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"licence": "CC0-1.0", **source}))
    path = folder / "mine.yaml"
    fetch = {"allow_private": True, "timeout_s": 1.5, "wait_s": 0.05, "retries": 1,
             "max_bytes": 2_000_000}  # fmt: skip
    content = {"sources": list(sources), "per_part": 17, "per_shard": 8, "fetch": fetch}
    path.write_text(yaml.safe_dump(content))
    return path


def _arguments(recipe: Path, out: Path, url: str) -> list[str]:
    return ["--language", "eu", "--recipe", str(recipe), "--out", str(out), "--set",
            "translate.backend=endpoint", f"translate.endpoint.url={url}/v1",
            "translate.endpoint.model=stand-in", "translate.endpoint.price_in=2",
            "translate.block=8", "translate.concurrency=4"]  # fmt: skip


@pytest.fixture(scope="module")
def by_endpoint(
    tmp_path_factory: pytest.TempPathFactory, recipe: Path
) -> tuple[Path, Counter[str], list[Any]]:
    """The custom recipe translated by a language model, and the requests it received."""
    out = tmp_path_factory.mktemp("endpoint") / "eu"
    with world.language_model() as model:
        assert main(_arguments(recipe, out, model.url)) == 0
        return out, Counter(model.asked), list(model.bodies)


def _report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))["sources"]


def _samples(out: Path, name: str) -> list[tuple[dict[str, Any], bytes | None]]:
    """Return (JSON, image) of every sample of a manifest."""
    path = out / f"{name}.manifest.json"
    found = []
    for entry in load_manifest(path).shards:
        reader = open_shard(path, entry)
        for at in range(entry.num_samples):
            content, image = reader.read(at)
            found.append((json.loads(content), image))
    return found


def test_every_row_is_accounted_for(prepared: Path) -> None:
    for name, steps in _report(prepared).items():
        for step, ledger in steps.items():
            lost = ledger["num_in"] - ledger["num_out"] - sum(ledger["dropped"].values())
            assert lost == 0, (name, step)
        assert steps["collect"]["num_in"] == _COUNT
        assert steps["collect"]["num_out"] == steps["produce"]["num_in"]


def test_every_failed_download_is_counted_by_its_reason(prepared: Path) -> None:
    expected: Counter[str] = Counter({"empty text": 1})
    for number in range(9, _COUNT, 10):
        expected[list(world.TRAPS.values())[number // 10 % len(world.TRAPS)]] += 1
    ledger = _report(prepared)["cc3m"]["collect"]
    assert Counter(ledger["dropped"]) == expected
    assert all(ledger["examples"][reason] for reason in expected)


def test_wrong_hashes_contamination_and_rules_drop_rows(prepared: Path) -> None:
    report = _report(prepared)
    assert report["pixmo_ama"]["collect"]["dropped"] == {"image: hash differs": 1}
    assert report["pixmo_ama"]["produce"]["dropped"]["its image is in a benchmark"] == 1
    assert report["magpie_translated"]["collect"]["dropped"] == {
        "left out by conversation_id": _COUNT // 5
    }
    assert report["cc3m"]["produce"]["dropped"] == {"duplicate": 1, "translation: untranslated": 1}


def test_ctranslate2_translates_sources_without_a_translation(prepared: Path) -> None:
    # The model was trained on the 40 shortest pairs, and benchmarks contain others: their
    # translations are Basque but mostly wrong, and some are left out.
    assert sum(len(sample["items"]) for sample, _ in _samples(prepared, "wildvision")) > 50
    ledger = _report(prepared)["wildvision"]["produce"]
    assert ledger["extra"]["texts"] == _COUNT


def test_ctranslate2_reproduces_the_training_pairs(prepared: Path) -> None:
    config = TranslateConfig(
        backend=Backend.CTRANSLATE2, model=str(prepared.parent / "marian" / "model"), beam_size=2
    )
    pairs = world.pairs()[:40]
    translator = MarianTranslator(config)
    found = translator.translate([Request(f"A. {source}\n`x` 12") for source, _ in pairs])
    right = [text == f"A. {wanted}\n`x` 12" for text, (_, wanted) in zip(found, pairs, strict=True)]
    assert sum(right) >= 36
    short = dataclasses.replace(config, max_tokens=4)
    assert MarianTranslator(short).translate([Request(pairs[0][0])]) == [CUT_OFF]


def test_shards_are_read_by_webdataset_and_datasets(prepared: Path) -> None:
    import datasets

    paths = sorted(prepared.glob("cc3m-*.tar"))
    ours = _samples(prepared, "cc3m_eu")
    plain = list(webdataset.WebDataset([str(p) for p in paths], shardshuffle=False))
    assert [json.loads(one["json"])["id"] for one in plain] == [one["id"] for one, _ in ours]
    assert [one["png"] for one in plain] == [image for _, image in ours]
    theirs = datasets.load_dataset(
        "webdataset", data_files=[str(p) for p in paths], split="train", streaming=True
    ).cast_column("png", datasets.Image(decode=False))
    found = [(row["json"]["id"], row["png"]["bytes"]) for row in theirs]
    assert found == [(one["id"], image) for one, image in ours]


def test_samples_contain_both_languages(prepared: Path) -> None:
    known = dict(world.pairs())
    for sample, image in _samples(prepared, "cc3m_en"):
        assert sample["records"]["eu"] == known[sample["records"]["en"]]
        assert sample["parallel_id"] == sample["id"]
        assert sample["translation"]["texts"][0]["length_ratio"] > 0
        assert image is not None


@pytest.mark.parametrize("name", ["vqav2", "a_okvqa", "pixmo_cap_qa", "wildvision"])
def test_benchmarks_are_read_by_the_evaluation(prepared: Path, name: str) -> None:
    items = load_benchmark(prepared / f"{name}.manifest.json", ["en", "eu"])
    by_language = Counter(item.language for item in items)
    together = load_benchmark(prepared / "paper_benchmarks.manifest.json", ["en", "eu"])
    # The name of the benchmark is all that differs.
    assert {dataclasses.replace(item, dataset="paper_benchmarks") for item in items} <= set(
        together
    )
    assert by_language["en"] == by_language["eu"] > 100
    if name == "pixmo_cap_qa":
        assert {item.answers for item in items} == {("yes",), ("no",), ("bai",), ("ez",)}


def test_items_are_drawn_for_annotators(prepared: Path) -> None:
    tasks = validate_tasks(prepared / "validate" / "cc3m.jsonl", most=0)
    assert 15 <= len(tasks) <= 24
    assert all(task.language == "eu" and task.image_key for task in tasks)


def test_the_card_lists_licences_and_dropped_rows(prepared: Path) -> None:
    text = (prepared / "README.md").read_text(encoding="utf-8")
    for expected in ("ODC-BY", "conceptual-captions", "image: gone", "ctranslate2", "- eu"):
        assert expected in text
    before = text
    assert write_card(prepared).read_text(encoding="utf-8") == before


def test_the_endpoint_gets_every_text_once_with_its_context(
    by_endpoint: tuple[Path, Counter[str], list[Any]],
) -> None:
    out, asked, bodies = by_endpoint
    chats = [body["messages"] for body in bodies if len(body["messages"]) > 2 + 2 * 3]
    assert chats, "no request has earlier turns of its conversation"
    requests = Counter(json.dumps(body["messages"]) for body in bodies)
    per_part = 4  # a text in several tasks is requested once in each
    assert max(requests.values()) <= per_part
    assert asked["yes"] == 0
    known = dict(world.pairs())
    for sample, _ in _samples(out, "ama_eu"):
        pairs = zip(*(sample["records"][code]["messages"] for code in ("en", "eu")), strict=True)
        for source, translation in pairs:
            plain = source["content"].removeprefix("<image>\n")
            assert translation["content"].removeprefix("<image>\n") == known[plain]


def test_bad_translations_are_counted_by_reason(
    by_endpoint: tuple[Path, Counter[str], list[Any]],
) -> None:
    dropped = _report(by_endpoint[0])["ama"]["produce"]["dropped"]
    assert dropped["translation: empty"] == 1
    assert dropped["translation: untranslated"] == 1
    assert dropped["translation: cut off"] == 1
    assert dropped["its image is in a benchmark"] == 1


def test_prepared_data_train_both_stages_and_are_evaluated(
    by_endpoint: tuple[Path, Counter[str], list[Any]], tmp_path: Path
) -> None:
    folder = small_world.build_world(tmp_path)
    path = folder / "configs" / f"{small_world.PROFILE}.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"] = {"folder": str(by_endpoint[0]), "benchmarks": ["quiz"]}
    config["evaluate"]["max_new_tokens"] = 160  # the longest answer has 150
    config["align"]["visual"] = {"captions": {"source": "caps", "samples_per_step": 4}}
    config["instruct"]["visual"] = {"answers": {"source": "ama", "samples_per_step": 3}}
    config["instruct"]["text_only"] = {"chat": {"source": "chats", "samples_per_step": 1}}
    for stage in ("align", "instruct"):
        config[stage] |= {"num_steps": 3, "micro_batch_tokens": 4096, "row_tokens": 2048,
                          "prompt_style": "plain"}  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    code, output = small_world.run(folder, small_world.grid_arguments("mlruns"))
    assert code == 0, output
    losses = small_world.series(small_world.stage_folder(folder / "mlruns", "instruct"))
    assert sorted(losses) == [0, 1, 2]


_READ_HUB = """
import sys
from data_prep.prepare.reading import rows
parts = rows.split(sys.argv[1], per_part=15)
found = [(n, row) for part in parts for n, row in rows.read(part)]
print(parts[0].file, len(parts), [n for n, _ in found] == list(range(40)),
      sum(len(row["image"]["bytes"]) > 100 for _, row in found))
"""


def _ask_hub(url: str, place: str) -> "subprocess.CompletedProcess[str]":
    # In a separate process, because the hub client reads its endpoint only once.
    return subprocess.run(
        [sys.executable, "-c", _READ_HUB, place], env={**os.environ, "HF_ENDPOINT": url},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_rows_of_the_hub_are_pinned_to_a_commit(tmp_path: Path) -> None:
    content = Path(world.wildvision(tmp_path / "w.parquet", 40)).read_bytes()
    with world.hub({"data/en-00000.parquet": content, "README.md": b"x"}) as server:
        done = _ask_hub(server.url, f"hf://datasets/{world.HUB_NAME}/**/en-*.parquet")
        assert done.returncode == 0, done.stderr
        pinned = f"hf://datasets/{world.HUB_NAME}@{world.HUB_COMMIT}/data/en-00000.parquet"
        assert done.stdout.split() == [pinned, "3", "True", "40"]
        none = _ask_hub(server.url, "hf://datasets/owner/other/*.parquet")
        assert none.returncode != 0
        assert "does not exist, or is private or gated" in none.stderr


def test_corrections_give_a_new_version(prepared: Path, tmp_path: Path) -> None:
    chosen = [json.loads(line) for line in
              (prepared / "validate" / "cc3m.jsonl").read_text("utf-8").splitlines()]  # fmt: skip
    lines = ["task,annotator,content,language,overall,verdict,text"]
    answers = ["accept,", "fix,Beste hitz batzuk", "reject,", "skip,"]
    lines += [f"{one['id']},a,,,,{text}" for one, text in zip(chosen, answers, strict=False)]
    lines += [f"{chosen[4]['id']},{who},,,,fix,{who}" for who in ("a", "b")]  # two corrections
    path = tmp_path / "fixes.csv"
    path.write_text("\n".join(lines) + "\n")
    arguments = ["--data", str(prepared), "--judgements", str(path), "--language", "eu"]
    assert fix([*arguments, "--out", str(tmp_path / "v2")]) == 0
    before, after = (
        {sample["id"]: (sample, image) for sample, image in _samples(out, "cc3m_eu")}
        for out in (prepared, tmp_path / "v2")
    )
    changed, gone = (chosen[at]["id"].rpartition("-")[0] for at in (1, 2))
    assert before.keys() - after.keys() == {gone}
    assert after[changed][0]["records"]["eu"] == "Beste hitz batzuk"
    assert after[changed][0]["records"]["en"] == before[changed][0]["records"]["en"]
    assert all(after[key] == before[key] for key in after if key != changed)
    old, new = (load_manifest(out / "cc3m_eu.manifest.json") for out in (prepared, tmp_path / "v2"))
    assert new.provenance["fixes"] == {"changed": 1, "left out": 1, "of": old.fingerprint()}
    untouched = [s.path for s in new.shards if s in old.shards]
    assert untouched
    assert (tmp_path / "v2" / untouched[0]).samefile(prepared / untouched[0])
    assert fix([*arguments, "--out", str(tmp_path / "v2")]) == 2  # versions are never overwritten
    path.write_text(f"{lines[0]}\nabsent-0,a,,,,reject,\n")
    before = sorted(tmp_path.iterdir())
    assert fix([*arguments, "--out", str(tmp_path / "v3")]) == 2
    assert sorted(tmp_path.iterdir()) == before, "an incomplete version was left"


def test_other_settings_in_the_same_folder_are_refused(
    by_endpoint: tuple[Path, Counter[str], list[Any]],
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = by_endpoint[0]
    arguments = _arguments(recipe, out, "http://127.0.0.1:9")
    assert main([*arguments, "per_shard=9"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "was started with other settings" in error
    assert "config.per_shard" in error


# --- kills ----------------------------------------------------------------------------------------


def _bytes(out: Path) -> dict[str, bytes]:
    """Return the content of every file except the intermediate results."""
    skipped = {"work"}
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in skipped
    }


def test_a_preparation_killed_at_random_moments_gives_the_same_bytes(
    by_endpoint: tuple[Path, Counter[str], list[Any]], recipe: Path, tmp_path: Path
) -> None:
    whole, _, bodies = by_endpoint
    once = Counter(json.dumps(body["messages"]) for body in bodies)
    chance, kills, out = random.Random(5), 0, tmp_path / "eu"
    with world.language_model(delay_s=0.4) as model:
        for _ in range(200):
            process = small_world.start(
                small_world.REPOSITORY,
                *_arguments(recipe, out, model.url),
                module="data_prep.prepare",
            )
            try:
                wait = chance.uniform(0.3, 1.8) if kills < 24 else 600
                output, _ = process.communicate(timeout=wait)
                assert process.returncode == 0, output
                break
            except subprocess.TimeoutExpired:
                small_world.kill_group(process)
                process.communicate()
                kills += 1
        again = Counter(json.dumps(body["messages"]) for body in model.bodies)
    assert kills >= 20, "it finished before enough kills: increase delay_s of the model"
    assert _bytes(out) == _bytes(whole)
    extra = sum((again - once).values())
    # Requests in flight during a kill are repeated: at most the concurrent ones of two tasks.
    assert extra <= kills * 2 * 4
    kept = [line for path in (out / "work").rglob("translations.jsonl")
            for line in path.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    assert len(kept) == sum(once.values()), "a saved translation was repeated"
