"""An evaluation that is stopped goes on where it was."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError, PreemptedError
from evaluation.answerers.cached import KeptReplies
from evaluation.answerers.vlm import Reply

PROMPTS = [np.arange(1 + number % 3) for number in range(10)]
IMAGES = [bytes([number]) for number in range(10)]


class Asked:
    """Answers with what it sees and notes how much it was asked at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        self.sizes.append(len(prompts))
        return [Reply(text=f"{len(prompt)} ñ\n{image.hex()}", num_tokens=image[0],
                      is_truncated=image[0] > 6)
                for prompt, image in zip(prompts, images, strict=True)]  # fmt: skip


def stop_at(number: int):  # type: ignore[no-untyped-def]
    def on_slice(done: int, total: int) -> None:
        assert total == len(PROMPTS)
        if done >= number:
            raise PreemptedError(f"{done} of {total}")

    return on_slice


def test_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    path, model = tmp_path / "deep" / "replies.jsonl", Asked()
    expected = Asked().answers(PROMPTS, IMAGES)
    with pytest.raises(PreemptedError, match="8 of 10"):
        KeptReplies(model, path, slice_size=4, on_slice=stop_at(5)).answers(PROMPTS, IMAGES)
    assert model.sizes == [4, 4]
    again = KeptReplies(model, path, slice_size=4)
    assert again.answers(PROMPTS, IMAGES) == expected
    assert model.sizes == [4, 4, 2]
    assert again.answers(PROMPTS, IMAGES[::-1]) == model.answers(PROMPTS, IMAGES[::-1])
    assert model.sizes[3:] == [4, 4, 2, 10], "other questions, other replies"


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_line_is_asked_again(cut: int, tmp_path: Path) -> None:
    path, model = tmp_path / "replies.jsonl", Asked()
    replies = KeptReplies(model, path, slice_size=4).answers(PROMPTS, IMAGES)
    path.write_bytes(path.read_bytes()[:-cut])
    for _ in range(2):
        assert KeptReplies(model, path, slice_size=4).answers(PROMPTS, IMAGES) == replies
    assert model.sizes == [4, 4, 2, 2]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["{}", '{"slice": 1, "replies": [["a"]]}', "[", "7"])
def test_a_damaged_file_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    KeptReplies(Asked(), path, slice_size=4).answers(PROMPTS, IMAGES)
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(DataError, match=r"replies.jsonl:1 is damaged"):
        KeptReplies(Asked(), path, slice_size=4)


def test_a_reply_is_missing(tmp_path: Path) -> None:
    class Short(Asked):
        def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
            return super().answers(prompts, images)[1:]

    with pytest.raises(DataError, match="4 questions got 3 replies"):
        KeptReplies(Short(), tmp_path / "r.jsonl", slice_size=4).answers(PROMPTS, IMAGES)
    assert not (tmp_path / "r.jsonl").exists()


def test_texts_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = KeptReplies(Asked(), path, slice_size=100).answers(PROMPTS, IMAGES)
    assert KeptReplies(Asked(), path, slice_size=100).answers(PROMPTS, IMAGES) == first
    assert json.loads(path.read_text())["replies"][9] == ["1 ñ\n09", 9, True]
