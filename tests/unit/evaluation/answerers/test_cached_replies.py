"""An interrupted evaluation resumes from the stored replies."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from core.errors import DataError, PreemptedError
from core.samples import Role, Turn
from evaluation.answerers.base import ModelReply
from evaluation.answerers.cached import CachedAnswerer
from evaluation.benchmarks.questions import VisualQuestion

QUESTIONS = [
    VisualQuestion(turns=(Turn(role=Role.USER, content="?" * (number % 3)),), image=bytes([number]))
    for number in range(10)
]


class EchoAnswerer:
    """Replies with what it is shown and records the size of every call."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        self.sizes.append(len(questions))
        return [
            ModelReply(
                text=f"{len(question.turns[0].content)} ñ\n{question.image.hex()}",
                num_tokens=question.image[0],
                is_truncated=question.image[0] > 6,
            )
            for question in questions
        ]


def preempt_after(num_questions: int) -> Callable[[int, int], None]:
    def on_slice(done: int, total: int) -> None:
        assert total == len(QUESTIONS)
        if done >= num_questions:
            raise PreemptedError(f"{done} of {total}")

    return on_slice


def test_only_missing_replies_are_asked_for(tmp_path: Path) -> None:
    path, model = tmp_path / "deep" / "replies.jsonl", EchoAnswerer()
    expected = EchoAnswerer().answer(QUESTIONS)
    with pytest.raises(PreemptedError, match="8 of 10"):
        CachedAnswerer(model, path, slice_size=4, on_slice=preempt_after(5)).answer(QUESTIONS)
    assert model.sizes == [4, 4]
    resumed = CachedAnswerer(model, path, slice_size=4)
    assert resumed.answer(QUESTIONS) == expected
    assert model.sizes == [4, 4, 2]
    assert resumed.answer(QUESTIONS[::-1]) == model.answer(QUESTIONS[::-1])
    assert model.sizes[3:] == [4, 4, 2, 10], "other questions, other replies"


def test_the_key_covers_roles_and_texts_of_all_turns(tmp_path: Path) -> None:
    model = EchoAnswerer()
    cached = CachedAnswerer(model, tmp_path / "replies.jsonl", slice_size=4)
    user, other = (Turn(role=Role.USER, content=text) for text in ("a", "b"))
    system = Turn(role=Role.SYSTEM, content="a")
    for turns in ((user,), (other,), (system,), (user, other), (user,)):
        cached.answer([VisualQuestion(turns=turns, image=b"\x01")])
    assert len(model.sizes) == 4, "the last question is the first one again"
    cached.answer([VisualQuestion(turns=(user,), image=b"\x01", max_new_tokens=4096)])
    assert len(model.sizes) == 5, "a reply of another length may differ"


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_partially_written_line_is_asked_again(cut: int, tmp_path: Path) -> None:
    path, model = tmp_path / "replies.jsonl", EchoAnswerer()
    replies = CachedAnswerer(model, path, slice_size=4).answer(QUESTIONS)
    path.write_bytes(path.read_bytes()[:-cut])
    for _ in range(2):
        assert CachedAnswerer(model, path, slice_size=4).answer(QUESTIONS) == replies
    assert model.sizes == [4, 4, 2, 2]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("line", ["{}", '{"slice": 1, "replies": [["a"]]}', "[", "7"])
def test_a_damaged_line_is_reported_with_file_and_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    CachedAnswerer(EchoAnswerer(), path, slice_size=4).answer(QUESTIONS)
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(DataError, match=r"replies.jsonl, line 1 is damaged"):
        CachedAnswerer(EchoAnswerer(), path, slice_size=4)


def test_a_missing_reply_is_an_error(tmp_path: Path) -> None:
    class ShortAnswerer(EchoAnswerer):
        def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
            return super().answer(questions)[1:]

    with pytest.raises(DataError, match="4 questions got 3 replies"):
        CachedAnswerer(ShortAnswerer(), tmp_path / "r.jsonl", slice_size=4).answer(QUESTIONS)
    assert not (tmp_path / "r.jsonl").exists()


def test_replies_survive_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = CachedAnswerer(EchoAnswerer(), path, slice_size=100).answer(QUESTIONS)
    assert CachedAnswerer(EchoAnswerer(), path, slice_size=100).answer(QUESTIONS) == first
    assert json.loads(path.read_text())["replies"][9] == ["0 ñ\n09", 9, True]


def test_the_next_slice_is_announced_unless_its_replies_are_stored(tmp_path: Path) -> None:
    announced: list[list[int]] = []

    def announce(questions: Sequence[VisualQuestion]) -> None:
        announced.append([question.image[0] for question in questions])

    for _ in range(2):
        answerer = CachedAnswerer(
            EchoAnswerer(), tmp_path / "replies.jsonl", slice_size=4, prefetch=announce
        )
        answerer.answer(QUESTIONS)
    assert announced == [[4, 5, 6, 7], [8, 9]], "nothing the second time"
