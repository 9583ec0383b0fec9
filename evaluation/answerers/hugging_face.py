"""Any checkpoint that transformers calls image-text-to-text as an answerer: LLaVA-class models.

Prompts are rendered by the checkpoint's own chat template, images by its own processor, so that
a stranger's model is asked as its authors meant it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.chat.tokens import IMAGE_MARK
from core.errors import CheckpointError, ConfigError
from core.io.hub import explain, hub_arguments
from core.samples import Turn
from evaluation.answerers.vlm import Reply
from models.towers.image_transform import decode_image

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HfAnswerer:
    """Greedy answers of a Hugging Face checkpoint; also the chat format its prompts need."""

    def __init__(
        self,
        source: str,
        *,
        revision: str = "",
        dtype: str = "float32",
        device: str = "cpu",
        max_new_tokens: int = 32,
        batch_size: int = 8,
    ) -> None:
        """Load a checkpoint.

        Args:
            source: folder, or name on the hub.
            revision: of a name on the hub.
            dtype: float32, bfloat16 or float16.
            device: where it computes.
            max_new_tokens: longest answer.
            batch_size: prompts at once.

        Raises:
            ConfigError: a hub name without revision, or no chat template.
            CheckpointError: nothing there, or weights that would stay random.
        """
        arguments = hub_arguments(source, revision, kind="model")
        try:
            self._model, self._processor = _load(source, _TYPES[dtype], arguments)
        except (OSError, ValueError) as error:
            reason = explain(error, source, revision)
            raise CheckpointError(f"model '{source}' can't be loaded: {reason}") from error
        if not getattr(self._processor, "chat_template", None):
            raise ConfigError(f"model '{source}' has no chat template; add chat_template.jinja")
        self._model.eval().to(device)
        self._processor.tokenizer.padding_side = "left"
        self._device, self._limit, self._batch = device, max_new_tokens, batch_size

    def encode_prompt(self, turns: Sequence[Turn]) -> np.ndarray:
        """A key of the prompt (its text as bytes); the ids are made with the image."""
        messages = [{"role": turn.role.value, "content": _parts(turn.content)} for turn in turns]
        text: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    @torch.no_grad()
    def answers(self, prompts: Sequence[np.ndarray], images: Sequence[bytes]) -> list[Reply]:
        """One reply per prompt and encoded image, in their order."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), self._batch):
            chosen = order[start : start + self._batch]
            texts = [bytes(prompts[i].astype(np.uint8)).decode("utf-8") for i in chosen]
            decoded = [decode_image(images[i]) for i in chosen]
            replies |= zip(chosen, self._answer(texts, decoded), strict=True)
        return [replies[index] for index in range(len(prompts))]

    def _answer(self, texts: list[str], images: list[Image.Image]) -> list[Reply]:
        inputs = self._processor(
            images=images, text=texts, add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        ids_BT = self._model.generate(**inputs, max_new_tokens=self._limit, do_sample=False)
        new_BT = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._reply(ids) for ids in new_BT]

    def _reply(self, ids: list[int]) -> Reply:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        length = next((at for at, one in enumerate(ids) if one in ends), len(ids))
        text = self._processor.decode(
            ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Reply(text=text.strip(), num_tokens=length, is_truncated=length >= self._limit)


def _load(source: str, dtype: torch.dtype, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, output_loading_info=True, trust_remote_code=False, **arguments
    )
    if random := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise CheckpointError(
            f"model '{source}': {len(random)} weights are not in its files, e.g. {random[0]}; they "
            "would stay random"
        )
    processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False, **arguments)
    # CLIP's own way to resize; transformers' default may be a grey level off.
    processor.image_processor = AutoImageProcessor.from_pretrained(
        source, backend="pil", trust_remote_code=False, **arguments
    )
    return model, processor


def _parts(content: str) -> list[dict[str, str]] | str:
    """Our mark of the image as the list of parts that chat templates take."""
    if IMAGE_MARK not in content:
        return [{"type": "text", "text": content}]
    before, _, after = content.partition(IMAGE_MARK)
    parts: list[dict[str, str]] = [{"type": "image"}]
    if text := (before + after).strip("\n"):
        parts.append({"type": "text", "text": text})
    return parts
