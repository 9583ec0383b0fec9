"""Chat formats and visual tokens of models of every family, without their weights."""

import logging
from functools import cache

from configuration.vlm_spec import VlmSpec
from core.chat.format import ChatFormat, load_tokenizer
from core.chat.ready_made import ReadyMadeChat
from core.chat.templates import TEMPLATES
from core.errors import CheckpointError, ConfigError
from models.accounting.ready_made_shapes import ready_made_shape
from models.ready_made.loading import load_chat
from models.ready_made.model_class import model_class

ASSUMED_IMAGE_SIZE = (640, 480)
"""Width and height of images that are not measured: the usual size in COCO."""


def load_chat_format(model: VlmSpec, *, is_local: bool = False) -> ChatFormat:
    """Return the chat format of a model.

    Args:
        model: The model.
        is_local: Do not ask the hub; a plan needs no network.

    Raises:
        ConfigError: If its tokenizer or processor can't be loaded.
    """
    if model.ready_made is not None:
        try:
            return load_chat(model.ready_made, is_local=is_local)
        except CheckpointError as error:  # the configuration is missing, as all else
            raise ConfigError(str(error)) from error
    language_model = model.language_model
    tokenizer = load_tokenizer(
        language_model.path, revision=language_model.revision, is_local=is_local
    )
    return ChatFormat(tokenizer, TEMPLATES[model.template], num_image_tokens=model.num_image_tokens)


@cache
def chat_of(model: VlmSpec) -> ChatFormat:
    """Return the chat format of a model without asking the hub.

    Raises:
        ConfigError: See `load_chat_format`.
    """
    return load_chat_format(model, is_local=True)


@cache
def has_chat(model: VlmSpec) -> bool:
    """Return whether the chat format of a model can be loaded without asking the hub."""
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        chat_of(model)
    except ConfigError:
        return False
    finally:
        logging.disable(threshold)
    return True


@cache
def image_tokens_of(model: VlmSpec) -> int:
    """Return the visual tokens of an image; ready-made models get `ASSUMED_IMAGE_SIZE`.

    Raises:
        ConfigError: If neither the processor nor the shape of a ready-made model is known.
    """
    if (source := model.ready_made) is None:
        return model.num_image_tokens
    if has_chat(model) and isinstance(chat := chat_of(model), ReadyMadeChat):
        return chat.count_image_tokens(ASSUMED_IMAGE_SIZE)
    rules = model_class(ready_made_shape(source), source.path)
    return rules.count_image_tokens(
        ASSUMED_IMAGE_SIZE, min_pixels=source.min_pixels, max_pixels=source.max_pixels
    )
