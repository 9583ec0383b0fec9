"""What the stream benchmark counts after a resume."""

from benchmarks.stream.__main__ import compare

WHOLE = [["a", "b"], ["c", "d"], ["e", "f"]]


def test_an_exact_resume():
    assert compare(WHOLE, [*WHOLE]) == {"repeated": 0, "lost": 0, "same_batches": True}


def test_starting_again_repeats_and_loses():
    resumed = [WHOLE[0], WHOLE[0], WHOLE[1]]
    assert compare(WHOLE, resumed) == {"repeated": 2, "lost": 2, "same_batches": False}


def test_the_same_samples_in_other_batches_are_no_exact_resume():
    resumed = [WHOLE[0], ["c", "e"], ["d", "f"]]
    assert compare(WHOLE, resumed) == {"repeated": 0, "lost": 0, "same_batches": False}
