"""Answerer for image-text-to-text checkpoints in Hugging Face format.

The checkpoint's own processor renders, tokenises and pads the prompts and preprocesses the images,
so a third-party model is used as its authors intended.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from transformers import BatchFeature, GenerationConfig

from core.chat.messages import to_messages
from core.chat.tokens import IMAGE_MARK
from core.errors import CheckpointError, ConfigError, IrudimenError
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments
from core.io.images import decode_image
from core.process.log import get_logger
from core.samples import Role, Turn
from evaluation.answerers.base import ModelReply, group_by_limit
from evaluation.benchmarks.questions import VisualQuestion

_LOG = get_logger("evaluate")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TEMPLATE_FILE = "chat_template.jinja"
_TEMPLATE_ERRORS: tuple[type[Exception], ...] = (Exception,)
"""A template is a program of its authors, which can raise any error."""
_EXAMPLE_SIZE = (64, 64)
LogitsRule: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps the ids (B, T) so far and the logits (B, V) of the next ones to other logits."""
_KEPT_TOKENS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
"""Generation settings of a checkpoint that say what its tokens mean, not how it decodes."""


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
        resizes_with_pil: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            source: Local folder or name on the Hugging Face Hub.
            revision: Revision of a checkpoint on the Hub.
            dtype: Data type of the weights: float32, bfloat16 or float16.
            device: Device of the model.
            batch_size: Number of prompts per call of `generate`.
            resizes_with_pil: Resize images with PIL, as exported cells were trained. The default
                backend of transformers may be off by one grey level.

        Raises:
            ConfigError: If a Hub name has no revision, or the checkpoint can't be asked about an
                image: it lacks a processor, a chat template or an image token.
            CheckpointError: If the checkpoint does not exist or lacks some of the weights.
        """
        arguments = hub_arguments(source, revision, kind="model")
        try:
            self._model = _load_model(source, _DTYPES[dtype], arguments)
            self._processor = _load_processor(source, arguments, uses_pil=resizes_with_pil)
        except IrudimenError:
            raise
        except LOADING_ERRORS as error:
            reason = explain_hub_error(error, source, revision)
            raise CheckpointError(f"model '{source}' can't be loaded: {reason}") from error
        self._prepare(source, device=device, batch_size=batch_size)

    def _prepare(self, source: str, *, device: str, batch_size: int) -> None:
        self._source, self._device, self._batch_size = source, device, batch_size
        _check_processor(self._processor, source)
        self._model.eval().to(device)
        _prepare_padding(self._processor.tokenizer, source)
        _make_greedy(self._model, self._processor.tokenizer)
        self._check_image_prompt()
        self._has_warned = False

    @torch.no_grad()
    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order.

        Prompts of similar length share a batch, which keeps the padding small. Questions without an
        image have batches of their own, because not every processor mixes the two.
        """
        lengths = [len(self._render(question).encode("utf-8")) for question in questions]
        replies: dict[int, ModelReply] = {}
        for limit, positions in group_by_limit(questions).items():
            order = sorted(positions, key=lengths.__getitem__)
            for batch in self._batches(order, questions):
                generated = self._generate([questions[index] for index in batch], limit)
                decoded = [self._decode(ids, limit) for ids in generated]
                replies |= zip(batch, decoded, strict=True)
        return [replies[index] for index in range(len(questions))]

    def count_reply_tokens(self, replies: Sequence[str]) -> list[int]:
        """Return the number of tokens that the model generates for each reply and its end token."""
        encoded = self._processor.tokenizer(list(replies), add_special_tokens=False)["input_ids"]
        return [len(ids) + 1 for ids in encoded]

    def prepare(self, questions: Sequence[VisualQuestion]) -> BatchFeature:
        """Return the model's inputs for a batch, as its processor makes them, padded on the left.

        Either all questions have an image or none has.

        Raises:
            ConfigError: If the processor can't combine a prompt with its image.
        """
        conversations = [
            to_messages(
                question.turns, decode_image(question.image) if has_image(question) else None
            )
            for question in questions
        ]
        return self._encode(conversations)

    def _encode(self, conversations: list[list[dict[str, Any]]]) -> BatchFeature:
        try:
            # The tokenizer adds BOS where the chat template does not, as in transformers.
            inputs: BatchFeature = self._processor.apply_chat_template(
                conversations,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        except _TEMPLATE_ERRORS as error:
            raise self._unusable_template(error) from error
        return inputs

    def _batches(self, order: list[int], questions: Sequence[VisualQuestion]) -> list[list[int]]:
        kinds = [[at for at in order if has_image(questions[at]) is kind] for kind in (True, False)]
        size = self._batch_size
        return [kind[at : at + size] for kind in kinds for at in range(0, len(kind), size)]

    def _render(self, question: VisualQuestion) -> str:
        image = Image.new("RGB", (1, 1)) if has_image(question) else None
        try:
            prompt: str = self._processor.apply_chat_template(
                to_messages(question.turns, image), add_generation_prompt=True
            )
        except _TEMPLATE_ERRORS as error:
            raise self._unusable_template(error) from error
        return prompt

    def _unusable_template(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"the chat template of model '{self._source}' can't render a question about an image "
            f"({type(error).__name__}: {error}); correct {_TEMPLATE_FILE}"
        )

    def _check_image_prompt(self) -> None:
        """Check that the image has a place in the prompt; otherwise the model would not see it.

        Raises:
            ConfigError: If it has none.
        """
        turn = Turn(role=Role.USER, content=f"{IMAGE_MARK}\n?")
        question = VisualQuestion(turns=(turn,), image=b"")
        inputs = self._encode([to_messages(question.turns, Image.new("RGB", _EXAMPLE_SIZE))])
        config = self._model.config
        token_id = getattr(config, "image_token_id", None)
        if token_id is None:
            raise ConfigError(
                f"config.json of model '{self._source}' has no image_token_id, so its prompts "
                "can't mark the position of the image; add the id of the processor's image token"
            )
        if token_id not in inputs["input_ids"][0].tolist():
            raise ConfigError(
                f"the chat template of model '{self._source}' has no placeholder for the image: "
                f"token {token_id} (image_token_id in config.json) does not occur in a prompt "
                f"with an image; correct {_TEMPLATE_FILE}"
            )

    def _generate(self, questions: Sequence[VisualQuestion], limit: int) -> list[list[int]]:
        inputs = self.prepare(questions).to(self._device, self._model.dtype)
        prompt_BT = inputs["input_ids"]
        num_prompt = prompt_BT.shape[1]
        self._warn_if_too_long(num_prompt, limit)
        try:
            ids_BT = self._model.generate(
                **inputs,
                max_new_tokens=limit,
                do_sample=False,
                logits_processor=[_check_finite, *self._restrictions(questions)],
            )
        except (IrudimenError, torch.OutOfMemoryError):
            raise
        # The code of a model raises anything if its settings do not fit its weights or the device.
        except Exception as error:
            raise CheckpointError(
                f"model '{self._source}' can't answer ({type(error).__name__}: {error}); compare "
                "its config.json with its weights and the device"
            ) from error
        # Encoder-decoder models, and those that pass embeddings, return the reply alone.
        repeats_prompt = torch.equal(ids_BT[:, :num_prompt], prompt_BT)
        new_ids_BT: list[list[int]] = ids_BT[:, num_prompt if repeats_prompt else 0 :].tolist()
        return new_ids_BT

    def _restrictions(self, questions: Sequence[VisualQuestion]) -> list[LogitsRule]:
        """Return rules that change the logits (B, V) of a batch; a checkpoint answers freely."""
        del questions
        return []

    def _warn_if_too_long(self, num_prompt: int, limit: int) -> None:
        context = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if self._has_warned or context is None or num_prompt + limit <= context:
            return
        self._has_warned = True
        _LOG.warning(
            "a prompt of %d tokens and a reply of up to %d exceed the %d positions of model '%s' "
            "(max_position_embeddings); replies beyond them are unreliable",
            *(num_prompt, limit, context, self._source),
        )

    def _decode(self, ids: list[int], limit: int) -> ModelReply:
        end_ids = self._model.generation_config.eos_token_id
        end_ids = set(end_ids if isinstance(end_ids, list) else [end_ids])
        length = next((at for at, token_id in enumerate(ids) if token_id in end_ids), len(ids))
        text = self._processor.decode(
            ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return ModelReply(text=text.strip(), num_tokens=length, is_truncated=length >= limit)


def _check_finite(_ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
    """Return the logits unchanged; a token that is chosen from others means nothing.

    Raises:
        CheckpointError: If the largest logit of a prompt is not finite.
    """
    if not torch.isfinite(logits_BV.amax(dim=-1)).all():
        raise CheckpointError(
            "the model's logits are not finite; its weights are damaged, or too large for the data "
            "type (--dtype)"
        )
    return logits_BV


def _check_processor(processor: Any, source: str) -> None:
    """Reject a checkpoint that can't be asked about an image.

    Raises:
        ConfigError: If it has no processor of text and images, or no usable chat template.
    """
    missing = [x for x in ("tokenizer", "image_processor") if getattr(processor, x, None) is None]
    if missing:
        raise ConfigError(
            f"model '{source}' has no processor for text and images ({missing[0]} is missing); add "
            "processor_config.json, preprocessor_config.json and the files of the tokenizer"
        )
    template = getattr(processor, "chat_template", None)
    if not template:
        found = getattr(processor.tokenizer, "chat_template", None)
        more = " (its tokenizer has one; copy it if it supports images)" if found else ""
        raise ConfigError(
            f"model '{source}' has no chat template{more}, so the prompt format of its "
            f"authors is unknown; add {_TEMPLATE_FILE} to its folder"
        )
    if isinstance(template, dict) and "default" not in template:
        raise ConfigError(
            f"model '{source}' has the chat templates {', '.join(sorted(template))} and none named "
            f"default; save the one to use as {_TEMPLATE_FILE}"
        )


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
    kept = {name: getattr(own, name) for name in _KEPT_TOKENS}
    if kept["eos_token_id"] is None:
        kept["eos_token_id"] = tokenizer.eos_token_id
    known = {*kept, "pad_token_id", "transformers_version", "_from_model_config", "use_cache"}
    overridden = {
        name: value
        for name, value in own.to_diff_dict().items()
        if name not in known and not name.startswith(("output_", "return_"))
    }
    if overridden:
        settings = ", ".join(f"{name}={value}" for name, value in sorted(overridden.items()))
        _LOG.warning("greedy decoding overrides the checkpoint's generation settings: %s", settings)
    model.generation_config = GenerationConfig(**kept, pad_token_id=tokenizer.pad_token_id)


def _load_model(source: str, dtype: torch.dtype, arguments: dict[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(
        source, dtype=dtype, output_loading_info=True, trust_remote_code=False, **arguments
    )
    if missing := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise CheckpointError(
            f"model '{source}': {len(missing)} weights are missing from its files, e.g. "
            f"{missing[0]}, and would be initialised at random; use a complete checkpoint"
        )
    return model


def _load_processor(source: str, arguments: dict[str, Any], *, uses_pil: bool) -> Any:
    from transformers import AutoImageProcessor, AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False, **arguments)
    template = Path(source) / _TEMPLATE_FILE
    if not getattr(processor, "chat_template", None) and template.is_file():
        processor.chat_template = template.read_text(encoding="utf-8")  # as BLIP-2 does not
    if uses_pil:
        processor.image_processor = AutoImageProcessor.from_pretrained(
            source, backend="pil", trust_remote_code=False, **arguments
        )
    return processor


def has_image(question: VisualQuestion) -> bool:
    """Return whether a question is about an image."""
    return any(IMAGE_MARK in turn.content for turn in question.turns)
