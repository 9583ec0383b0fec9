"""A ready-made model and its micro-batch on fake tensors."""

import dataclasses

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from core.errors import ConfigError
from core.samples import MicroBatch
from datamodules.batches.collate import ReadySample, collate_micro_batch
from models.accounting.compiled_block import partition_blocks
from models.accounting.fake_model import fill_with_fakes
from models.accounting.ready_made_shapes import empty_shaped_ready_made
from models.language.attention import AttentionKind
from models.language.blocks import checkpoint_activations
from models.ready_made.classes.qwen_vl import QwenVl
from models.ready_made.model import ReadyMadeVlm
from models.ready_made.model_class import ReadyMadeClass
from planner.encoding import ASSUMED_IMAGE_SIZE
from planner.trace.fake_model import fake_document
from planner.training_fields import TrainingFields
from planner.workload import Load

_TEXT_TOKEN = 0
_CHANNELS = 3


def fake_ready_made(
    stage: TrainingFields, mode: FakeTensorMode, *, num_blocks: int
) -> ReadyMadeVlm:
    """Build the model of a stage, in the order of its real assembly.

    Args:
        stage: Training stage of a ready-made model.
        mode: Mode of the fake tensors.
        num_blocks: Number of decoder blocks to keep.

    Raises:
        ConfigError: If the model is no ready-made one, or its shape is unknown.
    """
    if stage.model.ready_made is None:
        raise ConfigError("the model is not a ready-made one")
    model = empty_shaped_ready_made(stage.model.ready_made)
    fill_with_fakes(
        model,
        mode,
        num_blocks=num_blocks,
        tuning=stage.tuning,
        policy=stage.policy,
        precision=stage.precision,
    )
    model.attention = AttentionKind.MASK
    model.loss_chunk = stage.compute.loss_chunk
    checkpoint_activations(model.language_model, every=stage.compute.checkpoint_blocks)
    if stage.compute.compile_blocks:
        partition_blocks(model.language_model)
    return model.train()


def fake_ready_micro_batch(
    stage: TrainingFields, rules: ReadyMadeClass, load: Load, mode: FakeTensorMode
) -> MicroBatch:
    """Build a full micro-batch with the mean numbers of images and loss tokens of a stage.

    Pixels are fake; token ids, positions and sizes of images are real.

    Raises:
        ConfigError: If the class can't be traced.
    """
    source, row_tokens = stage.model.ready_made, stage.stream.row_tokens
    if source is None:
        raise ConfigError("the model is not a ready-made one")
    limits = {"min_pixels": source.min_pixels, "max_pixels": source.max_pixels}
    image = blank_image(rules, ASSUMED_IMAGE_SIZE, **limits)
    num_image_tokens = rules.count_image_tokens(ASSUMED_IMAGE_SIZE, **limits)
    num_rows = max(1, stage.stream.micro_batch_tokens // row_tokens)
    per_row = max(1, round(row_tokens / max(load.document_tokens, 1.0)))
    shares = load.num_images / load.num_tokens, load.num_loss_tokens / load.num_tokens
    num_images, num_loss_tokens = (round(num_rows * row_tokens * share) for share in shares)
    image_token = int(rules.config.image_token_id)
    documents = [
        _with_positions(
            fake_document(
                length=row_tokens // per_row,
                image=image if index < num_images else None,
                num_image_tokens=num_image_tokens,
                num_loss_tokens=round(num_loss_tokens / (num_rows * per_row)),
                tokens=(_TEXT_TOKEN, image_token),
            ),
            rules,
        )
        for index in range(num_rows * per_row)
    ]
    micro_batch = collate_micro_batch(
        [documents[start : start + per_row] for start in range(0, len(documents), per_row)],
        pad_token_id=_TEXT_TOKEN,
        image_token_id=image_token,
        is_features=False,
        join_images=rules.join_images,
    )
    inputs = {
        name: mode.from_tensor(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in micro_batch.image_inputs.items()
    }
    return dataclasses.replace(micro_batch, image_inputs=inputs)


def blank_image(
    rules: ReadyMadeClass,
    size: tuple[int, int],
    *,
    min_pixels: int | None,
    max_pixels: int | None,
) -> dict[str, torch.Tensor]:
    """Return what the forward pass takes for an image of some width and height, without pixels.

    The grid of patches has the number of cells of the image and about its shape: memory depends on
    their number alone.

    Raises:
        ConfigError: If the class is not a Qwen-VL.
    """
    if not isinstance(rules, QwenVl):
        raise ConfigError(
            f"the memory of {rules.config.model_type} models can't be traced; leave out "
            "--trace-memory"
        )
    cells = rules.count_image_tokens(size, min_pixels=min_pixels, max_pixels=max_pixels)
    shape = size[0] / size[1]
    divisors = (number for number in range(1, cells + 1) if cells % number == 0)
    columns = min(divisors, key=lambda number: abs(number * number / cells - shape))
    vision, merge = rules.config.vision_config, rules.config.vision_config.spatial_merge_size
    num_values = _CHANNELS * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.empty(cells * merge**2, num_values),
        "image_grid_thw": torch.tensor([[1, cells // columns * merge, columns * merge]]),
    }


def vision_encoder(model: ReadyMadeVlm) -> nn.Module:
    """Return the module that turns pixels into features."""
    encoder: nn.Module = model.stock.get_submodule(model.rules.tower[0].rstrip("."))
    return encoder


def _with_positions(document: ReadySample, rules: ReadyMadeClass) -> ReadySample:
    """Add the positions of multimodal rotary embeddings to a document."""
    if not rules.has_rotary_axes:
        return document
    image = document.image if isinstance(document.image, dict) else {}
    geometry = {
        name: np.asarray(value) for name, value in image.items() if not value.is_floating_point()
    }
    positions = rules.rotary_positions(document.encoded.input_ids_T, geometry)
    encoded = dataclasses.replace(document.encoded, rotary_positions_AT=positions)
    return dataclasses.replace(document, encoded=encoded)
