"""Vision-language model: tower (or cached features), connector and language model.

Shape legend: core/samples.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from core.errors import ConfigError, DataError
from core.samples import MicroBatch, find_placeholders
from models.connector import Connector
from models.image_layout import packed_layout, row_layout
from models.language.attention import AttentionKind, attention_inputs
from models.language.generation import (
    EmbeddedPrompts,
    GenerationLimits,
    decoder_and_output_layer,
    greedy_decode,
)
from models.language.guided import GuidedReplies
from models.language.language_model import check_language_model
from models.language.likelihood import reply_log_likelihoods
from models.language.shared_prompts import (
    Prompt,
    arrange_batches,
    left_padded,
    make_prompt,
    split_prompts,
)
from models.loss import LossSum, summed_cross_entropy
from models.towers.vision_tower import VisionTower

_FEATURE_DIMS = 2
"""Dimensions of an image given as features (P, E); pixels (C, H, W) have three."""


class VisionLanguageModel(nn.Module):
    """Composition of the three parts, independent of training, files and text."""

    has_trainable_tower = False

    def __init__(
        self,
        tower: VisionTower | None,
        connector: Connector,
        language_model: PreTrainedModel,
        *,
        image_token_id: int,
    ) -> None:
        """Compose the parts; `tower` is None for runs on cached features.

        Raises:
            ConfigError: If widths or vocabulary do not match.
        """
        super().__init__()
        check_language_model(language_model)
        if tower is not None and tower.width != connector.vision_width:
            widths = tower.width, connector.vision_width
            raise ConfigError(
                f"the tower's features have width {widths[0]}, the connector expects {widths[1]}"
            )
        vocabulary = language_model.get_input_embeddings().num_embeddings
        if not 0 <= image_token_id < vocabulary:
            raise ConfigError(
                f"image token {image_token_id} is outside the vocabulary of {vocabulary}"
            )
        connector.attach(language_model)
        self.tower = tower
        self.connector = connector
        self.language_model = language_model
        self.image_token_id = image_token_id
        self.attention = AttentionKind.MASK
        """Attention kernel for packed rows; a stage sets it when it builds the model."""
        self.loss_chunk = 0
        """Number of loss tokens whose logits exist at once; 0 means all."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def named_parts(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Return the parameters of every part by name."""
        parts = {
            "tower": self.tower,
            "connector": self.connector,
            "language_model": self.language_model,
        }
        return {
            name: dict(part.named_parameters()) for name, part in parts.items() if part is not None
        }

    def forward(self, micro_batch: MicroBatch) -> LossSum:
        """Return the summed loss over the loss tokens of packed rows."""
        hidden_BTD = self.hidden_states(micro_batch)
        output_layer = decoder_and_output_layer(self.language_model)[1]
        return summed_cross_entropy(
            hidden_BTD,
            micro_batch.labels_BT,
            micro_batch.loss_positions_K,
            output_layer,
            chunk=self.loss_chunk,
        )

    def logits(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the logits (B, T, V) at every position, for tests and analysis."""
        output_layer = decoder_and_output_layer(self.language_model)[1]
        logits_BTV: torch.Tensor = output_layer(self.hidden_states(micro_batch))
        return logits_BTV

    def hidden_states(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the last hidden states (B, T, D); documents do not attend to each other.

        NOTE: the mask must be explicit and the cache off. Hugging Face derives a packed mask from
        positions only if neither mask nor cache is given; with an all-ones mask or the default
        cache, documents silently attend to each other.
        """
        features_NPE = self._features(micro_batch)
        embeds_BTD = self.embed(
            micro_batch.input_ids_BT, features_NPE, micro_batch.image_positions_M
        )
        decoder: Any = decoder_and_output_layer(self.language_model)[0]
        hidden_BTD: torch.Tensor = decoder(
            inputs_embeds=embeds_BTD,
            position_ids=micro_batch.position_ids_BT,
            use_cache=False,
            **attention_inputs(micro_batch, self.attention, embeds_BTD.dtype, decoder.config),
            **self._packed_arguments(features_NPE, micro_batch),
        ).last_hidden_state
        return hidden_BTD

    def embed(
        self,
        input_ids_BT: torch.Tensor,
        features_NPE: torch.Tensor | None,
        image_positions_M: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the token embeddings, with the projected features in place of the placeholders.

        Args:
            input_ids_BT: Token ids with placeholders.
            features_NPE: Features of the images, in the order of their placeholders.
            image_positions_M: Positions of the placeholders; None searches for them in the ids.
        """
        if image_positions_M is None:
            image_positions_M = find_placeholders(input_ids_BT, self.image_token_id)
        embeds_BTD: torch.Tensor = self.language_model.get_input_embeddings()(input_ids_BT)
        if features_NPE is not None:
            return self.connector.embed_images(embeds_BTD, features_NPE, image_positions_M)
        if num_placeholders := image_positions_M.numel():
            raise DataError(f"{num_placeholders} placeholders in the tokens, 0 images in the batch")
        if torch.is_grad_enabled():
            # Otherwise the gradients of the connector would be missing on this rank.
            embeds_BTD = embeds_BTD + self.connector.idle().to(embeds_BTD.dtype)
        return embeds_BTD

    def generate(  # noqa: PLR0913 - all but the first two are keywords
        self,
        prompts: Sequence[np.ndarray],
        images: Sequence[torch.Tensor | None],
        *,
        max_new_tokens: int,
        end_token_id: int,
        pad_token_id: int,
        batch_size: int,
        allowed: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> list[list[int]]:
        """Decode answers greedily and return them in the order of the prompts.

        Args:
            prompts: Token ids (int64, shape (T,)) with placeholders.
            images: For each prompt None, cached features (P, E) or pixels (C, H, W).
            max_new_tokens: Maximum length of an answer.
            end_token_id: Token that ends an answer.
            pad_token_id: Token for the left padding.
            batch_size: Prompts per batch; predictions do not depend on it. Prompts of a batch with
                the same image tensor and the same text before it share that part if it is long
                enough.
            allowed: For each prompt the token ids of the only allowed answers, empty for a free
                answer; None if all are free.

        Returns:
            Token ids of each answer, without the end token.

        Raises:
            DataError: If the numbers of prompts and images differ.
        """
        if len(prompts) != len(images):
            raise DataError(
                f"{len(prompts)} prompts but {len(images)} images (None counts as an image)"
            )
        limits = GenerationLimits(
            max_new_tokens=max_new_tokens, end_token_id=end_token_id, pad_token_id=pad_token_id
        )
        images = self._encode_distinct_images(images, batch_size)
        shareable = [
            make_prompt(prompt, image, self.image_token_id)
            for prompt, image in zip(prompts, images, strict=True)
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        for batch in arrange_batches(shareable, batch_size):
            embedded = self._embed_batch([prompt for _, prompt in batch], pad_token_id)
            chosen = [allowed[index] for index, _ in batch] if allowed else []
            guide = GuidedReplies(chosen, end_token_id) if any(chosen) else None
            rows = greedy_decode(self.language_model, embedded, limits, guide)
            for (index, _), row in zip(batch, rows, strict=True):
                answers[index] = row
        return answers

    @torch.no_grad()
    def log_likelihoods(
        self,
        conversations: Sequence[tuple[np.ndarray, int]],
        images: Sequence[torch.Tensor | None],
        *,
        pad_token_id: int,
        batch_size: int,
    ) -> list[float]:
        """Return the log-likelihood (nats) of each conversation's reply given what precedes it.

        Args:
            conversations: Token ids (int64, shape (T,)) with placeholders, and the number of tokens
                at the end that are the reply.
            images: As in `generate`.
            pad_token_id: Token for the left padding.
            batch_size: Conversations per batch, which share their heads as in `generate`;
                likelihoods do not depend on it up to rounding.
        """
        images = self._encode_distinct_images(images, batch_size)
        shareable = [
            # The state before a reply predicts its first token, so it is not part of the head.
            make_prompt(ids, image, self.image_token_id, min_tail=num_reply + 1)
            for (ids, num_reply), image in zip(conversations, images, strict=True)
        ]
        found = [0.0] * len(conversations)
        for batch in arrange_batches(shareable, batch_size):
            embedded = self._embed_batch([prompt for _, prompt in batch], pad_token_id)
            replies = [prompt.ids[-conversations[at][1] :] for at, prompt in batch]
            likelihoods = reply_log_likelihoods(self.language_model, embedded, replies)
            for (at, _), likelihood in zip(batch, likelihoods, strict=True):
                found[at] = likelihood
        return found

    @torch.no_grad()
    def _embed_batch(self, prompts: Sequence[Prompt], pad_token_id: int) -> EmbeddedPrompts:
        batch = split_prompts(prompts)
        heads_HPD, is_head_HP, sees_HP = self._embed_rows(
            batch.heads, batch.head_images, pad_token_id
        )
        tails_BTD, is_tail_BT, sees_BT = self._embed_rows(
            batch.tails, batch.tail_images, pad_token_id
        )
        images = [prompt.image for prompt in prompts]
        head_images = [batch.head_images[head] for head in batch.head_of]
        is_after_B1 = torch.tensor([[image is not None] for image in head_images])
        has_image_B1 = torch.tensor([[image is not None] for image in images])
        sees_BT = sees_BT | is_after_B1.to(self.device)
        return EmbeddedPrompts(
            heads_HPD=heads_HPD,
            is_head_HP=is_head_HP,
            head_of_B=torch.tensor(batch.head_of, device=self.device),
            tails_BTD=tails_BTD,
            is_tail_BT=is_tail_BT,
            head_arguments=self._row_arguments(batch.head_images, sees_HP),
            tail_arguments=self._row_arguments(images, sees_BT),
            next_arguments=self._row_arguments(images, has_image_B1.to(self.device)),
        )

    def _embed_rows(
        self,
        rows: Sequence[np.ndarray],
        images: Sequence[torch.Tensor | None],
        pad_token_id: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the left-padded embeddings (B, T, D) and two masks (B, T).

        They are of the tokens, and of the first placeholder of a row and all positions after it.
        """
        ids, is_token = left_padded(rows, pad_token_id)
        input_ids_BT = torch.from_numpy(ids)
        positions_M = find_placeholders(input_ids_BT, self.image_token_id).to(self.device)
        embeds_BTD = self.embed(input_ids_BT.to(self.device), self._stack(images), positions_M)
        sees_BT = torch.from_numpy((ids == self.image_token_id).cumsum(axis=1) > 0)
        return embeds_BTD, torch.from_numpy(is_token).to(self.device), sees_BT.to(self.device)

    def _row_arguments(
        self, images: Sequence[torch.Tensor | None], sees_BT: torch.Tensor
    ) -> dict[str, Any]:
        """Return the connector's arguments of the decoder for rows with one image or none."""
        present = [image for image in images if image is not None]
        if not present or not self.connector.works_inside:
            return {}
        blank = torch.zeros_like(present[0])
        features_NPE = self._stack([blank if image is None else image for image in images])
        if features_NPE is None:
            return {}
        return self.connector.decoder_arguments(features_NPE, row_layout(sees_BT))

    def _packed_arguments(
        self, features_NPE: torch.Tensor | None, micro_batch: MicroBatch
    ) -> dict[str, Any]:
        """Return the connector's arguments of the decoder for packed rows."""
        if features_NPE is None or not self.connector.works_inside:
            return {}
        num_image_tokens = micro_batch.image_positions_M.numel() // features_NPE.shape[0]
        layout = packed_layout(micro_batch, num_image_tokens=num_image_tokens)
        return self.connector.decoder_arguments(features_NPE, layout)

    @torch.no_grad()
    def _encode_distinct_images(
        self, images: Sequence[torch.Tensor | None], batch_size: int
    ) -> list[torch.Tensor | None]:
        """Replace pixels by features; an image with several questions is encoded once."""
        pixels = {
            id(image): image for image in images if image is not None and image.ndim > _FEATURE_DIMS
        }
        features: dict[int, torch.Tensor] = {}
        keys = list(pixels)
        for start in range(0, len(keys), batch_size):
            part = keys[start : start + batch_size]
            stacked_NCHW = torch.stack([pixels[key] for key in part]).to(self.device)
            features |= zip(part, self._encode_pixels(stacked_NCHW), strict=True)
        return [None if image is None else features.get(id(image), image) for image in images]

    def _stack(self, images: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """Stack the features (N, P, E) of a batch, in order."""
        present = [image.to(self.device).float() for image in images if image is not None]
        return torch.stack(present) if present else None

    def _features(self, micro_batch: MicroBatch) -> torch.Tensor | None:
        """Return the cached features of a batch, or else compute them."""
        if micro_batch.num_images == 0:
            return None
        if micro_batch.features_NPE is not None:
            return micro_batch.features_NPE
        return (
            None
            if micro_batch.pixels_NCHW is None
            else self._encode_pixels(micro_batch.pixels_NCHW)
        )

    def _encode_pixels(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        if self.tower is None:
            count = pixels_NCHW.shape[0]
            raise ConfigError(
                f"{count} images are pixels, but this model has no tower to encode them"
            )
        features_NPE: torch.Tensor = self.tower(pixels_NCHW)
        return features_NPE
