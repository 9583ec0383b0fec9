"""Measure shard writing against plain webdataset, and index building, on one core.

python -m benchmarks.data_prep --json docs/benchmarks/data_prep.json
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image
from rich.console import Console

from data_prep.index.__main__ import main as index_main
from data_prep.shards.writer import ShardSample, write_shard

_PER_SHARD = 1000
_IMAGES = 64


def make_samples(count: int, image_bytes: int) -> list[ShardSample]:
    """Return samples with noise images and two captions each."""
    images = [_image(at, image_bytes) for at in range(_IMAGES)]
    text = "a dog sleeps on the red sofa beside the window of the house " * 3
    return [
        ShardSample(
            key=f"cc3m-{at:09d}",
            content={"records": {"en": text, "eu": text}, "parallel_id": f"cc3m-{at:09d}"},
            image=images[at % _IMAGES],
        )
        for at in range(count)
    ]


def _image(seed: int, num_bytes: int) -> bytes:
    """Return a JPEG of about the given size: noise takes 0.69 bytes per pixel at this quality."""
    side = max(8, int((num_bytes / 0.69) ** 0.5))
    pixels = np.random.default_rng(seed).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_ours(folder: Path, samples: Sequence[ShardSample]) -> None:
    """Write shards with hashes and indexes; each is published once it is safely on disk."""
    for start in range(0, len(samples), _PER_SHARD):
        write_shard(folder, f"s-{start // _PER_SHARD:06d}.tar", samples[start : start + _PER_SHARD])


def write_plain(folder: Path, samples: Sequence[ShardSample]) -> None:
    """Write shards only: no hash, no index, no crash safety."""
    pattern = str(folder / "s-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=_PER_SHARD, verbose=0) as writer:
        for sample in samples:
            content = {"id": sample.key, **sample.content}
            writer.write({"__key__": sample.key, "jpg": sample.image, "json": content})


def _seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Return the wall time and CPU time of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(count: int, image_bytes: int, rounds: int) -> dict[str, object]:
    """Run both writers alternately `rounds` times, then index the shards."""
    samples = make_samples(count, image_bytes)
    megabytes = sum(len(sample.image or b"") for sample in samples) / 1e6
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "webdataset": [], "index": []}
    for turn in range(rounds):
        order = [("ours", write_ours), ("webdataset", write_plain)]
        for name, write in order if turn % 2 else reversed(order):
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(_seconds(lambda f=folder, w=write: w(Path(f), samples)))
                if name == "webdataset":
                    times["index"].append(_seconds(lambda f=folder: _index(Path(f))))
    ratios = [
        [
            plain[kind] / ours[kind]
            for plain, ours in zip(times["webdataset"], times["ours"], strict=True)
        ]
        for kind in (0, 1)
    ]
    return {
        "samples": count,
        "megabytes": round(megabytes, 1),
        "samples_per_s": {n: round(count / statistics.median(t[0] for t in times[n]), 1)
                          for n in ("ours", "webdataset")},
        "ratio_wall": round(statistics.median(ratios[0]), 3),
        "ratio_cpu": round(statistics.median(ratios[1]), 3),
        "index_mb_per_s": round(megabytes / statistics.median(t[0] for t in times["index"]), 1),
    }  # fmt: skip


def _index(folder: Path) -> None:
    arguments = [str(folder / "s-*.tar"), "--name", "s", "--language", "en",
                 "--record", "records.en", "--licence", "CC0-1.0", "--jobs", "1",
                 "--out", str(folder)]  # fmt: skip
    if index_main(arguments) != 0:
        raise SystemExit("the index was not built")


def main() -> int:
    """Run the benchmark, print the figures and save them."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--samples", type=int, default=4000)
    add("--image-bytes", type=int, default=60_000)
    add("--rounds", type=int, default=5)
    add("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = measure(options.samples, options.image_bytes, options.rounds)
    Console().print_json(data=found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
