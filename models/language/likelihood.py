"""Log-likelihood of given replies, to score the options of closed questions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from models.language.generation import EmbeddedPrompts, decoder_and_output_layer, start_tails


@torch.no_grad()
def reply_log_likelihoods(
    language_model: nn.Module, conversations: EmbeddedPrompts, replies: Sequence[np.ndarray]
) -> list[float]:
    """Return the log-likelihood (nats) of the reply at the end of every conversation.

    Args:
        language_model: The language model, in evaluation mode.
        conversations: Conversations whose tails end with a token of the prompt and the reply.
        replies: Token ids of every reply.
    """
    decoder, output_layer = decoder_and_output_layer(language_model)
    cache = DynamicCache(config=language_model.config)
    _, inputs = start_tails(decoder, conversations, cache)
    hidden_BTD = decoder(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
    likelihoods = []
    # Left padding aligns the ends, and the state before a token predicts it. Logits exist for one
    # row at a time: those of all rows would take gigabytes with a large vocabulary.
    for hidden_TD, reply in zip(hidden_BTD, replies, strict=True):
        logits_RV = output_layer(hidden_TD[-len(reply) - 1 : -1]).float()
        ids_R1 = torch.as_tensor(reply, device=logits_RV.device)[:, None]
        likelihoods.append(logits_RV.log_softmax(dim=-1).gather(1, ids_R1).sum())
    found: list[float] = torch.stack(likelihoods).tolist()
    return found
