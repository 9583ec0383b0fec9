"""Answerer for image-text-to-text checkpoints in Hugging Face format (LLaVA-style models).

Prompts are rendered with the checkpoint's own chat template and images are preprocessed with its
own processor, so a third-party model is used as its authors intended.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from transformers import GenerationConfig

from core.chat.tokens import IMAGE_MARK
from core.errors import CheckpointError, ConfigError
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments
from core.io.images import decode_image
from core.process.log import get_logger
from core.samples import Role, Turn
from evaluation.answerers.base import ModelReply, group_by_limit
from evaluation.benchmarks.questions import VisualQuestion

_LOG = get_logger("evaluate")
_EXAMPLE = VisualQuestion(
    turns=(Turn(role=Role.USER, content=f"{IMAGE_MARK}\n?"),), image=b"", max_new_tokens=1
)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class HuggingFaceAnswerer:
    """Greedy decoding with a Hugging Face checkpoint."""

    def __init__(
        self,
        source: str,
        *,
        revision: str = "",
        dtype: str = "float32",
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        """Load a checkpoint.

        Args:
            source: Local folder or name on the Hugging Face Hub.
            revision: Revision of a checkpoint on the Hub.
            dtype: Data type of the weights: float32, bfloat16 or float16.
            device: Device of the model.
            batch_size: Number of prompts per call of `generate`.

        Raises:
            ConfigError: If a Hub name has no revision, or the checkpoint has no chat template.
            CheckpointError: If the checkpoint does not exist or lacks some of the weights.
        """
        arguments = hub_arguments(source, revision, kind="model")
        try:
            self._model, self._processor = _load_checkpoint(source, _DTYPES[dtype], arguments)
        except CheckpointError:
            raise
        except LOADING_ERRORS as error:
            reason = explain_hub_error(error, source, revision)
            raise CheckpointError(f"model '{source}' can't be loaded: {reason}") from error
        if not getattr(self._processor, "chat_template", None):
            raise ConfigError(f"model '{source}' has no chat template; add chat_template.jinja")
        self._source = source
        self._model.eval().to(device)
        _prepare_padding(self._processor.tokenizer, source)
        _make_greedy(self._model, self._processor.tokenizer)
        self._render(_EXAMPLE)
        self._device, self._batch_size = device, batch_size

    @torch.no_grad()
    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order.

        Prompts of similar length share a batch, which keeps the padding small.
        """
        prompts = [self._render(question) for question in questions]
        replies: dict[int, ModelReply] = {}
        for limit, positions in group_by_limit(questions).items():
            order = sorted(positions, key=lambda index: len(prompts[index].encode("utf-8")))
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                images = [decode_image(questions[index].image) for index in batch]
                generated = self._generate([prompts[index] for index in batch], images, limit)
                decoded = [self._decode(ids, limit) for ids in generated]
                replies |= zip(batch, decoded, strict=True)
        return [replies[index] for index in range(len(prompts))]

    def _render(self, question: VisualQuestion) -> str:
        messages = [
            {"role": turn.role.value, "content": _content_parts(turn.content)}
            for turn in question.turns
        ]
        try:
            prompt: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"the chat template of model '{self._source}' can't render a question about an "
                f"image ({type(error).__name__}: {error}); correct chat_template.jinja"
            ) from error
        return prompt

    def _generate(
        self, prompts: list[str], images: list[Image.Image], limit: int
    ) -> list[list[int]]:
        # As in transformers: the tokenizer adds BOS where the chat template does not.
        bos = self._processor.tokenizer.bos_token
        inputs = self._processor(
            images=images,
            text=prompts,
            add_special_tokens=bos is None or not prompts[0].startswith(bos),
            padding=True,
            return_tensors="pt",
        ).to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        ids_BT = self._model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        new_ids_BT: list[list[int]] = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
        return new_ids_BT

    def _decode(self, ids: list[int], limit: int) -> ModelReply:
        end_ids = self._model.generation_config.eos_token_id
        end_ids = set(end_ids if isinstance(end_ids, list) else [end_ids])
        length = next((at for at, token_id in enumerate(ids) if token_id in end_ids), len(ids))
        text = self._processor.decode(
            ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return ModelReply(text=text.strip(), num_tokens=length, is_truncated=length >= limit)


def _prepare_padding(tokenizer: Any, source: str) -> None:
    """Pad on the left; a tokenizer without a padding token pads with the masked end token."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(f"model '{source}' has neither a padding nor an end token; add one")
        tokenizer.pad_token = tokenizer.eos_token


def _make_greedy(model: Any, tokenizer: Any) -> None:
    """Keep only the special tokens of the checkpoint's generation settings, and report the rest.

    Beams and repetition penalties would make its answers incomparable with those of other models.
    """
    own = model.generation_config
    kept = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id")}
    if kept["eos_token_id"] is None:
        kept["eos_token_id"] = tokenizer.eos_token_id
    known = {*kept, "pad_token_id", "transformers_version", "_from_model_config", "use_cache"}
    overruled = {
        name: value
        for name, value in own.to_diff_dict().items()
        if name not in known and not name.startswith(("output_", "return_"))
    }
    if overruled:
        settings = ", ".join(f"{name}={value}" for name, value in sorted(overruled.items()))
        _LOG.warning("greedy decoding overrules the checkpoint's generation settings: %s", settings)
    model.generation_config = GenerationConfig(**kept, pad_token_id=tokenizer.pad_token_id)


def _load_checkpoint(source: str, dtype: torch.dtype, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, output_loading_info=True, trust_remote_code=False, **arguments
    )
    if missing := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise CheckpointError(
            f"model '{source}': {len(missing)} weights are missing from its files, e.g. "
            f"{missing[0]}, and would be initialised at random; use a complete checkpoint"
        )
    processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False, **arguments)
    # PIL resizes as CLIP does; the default backend of transformers may be off by one grey level.
    processor.image_processor = AutoImageProcessor.from_pretrained(
        source, backend="pil", trust_remote_code=False, **arguments
    )
    return model, processor


def _content_parts(content: str) -> list[dict[str, str]]:
    """Convert a turn's content to the list of image and text parts that chat templates expect."""
    if IMAGE_MARK not in content:
        return [{"type": "text", "text": content}]
    before, _, after = content.partition(IMAGE_MARK)
    parts: list[dict[str, str]] = [{"type": "image"}]
    if text := (before + after).strip("\n"):
        parts.append({"type": "text", "text": text})
    return parts
