"""Log-likelihood of given replies, to score the options of closed questions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from models.language.generation import decoder_and_output_layer, positions_of, prompt_mask


@torch.no_grad()
def reply_log_likelihoods(
    language_model: nn.Module,
    embeds_BTD: torch.Tensor,
    is_token_BT: torch.Tensor,
    replies: Sequence[np.ndarray],
) -> list[float]:
    """Return the log-likelihood (nats) of the reply at the end of every row.

    Args:
        language_model: The language model, in evaluation mode.
        embeds_BTD: Embeddings of the conversations with their replies, left-padded.
        is_token_BT: bool; False for padding.
        replies: Token ids of every reply, which are the last ones of its row.
    """
    decoder, output_layer = decoder_and_output_layer(language_model)
    hidden_BTD = decoder(
        inputs_embeds=embeds_BTD,
        position_ids=positions_of(is_token_BT),
        attention_mask=prompt_mask(is_token_BT),
        use_cache=False,
    ).last_hidden_state
    likelihoods = []
    # Left padding aligns the ends, and the state before a token predicts it. Logits exist for one
    # row at a time: those of all rows would take gigabytes with a large vocabulary.
    for hidden_TD, reply in zip(hidden_BTD, replies, strict=True):
        logits_RV = output_layer(hidden_TD[-len(reply) - 1 : -1]).float()
        ids_R1 = torch.as_tensor(reply, device=logits_RV.device)[:, None]
        likelihoods.append(logits_RV.log_softmax(dim=-1).gather(1, ids_R1).sum())
    found: list[float] = torch.stack(likelihoods).tolist()
    return found
