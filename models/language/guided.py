"""Guided decoding: rows of a batch whose reply must be one of a few given ones."""

from collections.abc import Iterable, Sequence

import torch

from core.errors import DataError

_Node = dict[int, "_Node"]


class GuidedReplies:
    """Tracks, for every row of a batch, which tokens continue one of its allowed replies."""

    def __init__(self, allowed: Sequence[Sequence[Sequence[int]]], end_token_id: int) -> None:
        """Start decoding.

        Args:
            allowed: Token ids of the allowed replies of every row, without the end token; empty for
                a row without restrictions.
            end_token_id: Token that ends a reply.

        Raises:
            DataError: If an allowed reply has no tokens.
        """
        self._nodes = [
            _build_trie(replies, end_token_id) if replies else None for replies in allowed
        ]

    def restrict(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Return the logits with -inf for every token that continues no allowed reply."""
        blocked_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
        for row, node in enumerate(self._nodes):
            if node:
                blocked_BV[row] = True
                blocked_BV[row, list(node)] = False
        return logits_BV.masked_fill(blocked_BV, -torch.inf)

    def advance(self, next_B: torch.Tensor) -> None:
        """Follow the tokens that were chosen; ended rows are not restricted any more."""
        for row, token_id in enumerate(next_B.tolist()):
            node = self._nodes[row]
            if node:
                self._nodes[row] = node[token_id]


def _build_trie(replies: Iterable[Sequence[int]], end_token_id: int) -> _Node:
    root: _Node = {}
    for reply in replies:
        if not len(reply):
            raise DataError("an allowed reply has no tokens")
        node = root
        for token_id in (*reply, end_token_id):
            node = node.setdefault(int(token_id), {})
    return root
