"""Packing: labels, positions, documents and images against a naive reference."""

from itertools import groupby, pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat.tokens import IGNORE_INDEX, PADDING_DOCUMENT
from core.samples import EncodedSample, SampleRef
from datamodules.batches.collate import (
    PADDED_ROWS,
    ReadySample,
    RowLayout,
    collate_micro_batch,
)
from models.language.attention import AttentionKind
from pipeline.trainer import row_layout

PAD = 999
IMAGE = 12
"""An id that `ready` gives to the third token of its second sample."""


def ready(number, num_tokens, num_context, image=None, branches=None):
    ids = np.arange(num_tokens, dtype=np.int64) + 10 * number
    mask = np.arange(num_tokens) >= max(1, num_context)  # the chat format never labels token 0
    encoded = EncodedSample(
        input_ids_T=ids,
        loss_mask_T=mask,
        branch_ids_T=np.zeros(num_tokens, dtype=np.int64) if branches is None else branches,
    )
    ref = SampleRef(
        position=number,
        source="s",
        language="eu",
        key=f"k{number}",
        num_tokens=num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    return ReadySample(ref=ref, encoded=encoded, image=image)


def naive(rows):
    """Collate token by token, with lists only."""
    width = max(sum(s.encoded.num_tokens for s in row) for row in rows)
    ids, labels, positions, documents = [], [], [], []
    for row in rows:
        row_ids, row_labels, row_positions, row_documents = [], [], [], []
        for document, sample in enumerate(row, start=1):
            for t in range(sample.encoded.num_tokens):
                token, has_loss = sample.encoded.input_ids_T[t], sample.encoded.loss_mask_T[t]
                row_ids.append(int(token))
                row_labels.append(int(token) if has_loss else IGNORE_INDEX)
                row_positions.append(t)
                row_documents.append(document)
        rest = width - len(row_ids)
        ids.append(row_ids + [PAD] * rest)
        labels.append(row_labels + [IGNORE_INDEX] * rest)
        positions.append(row_positions + [0] * rest)
        documents.append(row_documents + [PADDING_DOCUMENT] * rest)
    return ids, labels, positions, documents


@given(
    shape=st.lists(
        st.lists(st.tuples(st.integers(2, 9), st.integers(0, 8)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=50, deadline=None)
def test_collation_equals_the_naive_reference(shape):
    number, rows = 0, []
    for row in shape:
        rows.append([])
        for num_tokens, num_context in row:
            rows[-1].append(ready(number, num_tokens, min(num_context, num_tokens - 1)))
            number += 1
    batch = collate_micro_batch(rows, pad_token_id=PAD, image_token_id=IMAGE, is_features=True)
    ids, labels, positions, documents = naive(rows)
    assert batch.input_ids_BT.tolist() == ids
    assert batch.labels_BT.tolist() == labels
    assert batch.position_ids_BT.tolist() == positions
    assert batch.document_ids_BT.tolist() == documents
    assert [ref.position for ref in batch.samples] == list(range(number))
    check_counts(batch)


def check_counts(batch):
    """Compare what was counted on the CPU with the tensors, position by position."""
    labels, documents = batch.labels_BT.tolist(), batch.document_ids_BT.tolist()
    branches, width = batch.branch_ids_BT.tolist(), len(labels[0])
    places = [(b, t) for b in range(len(labels)) for t in range(width)]
    has_loss = [b * width + t for b, t in places if labels[b][t] != IGNORE_INDEX]
    assert batch.loss_positions_K.tolist() == has_loss
    placeholders = [i for i, token in enumerate(batch.input_ids_BT.flatten()) if token == IMAGE]
    assert batch.image_positions_M.tolist() == placeholders
    starts = [b * width + t for b, t in places if not t or documents[b][t] != documents[b][t - 1]]
    starts.append(len(places))
    assert batch.document_starts.tolist() == starts
    assert batch.document_starts.dtype is torch.int32
    assert batch.longest_document == max(b - a for a, b in pairwise(starts))
    parts = [list(zip(*rows, strict=True)) for rows in zip(documents, branches, strict=True)]
    assert batch.num_segments == sum(len(list(groupby(row))) for row in parts)
    assert batch.has_branches is any(map(any, branches))
    num_tokens = sum(document != PADDING_DOCUMENT for row in documents for document in row)
    assert batch.num_tokens == num_tokens


def test_rows_end_to_end_are_one_row_of_a_round_length():
    rows = [[ready(0, 4, 2), ready(1, 9, 2)], [], [ready(2, 6, 1)]]
    layout = RowLayout(is_end_to_end=True, multiple=16)
    batch = collate_micro_batch(
        rows, pad_token_id=PAD, image_token_id=IMAGE, is_features=True, layout=layout
    )
    padding = [PADDING_DOCUMENT] * 13
    assert batch.document_ids_BT.tolist() == [[1] * 4 + [2] * 9 + [3] * 6 + padding]
    assert batch.document_starts.tolist() == [0, 4, 13, 19, 32]
    expected = collate_micro_batch(rows, pad_token_id=PAD, image_token_id=IMAGE, is_features=True)
    for name in ("input_ids_BT", "labels_BT", "position_ids_BT"):
        padded_BT = getattr(expected, name)
        kept = padded_BT[expected.document_ids_BT != PADDING_DOCUMENT]
        assert getattr(batch, name)[0, :19].tolist() == kept.tolist()
    assert batch.samples == expected.samples
    check_counts(batch)
    nothing = collate_micro_batch(
        [[]], pad_token_id=PAD, image_token_id=IMAGE, is_features=True, layout=layout
    )
    assert nothing.input_ids_BT.tolist() == [[PAD] * 16]
    check_counts(nothing)


def test_gpus_get_one_row_and_other_devices_padded_ones():
    assert row_layout(AttentionKind.AUTO, is_gpu=False) == PADDED_ROWS
    assert row_layout(AttentionKind.MASK, is_gpu=True) == RowLayout(multiple=128)
    for kind in (AttentionKind.AUTO, AttentionKind.VARLEN, AttentionKind.FLEX):
        assert row_layout(kind, is_gpu=True) == RowLayout(is_end_to_end=True, multiple=128)


def test_positions_of_branches_restart_after_the_shared_prefix():
    branches = np.array([0, 0, 1, 1, 1, 2, 2])
    batch = collate_micro_batch(
        [[ready(0, 2, 1), ready(1, 7, 4, branches=branches)]],
        pad_token_id=PAD,
        image_token_id=IMAGE,
        is_features=True,
    )
    assert batch.position_ids_BT.tolist() == [[0, 1, 0, 1, 2, 3, 4, 2, 3]]
    assert batch.branch_ids_BT.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2]]
    assert batch.document_ids_BT.tolist() == [[1, 1, 2, 2, 2, 2, 2, 2, 2]]
    assert batch.num_segments == 4
    check_counts(batch)


def test_images_follow_their_placeholders():
    images = {i: torch.full((2, 4), float(i)) for i in (0, 2, 3)}
    rows = [[ready(0, 4, 2, images[0]), ready(1, 4, 2)], [ready(2, 4, 2, images[2])], []]
    rows[2] = [ready(3, 4, 2, images[3])]
    batch = collate_micro_batch(rows, pad_token_id=PAD, image_token_id=IMAGE, is_features=True)
    assert batch.pixels_NCHW is None
    assert batch.features_NPE[:, 0, 0].tolist() == [0.0, 2.0, 3.0]
    assert batch.num_images == 3
    pixels = collate_micro_batch(
        [[ready(0, 4, 2, torch.zeros(3, 2, 2))]],
        pad_token_id=PAD,
        image_token_id=IMAGE,
        is_features=False,
    )
    assert pixels.features_NPE is None
    assert pixels.pixels_NCHW.shape == (1, 3, 2, 2)


def test_without_samples_there_is_one_padding_position():
    for rows in ([], [[], []]):
        batch = collate_micro_batch(rows, pad_token_id=PAD, image_token_id=IMAGE, is_features=True)
        assert batch.input_ids_BT.tolist() == [[PAD]]
        assert batch.labels_BT.tolist() == [[IGNORE_INDEX]]
        assert batch.document_ids_BT.tolist() == [[PADDING_DOCUMENT]]
        assert batch.num_images == 0
        assert batch.samples == ()
        check_counts(batch)
