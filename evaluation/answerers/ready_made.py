"""Answerer for ready-made models that this project has trained."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from core.io.images import decode_image
from evaluation.answerers.base import ModelReply
from evaluation.answerers.cached import BATCHES_PER_SLICE
from evaluation.answerers.hugging_face import HuggingFaceAnswerer, LogitsRule, has_image
from evaluation.benchmarks.questions import VisualQuestion
from models.language.guided import GuidedReplies


class ReadyMadeAnswerer(HuggingFaceAnswerer):
    """Greedy decoding with a loaded model of transformers, as its class generates."""

    def __init__(
        self, model: Any, processor: Any, *, source: str, batch_size: int, end_token_id: int
    ) -> None:
        """Wrap a loaded model on its device.

        Args:
            model: Model of an image-text-to-text class.
            processor: Its processor, whose tokenizer pads on the left from now on.
            source: Where the model comes from, for messages.
            batch_size: Number of prompts per call of `generate`.
            end_token_id: Token with which the model was trained to end its replies.
        """
        self._model, self._processor = model, processor
        self._end_token_id = end_token_id
        self._prepare(source, device=str(model.device), batch_size=batch_size)
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        model.generation_config.eos_token_id = list(dict.fromkeys([*ends, end_token_id]))

    @property
    def slice_size(self) -> int:
        """Number of questions that are passed to the model in one call."""
        return self._batch_size * BATCHES_PER_SLICE

    def prefetch(self, questions: Sequence[VisualQuestion]) -> None:
        """Do nothing: the images of a batch are decoded when it is asked."""

    def answer(self, questions: Sequence[VisualQuestion]) -> list[ModelReply]:
        """Return one reply per question, in their order; see `HuggingFaceAnswerer`.

        A guided reply is never truncated: it ends behind the longest option at the latest.
        """
        return super().answer([self._with_room(question) for question in questions])

    def _with_room(self, question: VisualQuestion) -> VisualQuestion:
        longest = max(map(len, self._option_ids(question)), default=-1)
        limit = max(question.max_new_tokens, longest + 1)
        return dataclasses.replace(question, max_new_tokens=limit)

    def _restrictions(self, questions: Sequence[VisualQuestion]) -> list[LogitsRule]:
        allowed = [self._option_ids(question) for question in questions]
        return [_Guide(GuidedReplies(allowed, self._end_token_id))] if any(allowed) else []

    def _option_ids(self, question: VisualQuestion) -> list[list[int]]:
        """Return the token ids of the only allowed replies, as they continue the prompt."""
        if not question.options:
            return []
        prompt = self._render(question)
        texts = [prompt, *(prompt + option for option in question.options), *question.options]
        ids, *found = self._processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        whole, alone = found[: len(question.options)], found[len(question.options) :]
        return [
            one[len(ids) :] if one[: len(ids)] == ids else other
            for one, other in zip(whole, alone, strict=True)
        ]

    @torch.no_grad()
    def rate(self, pairs: Sequence[tuple[VisualQuestion, str]]) -> list[float]:
        """Return the log-likelihood (nats) of every reply to its question.

        Prompt and reply are tokenised as one text; a token that joins them belongs to the prompt.
        """
        questions = [question for question, _ in pairs]
        rates = [0.0] * len(pairs)
        for batch in self._batches(list(range(len(pairs))), questions):
            for at, rate in zip(batch, self._rate_batch([pairs[i] for i in batch]), strict=True):
                rates[at] = rate
        return rates

    def _rate_batch(self, pairs: Sequence[tuple[VisualQuestion, str]]) -> list[float]:
        prompts = [self._render(question) for question, _ in pairs]
        images = [[decode_image(question.image)] for question, _ in pairs if has_image(question)]
        texts = [prompt + reply for prompt, (_, reply) in zip(prompts, pairs, strict=True)]
        whole = self._encode_texts(texts, images).to(self._device)
        alone = self._encode_texts(prompts, images)
        lengths = [inputs["attention_mask"].sum(dim=1).tolist() for inputs in (whole, alone)]
        logits_BTV = self._model(**whole, use_cache=False).logits.float()
        log_p_BTV = functional.log_softmax(logits_BTV[:, :-1], dim=-1)
        chosen_BT = log_p_BTV.gather(2, whole["input_ids"][:, 1:, None])[..., 0]
        return [
            float(chosen_T[len(chosen_T) - (with_reply - prompt) :].sum())
            for chosen_T, with_reply, prompt in zip(chosen_BT, *lengths, strict=True)
        ]

    def _encode_texts(self, texts: list[str], images: list[list[Any]]) -> Any:
        begin = self._processor.tokenizer.bos_token
        return self._processor(
            text=texts,
            images=images or None,
            add_special_tokens=begin is None or not texts[0].startswith(begin),
            padding=True,
            return_tensors="pt",
        )


class _Guide:
    """Allows only the options of each row of a batch, in a call of `generate`."""

    def __init__(self, replies: GuidedReplies) -> None:
        self._replies, self._has_begun = replies, False

    def __call__(self, ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        if self._has_begun:
            self._replies.advance(ids_BT[:, -1])
        self._has_begun = True
        return self._replies.restrict(logits_BV)
