"""A ready-made vision-language model behind the interface of training."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from core.samples import MicroBatch
from models.language.attention import AttentionKind
from models.loss import LossSum, summed_cross_entropy
from models.ready_made.model_class import ModelPart, ReadyMadeClass


class ReadyMadeVlm(nn.Module):
    """A model of transformers, trained on packed rows through its own forward pass.

    Packed documents are separated by the mask and positions that the forward pass of every
    supported class accepts; tests prove that loss and gradients equal those of single documents.
    """

    has_trainable_tower = True

    def __init__(self, stock: PreTrainedModel, rules: ReadyMadeClass) -> None:
        super().__init__()
        self.stock = stock
        self.rules = rules
        self.attention = AttentionKind.MASK
        """Attention kernel for packed rows; a stage sets it when it builds the model."""
        self.loss_chunk = 0
        """Number of loss tokens whose logits exist at once; 0 means all."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def language_model(self) -> PreTrainedModel:
        """The whole model, whose decoder and output layer are those of the language model."""
        return self.stock

    def named_parts(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Return the parameters of every part by their name in this module."""
        parts: dict[str, dict[str, nn.Parameter]] = {part.value: {} for part in ModelPart}
        for name, parameter in self.stock.named_parameters():
            parts[self.rules.part_of(name).value][f"stock.{name}"] = parameter
        return parts

    def forward(self, micro_batch: MicroBatch) -> LossSum:
        """Return the summed loss over the loss tokens of packed rows."""
        loss = summed_cross_entropy(
            self.hidden_states(micro_batch),
            micro_batch.labels_BT,
            micro_batch.loss_positions_K,
            self.stock.get_output_embeddings(),
            chunk=self.loss_chunk,
        )
        if not torch.is_grad_enabled():
            return loss
        return dataclasses.replace(loss, loss_sum=loss.loss_sum + self._idle_vision())

    def hidden_states(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the last hidden states (B, T, D); documents do not attend to each other."""
        embeddings = self.stock.get_input_embeddings()
        dtype = embeddings.weight.dtype
        positions = micro_batch.rotary_positions_ABT
        hidden_BTD: torch.Tensor = self.stock.base_model(
            input_ids=micro_batch.input_ids_BT,
            position_ids=micro_batch.position_ids_BT if positions is None else positions,
            use_cache=False,
            **self.rules.attention_inputs(micro_batch, self.attention, dtype),
            **micro_batch.image_inputs,
        ).last_hidden_state
        return hidden_BTD

    def _idle_vision(self) -> torch.Tensor:
        """Return a zero whose graph contains every trained parameter of the vision parts.

        A text-only micro-batch does not use them, and some classes leave out the last layer of
        their encoder, but data-parallel training needs the gradient of every parameter on every
        rank.
        """
        parts = self.named_parts()
        vision = [*parts[ModelPart.TOWER].values(), *parts[ModelPart.CONNECTOR].values()]
        trained = [parameter for parameter in vision if parameter.requires_grad]
        zero = torch.zeros((), device=self.device)
        for parameter in trained:
            zero = zero + 0.0 * parameter.sum().float()
        return zero
