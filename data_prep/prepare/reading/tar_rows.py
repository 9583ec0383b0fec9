"""Rows of a WebDataset shard."""

from collections.abc import Iterable, Iterator
from typing import Any

from core.io.reading import parse_json
from data_prep.prepare.faults import DroppedError
from datamodules.shards.tar_members import IMAGE_EXTENSIONS, TarSample
from datamodules.shards.tar_scan import REPEATED_KEY


def convert_samples(samples: Iterable[TarSample]) -> Iterator[dict[str, Any] | DroppedError]:
    """Yield a row per sample: the columns of its .json, `txt`, `image` and `__key__`."""
    seen = set[str]()
    for sample in samples:
        if sample.key in seen:
            detail = f"{sample.key}; pack the members of a sample together, tar --sort=name"
            yield DroppedError(REPEATED_KEY, detail)
        else:
            yield _convert_sample(sample)
        seen.add(sample.key)


def _convert_sample(sample: TarSample) -> dict[str, Any] | DroppedError:
    """Return the columns of a sample; its own members take precedence over columns of the JSON."""
    if sample.problem:
        return DroppedError(sample.problem, sample.key)
    row: dict[str, Any] = {}
    try:
        if (record := sample.members.get("json")) is not None:
            row |= parse_json(record.content.decode("utf-8-sig"))
        if (text := sample.members.get("txt")) is not None:
            row["txt"] = text.content.decode("utf-8-sig")
    except (ValueError, TypeError, RecursionError) as error:
        return DroppedError("row is not JSON", f"{sample.key}: {error}")
    images = [sample.members[kind] for kind in IMAGE_EXTENSIONS if kind in sample.members]
    if len(images) > 1:
        return DroppedError("two images", sample.key)
    if images:
        row["image"] = images[0].content
    return row | {"__key__": sample.key}
