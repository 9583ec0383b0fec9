"""From a LLaVA JSON in one language to a trained cell in two commands."""

import json
from pathlib import Path

import pytest

from core.io.jsonl import read_jsonl
from tests.support import small_world as worlds
from tests.support.small_world import NAMES, finish, image, start

pytestmark = pytest.mark.slow
_NUM_ITEMS = 200


def test_a_llava_json_trains_a_smoke_cell_in_two_commands(tmp_path: Path) -> None:
    """The images are those of the file alone, in its language, at the share 40 % of the cell."""
    world = worlds.build_world(tmp_path)
    photos = world / "photos"
    photos.mkdir()
    rows = []
    for i in range(_NUM_ITEMS):
        (photos / f"{i}.webp").write_bytes(image(5000 + i))
        answer = NAMES[i % len(NAMES)].split()[1]
        turns = [("human", "<image>\nZer da hau?"), ("gpt", f"{answer} bat")]
        conversation = [{"from": speaker, "value": text} for speaker, text in turns]
        rows.append({"id": i, "image": f"{i}.webp", "conversations": conversation})
    (world / "my.json").write_text(json.dumps(rows), encoding="utf-8")

    first = ("my.json", "--images", "photos", "--language", "eu")
    code, output = finish(start(world, *first, module="data_prep.from_llava"))
    assert code == 0, output
    assert "200 of 200 rows" in output
    # The command that the first one prints, with the profile of the tests.
    second = output.rpartition("python -m experiments.run ")[2].split()
    assert second == ["--exp", "smoke", "--set", "data.sources.conversations=data/my"]
    code, output = finish(
        start(world, *second, "--profile", worlds.PROFILE, "--jobs", "1", "--root", "runs")
    )
    assert code == 0, output
    assert "data/my/my_eu.manifest.json has no parallel source" in output

    folder = worlds.stage_folder(world / "runs", "instruct")
    logged: dict[str, float] = {}
    for line in read_jsonl(folder / "metrics.jsonl"):
        logged |= line["metrics"]
    shares = {n.rpartition("/")[2]: v for n, v in logged.items() if n.startswith("share_of_samp")}
    assert shares["my_eu"] > 0.5
    assert not {"instruct_en", "instruct_eu"} & shares.keys()
    assert (worlds.stage_folder(world / "runs", "evaluate") / "result").is_dir()
