"""Batched greedy decoding with left padding and a key-value cache.

Padding is masked exactly and positions are counted from each prompt's first token, so that a
prediction does not depend on the rest of its batch (up to rounding of matrix products). A common
beginning of several prompts is computed once, and its keys and values are copied to each of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from models.language.guided import GuidedReplies
from models.language.key_value_cache import preallocate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GenerationLimits:
    """Limits and special tokens of decoding."""

    max_new_tokens: int
    end_token_id: int
    pad_token_id: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EmbeddedPrompts:
    """Embeddings of B prompts; each is one of H heads and its own tail, both left-padded."""

    heads_HPD: torch.Tensor
    is_head_HP: torch.Tensor
    """bool: True for tokens, False for padding."""
    head_of_B: torch.Tensor
    """Index of every prompt's head."""
    tails_BTD: torch.Tensor
    is_tail_BT: torch.Tensor
    head_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further arguments of the decoder for the heads, of connectors that work inside it."""
    tail_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    next_arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Those for one new token of every prompt."""


@torch.no_grad()
def greedy_decode(
    language_model: nn.Module,
    prompts: EmbeddedPrompts,
    limits: GenerationLimits,
    guide: GuidedReplies | None = None,
) -> list[list[int]]:
    """Return the new token ids of every prompt, without the end token.

    Args:
        language_model: The language model.
        prompts: The prompts.
        limits: Limits and special tokens.
        guide: Restricts replies to given ones; None if every reply is free.
    """
    decoder, output_layer = decoder_and_output_layer(language_model)
    cache = DynamicCache(config=language_model.config)
    key_mask_BS, inputs = start_tails(decoder, prompts, cache)
    next_position_B1 = inputs["position_ids"][:, -1:] + 1
    finished_B = torch.zeros_like(prompts.is_tail_BT[:, 0])
    new_ids: list[torch.Tensor] = []
    for step in range(limits.max_new_tokens):
        states_BTD = decoder(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
        if step == 0:  # the cache now holds the prompts; all later tokens go behind them
            preallocate(cache, limits.max_new_tokens - 1)
        logits_BV = output_layer(states_BTD[:, -1])
        next_B = (guide.restrict(logits_BV) if guide else logits_BV).argmax(dim=-1)
        next_B = next_B.masked_fill(finished_B, limits.end_token_id)
        if guide:
            guide.advance(next_B)
        new_ids.append(next_B)
        finished_B = finished_B | (next_B == limits.end_token_id)
        if bool(finished_B.all()):
            break
        key_mask_BS = torch.cat([key_mask_BS, torch.ones_like(key_mask_BS[:, :1])], dim=1)
        inputs = {
            "input_ids": next_B[:, None],
            "position_ids": next_position_B1,
            "attention_mask": key_mask_BS[:, None, None, :],
            **prompts.next_arguments,
        }
        next_position_B1 = next_position_B1 + 1
    return _truncate_at_end(new_ids, limits.end_token_id)


def start_tails(
    decoder: nn.Module, prompts: EmbeddedPrompts, cache: DynamicCache
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute the heads of prompts, and prepare their tails.

    Args:
        decoder: Computes hidden states.
        prompts: The prompts.
        cache: An empty cache, which receives the keys and values of every prompt's head.

    Returns:
        The mask of tokens of heads and tails (B, P + T), and the inputs of the decoder with which
        it computes the tails.
    """
    is_head_BP = _prefill_heads(decoder, prompts, cache)
    key_mask_BS = torch.cat([is_head_BP, prompts.is_tail_BT], dim=1)
    tail_mask_B1TT = prompt_mask(prompts.is_tail_BT)
    num_tail = tail_mask_B1TT.shape[-1]
    head_mask_B1TP = is_head_BP[:, None, None, :].expand(-1, 1, num_tail, -1)
    return key_mask_BS, {
        "inputs_embeds": prompts.tails_BTD,
        "position_ids": positions_of(key_mask_BS)[:, -num_tail:],
        "attention_mask": torch.cat([head_mask_B1TP, tail_mask_B1TT], dim=-1),
        **prompts.tail_arguments,
    }


def _prefill_heads(
    decoder: nn.Module, prompts: EmbeddedPrompts, cache: DynamicCache
) -> torch.Tensor:
    """Fill the cache with each prompt's head; return the mask of token keys (B, P)."""
    if prompts.heads_HPD.shape[1]:
        decoder(
            inputs_embeds=prompts.heads_HPD,
            position_ids=positions_of(prompts.is_head_HP),
            attention_mask=prompt_mask(prompts.is_head_HP),
            past_key_values=cache,
            use_cache=True,
            **prompts.head_arguments,
        )
        cache.batch_select_indices(prompts.head_of_B)
    return prompts.is_head_HP[prompts.head_of_B]


def positions_of(is_token_BT: torch.Tensor) -> torch.Tensor:
    """Return positions counted from every row's first token."""
    return (is_token_BT.long().cumsum(dim=1) - 1).clamp(min=0)


def prompt_mask(is_token_BT: torch.Tensor) -> torch.Tensor:
    """Return the boolean causal mask (B, 1, T, T) over tokens; padding attends only to itself.

    Some attention kernels return NaN for a query that attends to nothing.
    """
    num_tokens = is_token_BT.shape[1]
    square = torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=is_token_BT.device)
    causal_TT = square.tril()
    self_TT = torch.eye(num_tokens, dtype=torch.bool, device=is_token_BT.device)
    return ((is_token_BT[:, None, :] & causal_TT) | self_TT)[:, None]


def decoder_and_output_layer(language_model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the decoder, which computes hidden states, and the output layer."""
    return language_model.get_decoder(), language_model.get_output_embeddings()  # type: ignore[operator]


def _truncate_at_end(new_ids: list[torch.Tensor], end_token_id: int) -> list[list[int]]:
    if not new_ids:
        return []
    rows: list[list[int]] = torch.stack(new_ids, dim=1).tolist()
    return [row[: row.index(end_token_id)] if end_token_id in row else row for row in rows]
