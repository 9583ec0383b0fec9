"""The vision-language model: tower (or cached features) -> connector -> language model.

Shape legend: core/samples.py.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from core.errors import ConfigError, DataError
from core.samples import MicroBatch
from models.connector import Connector
from models.fusion import fuse
from models.language.attention import AttentionKind, attention_inputs
from models.language.generation import EmbeddedPrompts, GenerationLimits, greedy_decode, parts_of
from models.language.language_model import check_language_model
from models.language.shared_prompts import Prompt, arrange, left_padded, make_prompt, split
from models.loss import LossSum, summed_cross_entropy
from models.towers.vision_tower import VisionTower

_FEATURE_DIMS = 2
"""A prompt's image with two dimensions is features (P, E), with three pixels (C, H, W)."""


class VisionLanguageModel(nn.Module):
    """Composes the three parts; knows nothing of training, files or text."""

    def __init__(
        self,
        tower: VisionTower | None,
        connector: Connector,
        language_model: PreTrainedModel,
        *,
        image_token_id: int,
    ) -> None:
        """Compose; `tower=None` is for runs on cached features.

        Raises:
            ConfigError: widths or vocabulary don't fit together.
        """
        super().__init__()
        check_language_model(language_model)
        if tower is not None and tower.width != connector.vision_width:
            widths = tower.width, connector.vision_width
            raise ConfigError(
                f"the tower gives {widths[0]} numbers, the connector takes {widths[1]}"
            )
        vocabulary = language_model.get_input_embeddings().num_embeddings
        if not 0 <= image_token_id < vocabulary:
            raise ConfigError(f"image token {image_token_id} outside a vocabulary of {vocabulary}")
        self.tower = tower
        self.connector = connector
        self.language_model = language_model
        self.image_token_id = image_token_id
        self.attention = AttentionKind.MASK
        """How packed rows are attended; a stage sets it when it is built."""
        self.loss_chunk = 0
        """Target positions whose logits exist at once; 0 = all."""

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, micro_batch: MicroBatch) -> LossSum:
        """Summed loss over the targets of packed rows."""
        hidden_BTD = self.hidden_states(micro_batch)
        output_layer = parts_of(self.language_model)[1]
        return summed_cross_entropy(
            hidden_BTD, micro_batch.labels_BT, output_layer, chunk=self.loss_chunk
        )

    def logits(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Logits of shape (B, T, V) at every position; for tests and analysis."""
        logits_BTV: torch.Tensor = parts_of(self.language_model)[1](self.hidden_states(micro_batch))
        return logits_BTV

    def hidden_states(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Last hidden states of shape (B, T, D); documents of a row don't see each other.

        NOTE: the mask is explicit and the cache is off on purpose. Hugging Face derives a packed
        mask from positions only when neither mask nor cache is given; with an all-ones mask or
        the default cache, documents silently attend to each other.
        """
        images = self._images(micro_batch)
        embeds_BTD = self.embed(micro_batch.input_ids_BT, images)
        hidden_BTD: torch.Tensor = parts_of(self.language_model)[0](
            inputs_embeds=embeds_BTD,
            position_ids=micro_batch.position_ids_BT,
            use_cache=False,
            **attention_inputs(micro_batch, self.attention, embeds_BTD.dtype),
        ).last_hidden_state
        return hidden_BTD

    def embed(self, input_ids_BT: torch.Tensor, features_NPE: torch.Tensor | None) -> torch.Tensor:
        """Token embeddings with the projected features in their placeholders."""
        embeds_BTD: torch.Tensor = self.language_model.get_input_embeddings()(input_ids_BT)
        if features_NPE is not None:
            # Sharded parameters compute in another type than they are kept in.
            projected_NPD = self.connector(features_NPE.to(next(self.connector.parameters()).dtype))
            return fuse(embeds_BTD, projected_NPD, input_ids_BT, self.image_token_id)
        if bool((input_ids_BT == self.image_token_id).any()):
            number = int((input_ids_BT == self.image_token_id).sum())
            raise DataError(f"{number} placeholders in the tokens, 0 images in the batch")
        if torch.is_grad_enabled():
            embeds_BTD = embeds_BTD + self._idle_connector(embeds_BTD.dtype)
        return embeds_BTD

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        images: Sequence[torch.Tensor | None],
        *,
        max_new_tokens: int,
        end_token_id: int,
        pad_token_id: int,
        batch_size: int,
    ) -> list[list[int]]:
        """Greedy answers in the order of the prompts, without the end token.

        Args:
            prompts: ids (int64, shape (T,)) with placeholders.
            images: per prompt None, cached features (P, E) or pixels (C, H, W).
            max_new_tokens: longest answer.
            end_token_id: the token that ends an answer.
            pad_token_id: what fills the left of short prompts.
            batch_size: prompts per batch; predictions do not depend on it. Those of a batch that
                bring the same tensor as image and the same words before it share that part,
                where it is long enough.

        Raises:
            DataError: prompts and images don't pair up.
        """
        if len(prompts) != len(images):
            raise DataError(f"{len(prompts)} prompts but {len(images)} images (None counts)")
        limits = GenerationLimits(
            max_new_tokens=max_new_tokens, end_token_id=end_token_id, pad_token_id=pad_token_id
        )
        images = self._seen_once(images, batch_size)
        made = [
            make_prompt(prompt, image, self.image_token_id)
            for prompt, image in zip(prompts, images, strict=True)
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        for batch in arrange(made, batch_size):
            rows = self._generate_batch([prompt for _, prompt in batch], limits)
            for (index, _), row in zip(batch, rows, strict=True):
                answers[index] = row
        return answers

    @torch.no_grad()
    def _generate_batch(
        self, prompts: Sequence[Prompt], limits: GenerationLimits
    ) -> list[list[int]]:
        batch = split(prompts)
        heads_HPD, is_head_HP = self._embed_rows(batch.heads, batch.head_images, limits)
        tails_BTD, is_tail_BT = self._embed_rows(batch.tails, batch.tail_images, limits)
        embedded = EmbeddedPrompts(
            heads_HPD=heads_HPD,
            is_head_HP=is_head_HP,
            head_of_B=torch.tensor(batch.head_of, device=self.device),
            tails_BTD=tails_BTD,
            is_tail_BT=is_tail_BT,
        )
        return greedy_decode(self.language_model, embedded, limits)

    def _embed_rows(
        self,
        rows: Sequence[np.ndarray],
        images: Sequence[torch.Tensor | None],
        limits: GenerationLimits,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded embeddings (B, T, D) and which of them are tokens (B, T)."""
        ids, is_token = left_padded(rows, limits.pad_token_id)
        input_ids_BT = torch.from_numpy(ids).to(self.device)
        embeds_BTD = self.embed(input_ids_BT, self._stack(images))
        return embeds_BTD, torch.from_numpy(is_token).to(self.device)

    @torch.no_grad()
    def _seen_once(
        self, images: Sequence[torch.Tensor | None], batch_size: int
    ) -> list[torch.Tensor | None]:
        """Features in the place of pixels: an image with several questions is looked at once."""
        pixels = {
            id(image): image for image in images if image is not None and image.ndim > _FEATURE_DIMS
        }
        features: dict[int, torch.Tensor] = {}
        keys = list(pixels)
        for start in range(0, len(keys), batch_size):
            part = keys[start : start + batch_size]
            stacked_NCHW = torch.stack([pixels[key] for key in part]).to(self.device)
            features |= zip(part, self._see(stacked_NCHW), strict=True)
        return [None if image is None else features.get(id(image), image) for image in images]

    def _stack(self, images: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """Features (N, P, E) of the images of a batch, in order."""
        present = [image.to(self.device).float() for image in images if image is not None]
        return torch.stack(present) if present else None

    def _images(self, micro_batch: MicroBatch) -> torch.Tensor | None:
        """Cached features when the batch has them, else the tower's."""
        if micro_batch.num_images == 0:
            return None
        if micro_batch.features_NPE is not None:
            return micro_batch.features_NPE
        return None if micro_batch.pixels_NCHW is None else self._see(micro_batch.pixels_NCHW)

    def _see(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        if self.tower is None:
            count = pixels_NCHW.shape[0]
            raise ConfigError(f"{count} images came as pixels, but this model has no tower")
        features_NPE: torch.Tensor = self.tower(pixels_NCHW)
        return features_NPE

    def _idle_connector(self, dtype: torch.dtype) -> torch.Tensor:
        """Zero, with every connector parameter in its graph.

        A text-only micro-batch uses no connector; data-parallel training waits for the gradient
        of every parameter on every rank (DDP raises, FSDP hangs), so it takes part with weight 0.
        """
        weight = next(self.connector.parameters())
        shape = (1, 1, self.connector.vision_width)
        features_NPE = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        zero: torch.Tensor = 0.0 * self.connector(features_NPE).sum().to(dtype)
        return zero
