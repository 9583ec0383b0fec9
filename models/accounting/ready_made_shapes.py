"""Shapes and counts of ready-made models, without weights and network access."""

import logging
from pathlib import Path
from typing import Any

from transformers import Qwen3VLConfig

from core.errors import CheckpointError, ConfigError, unknown_name
from models.accounting.footprint import Footprint
from models.accounting.shapes import block_linears
from models.language.adapters import TuningConfig, TuningKind
from models.language.blocks import decoder_blocks
from models.language.generation import decoder_and_output_layer
from models.ready_made.loading import ReadyMadeSource, empty_ready_made, load_shape
from models.ready_made.model import ReadyMadeVlm
from models.ready_made.model_class import ModelPart

_BYTES_PER_PIXEL = 12
"""Three channels in float32."""
_KEPT_WIDTHS, _KEPT_INNER = 10, 3
"""Values that a block of a trained vision encoder keeps for a patch: multiples of its width and of
its inner width (norms, queries, keys, values, attention, activations)."""


def _qwen3_vl(
    hidden: int, inner: int, blocks: int, heads: int, *, is_tied: bool, is_large: bool = False
) -> dict[str, Any]:
    """Return the arguments of Qwen3VLConfig for a size of Qwen3-VL."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    return {
        "tie_word_embeddings": is_tied,
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": blocks,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 262144,
            "rope_parameters": {**rope, "mrope_interleaved": True},
        },
        "vision_config": {
            "hidden_size": 1152 if is_large else 1024,
            "intermediate_size": 4304 if is_large else 4096,
            "depth": 27 if is_large else 24,
            "num_heads": 16,
            "patch_size": 16,
            "out_hidden_size": hidden,
            "deepstack_visual_indexes": [8, 16, 24] if is_large else [5, 11, 17],
        },
    }


QWEN3_VL_SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-VL-2B-Instruct": _qwen3_vl(2048, 6144, 28, 16, is_tied=True),
    "Qwen3-VL-4B-Instruct": _qwen3_vl(2560, 9728, 36, 32, is_tied=True),
    "Qwen3-VL-8B-Instruct": _qwen3_vl(4096, 12288, 36, 32, is_tied=False, is_large=True),
}
"""Last part of a hub name -> arguments of Qwen3VLConfig (config.json of the model)."""


def ready_made_shape(source: ReadyMadeSource) -> Any:
    """Return the configuration of a model from its folder, the hub cache or the table.

    Raises:
        ConfigError: If the shape is unknown.
        CheckpointError: If the configuration in the folder is damaged.
    """
    if Path(source.path, "config.json").is_file():
        return load_shape(source, is_local=True)
    name = Path(source.path).name
    if name in QWEN3_VL_SHAPES:
        return Qwen3VLConfig(**QWEN3_VL_SHAPES[name])
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return load_shape(source, is_local=True)
    except CheckpointError as error:
        fix = (
            f"'{source.path}' has no local config.json either; download the model, or add its "
            "shape to models/accounting/ready_made_shapes.py"
        )
        raise ConfigError(unknown_name("model shape", name, QWEN3_VL_SHAPES, fix=fix)) from error
    finally:
        logging.disable(threshold)


def empty_shaped_ready_made(source: ReadyMadeSource) -> ReadyMadeVlm:
    """Build a model on the meta device.

    Raises:
        ConfigError, CheckpointError: See `ready_made_shape`.
    """
    return empty_ready_made(ready_made_shape(source), source.path)


def ready_made_footprint(
    model: ReadyMadeVlm, tuning: TuningConfig, *, num_image_tokens: int
) -> Footprint:
    """Count a model that is on the meta device.

    The operations of the vision encoder are those of its matrices; attention between patches is
    left out.

    Args:
        model: The model.
        tuning: Fine-tuning method.
        num_image_tokens: Visual tokens of an image.
    """
    stock: Any = model.stock
    config = stock.config.get_text_config()
    patch_size = stock.config.vision_config.patch_size
    side = patch_size if isinstance(patch_size, int) else patch_size[0]
    blocks, linears = decoder_blocks(stock), block_linears(stock)
    sizes = [linear.in_features + linear.out_features for linear in linears]
    counts = {
        part: sum(parameter.numel() for parameter in parameters.values())
        for part, parameters in model.named_parts().items()
    }
    output_layer: Any = decoder_and_output_layer(stock)[1]
    patches = num_image_tokens * model.rules.patches_per_token
    width, inner, depth = model.rules.vision_sizes
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Footprint(
        tower=counts[ModelPart.TOWER],
        connector=counts[ModelPart.CONNECTOR],
        language_model=counts[ModelPart.LANGUAGE_MODEL],
        quantisable=sum(linear.weight.numel() for linear in linears),
        adapters=tuning.rank * sum(sizes) if tuning.kind is not TuningKind.FULL else 0,
        block=sum(parameter.numel() for parameter in blocks[0].parameters()),
        num_blocks=len(blocks),
        output_layer=output_layer.weight.numel(),
        has_tied_embeddings=output_layer.weight is stock.get_input_embeddings().weight,
        hidden_size=config.hidden_size,
        inner_size=config.intermediate_size,
        cache_width=2 * config.num_key_value_heads * head_dim,
        vocab_size=config.vocab_size,
        num_image_tokens=num_image_tokens,
        num_features=num_image_tokens,
        connector_image_flops=2.0 * counts[ModelPart.CONNECTOR] * num_image_tokens,
        connector_token_flops=0.0,
        connector_token_values=0,
        image_flops=2.0 * counts[ModelPart.TOWER] * patches,
        image_bytes=_BYTES_PER_PIXEL * patches * side * side,
        image_kept=depth * patches * (_KEPT_WIDTHS * width + _KEPT_INNER * inner),
    )
