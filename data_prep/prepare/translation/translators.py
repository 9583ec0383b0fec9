"""Translation back ends: Marian-style models in CTranslate2, or a language model endpoint."""

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from core.config import fingerprint
from core.errors import ConfigError
from core.io.endpoint import Endpoint, EndpointConfig, TruncatedReplyError
from core.io.files import sha256_file
from core.io.reading import reading
from data_prep.prepare.translation import segments
from data_prep.prepare.translation.prompts import TranslationPrompt
from data_prep.prepare.translation.quality import CUT_OFF

_EXTRA_TOKENS = 64
_WORD_START = "\u2581"
"""Prefix of the first token of a word in SentencePiece."""


class Backend(StrEnum):
    """Back end that translates sources without a published translation."""

    NONE = "none"
    """No translation: sources without a published translation are an error."""
    CTRANSLATE2 = "ctranslate2"
    ENDPOINT = "endpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslateConfig:
    """Settings of the translation."""

    backend: Backend = Backend.NONE
    model: str = ""
    """Folder of a CTranslate2 model that also holds `source.spm` and `target.spm`
    (ct2-transformers-converter --model HiTZ/mt-hitz-en-eu --copy_files source.spm target.spm)."""
    source_prefix: str = ""
    """Token before every text, for multilingual models (`>>eus<<`)."""
    beam_size: int = 4
    batch_tokens: int = 4096
    """Maximum number of tokens per batch, for ctranslate2."""
    max_tokens: int = 512
    """Maximum number of tokens of a sentence, for ctranslate2."""
    device: str = "auto"
    """cpu, cuda or auto."""
    threads: int = 1
    """CPU threads per task."""
    endpoint: EndpointConfig | None = None
    max_reply_tokens: int = 4096
    """Maximum number of tokens of a reply of the endpoint; truncated translations are dropped."""
    concurrency: int = 16
    """Concurrent requests per task."""
    context_turns: int = 4
    """Earlier turns of a conversation that the endpoint sees, with their translations."""
    block: int = 256
    """Items that are translated together and sorted by length into batches."""
    again: bool = False
    """Translate even if there is a published translation."""
    tokens_per_s: float = 500.0
    """Translation speed that the plan assumes; it is not measured."""

    def __post_init__(self) -> None:
        """Validate the settings of the chosen back end."""
        if self.backend is Backend.CTRANSLATE2 and not self.model:
            raise ConfigError("translate: backend ctranslate2 needs translate.model=FOLDER")
        if self.backend is Backend.ENDPOINT and self.endpoint is None:
            raise ConfigError("translate: backend endpoint needs translate.endpoint.url and .model")
        if min(self.beam_size, self.batch_tokens, self.max_tokens, self.block) < 1:
            raise ConfigError(
                f"translate: beam_size {self.beam_size}, batch_tokens {self.batch_tokens}, "
                f"max_tokens {self.max_tokens}, block {self.block}; set each to at least 1"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A text to translate, and the (source, translation) pairs of the turns before it."""

    text: str
    context: tuple[tuple[str, str], ...] = ()


class Translator(Protocol):
    """Interface of a translation back end."""

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Group the indices of the requests into batches that are translated and saved together."""

    def translate(self, requests: Sequence[Request]) -> list[str]:
        """Return the translations of the requests in order."""

    def costs(self) -> dict[str, float]:
        """Return the tokens and money spent so far."""


def identity_of(config: TranslateConfig, prompt: TranslationPrompt) -> str:
    """Return a fingerprint of everything that affects translations; it is part of cache keys."""
    if config.backend is Backend.CTRANSLATE2:
        files = [sha256_file(path) for path in _model_files(config)]
        return fingerprint([*files, config.source_prefix, config.beam_size, config.max_tokens])
    model = config.endpoint.model if config.endpoint else ""
    settings = [config.max_reply_tokens, config.context_turns]
    return fingerprint([config.backend, model, dataclasses.asdict(prompt), *settings])


def _model_files(config: TranslateConfig) -> list[Path]:
    needed = [
        Path(config.model) / name
        for name in ("model.bin", "config.json", "source.spm", "target.spm")
    ]
    if missing := [str(path) for path in needed if not path.is_file()]:
        raise ConfigError(
            f"translate.model: missing files {', '.join(missing)}; --help shows how to convert a "
            "model"
        )
    return needed


def make_translator(config: TranslateConfig, prompt: TranslationPrompt) -> Translator:
    """Create the configured back end.

    Raises:
        ConfigError: If no back end is configured, or its packages or files are missing.
    """
    if config.backend is Backend.CTRANSLATE2:
        return MarianTranslator(config)
    if config.backend is Backend.ENDPOINT:
        return EndpointTranslator(config, prompt)
    raise ConfigError(
        f"translate.backend is '{config.backend}'; set it to ctranslate2 or endpoint (see --help), "
        "or name a published translation in the source's file"
    )


class MarianTranslator:
    """CTranslate2 back end; it translates sentence by sentence without context.

    Parts that are not language, such as code and markup, are copied.
    """

    def __init__(self, config: TranslateConfig) -> None:
        try:
            import ctranslate2  # slow to import, and only this back end needs it
            import sentencepiece
        except ImportError as error:
            raise ConfigError("ctranslate2 is not installed: pip install '.[prepare]'") from error
        _, _, *pieces = _model_files(config)
        fix = "convert the model again (see --help)"
        with reading(config.model, fix=fix, error_class=ConfigError):
            self._source, self._target = (
                sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in pieces
            )
        self._config = config
        # Models converted from transformers expect the caller to add the end-of-sequence token.
        with reading(config.model, fix=fix, error_class=ConfigError):
            settings = (Path(config.model) / "config.json").read_text(encoding="utf-8")
            model_config = json.loads(settings)
            adds_eos = model_config.get("add_source_eos")
            self._end = [] if adds_eos else [model_config.get("eos_token", "</s>")]
            self._model = ctranslate2.Translator(
                config.model, device=config.device, inter_threads=1, intra_threads=config.threads
            )
        self._tokens = 0.0

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Group requests of similar length up to `batch_tokens` tokens."""
        order = sorted(range(len(requests)), key=lambda at: (len(requests[at].text), at))
        found: list[list[int]] = []
        size = 0
        for at in order:
            length = max(1, len(requests[at].text) // 3)
            if not found or size + length > self._config.batch_tokens:
                found.append([])
                size = 0
            found[-1].append(at)
            size += length
        return found

    def translate(self, requests: Sequence[Request]) -> list[str]:
        """Translate the sentences of all texts in one call."""
        pieces = [segments.split(request.text) for request in requests]
        wanted = [text for split in pieces for text, is_language in split if is_language]
        done = iter(self._translate_sentences(wanted))
        found = [
            "".join(next(done) if is_language else text for text, is_language in split)
            for split in pieces
        ]
        return [CUT_OFF if CUT_OFF in text else text for text in found]

    def _translate_sentences(self, texts: list[str]) -> list[str]:
        """Translate sentences; those longer than the model's limit are split between words."""
        chunks = [
            _split_tokens(self._source.encode(text, out_type=str), self._max_chunk_tokens())
            for text in texts
        ]
        prefix = [self._config.source_prefix] if self._config.source_prefix else []
        tokens = [[*prefix, *chunk, *self._end] for own in chunks for chunk in own]
        if not tokens:
            return []
        try:
            results = self._model.translate_batch(
                tokens,
                beam_size=self._config.beam_size,
                max_batch_size=self._config.batch_tokens,
                batch_type="tokens",
                max_input_length=0,
                max_decoding_length=self._config.max_tokens,
            )
        except RuntimeError as error:
            raise ConfigError(
                f"{self._config.model} failed to translate ({error}); if its maximum length is "
                f"shorter, set translate.max_tokens below {self._config.max_tokens}"
            ) from error
        self._tokens += sum(map(len, tokens))
        done = iter([self._decode(result.hypotheses[0]) for result in results])
        return [" ".join(next(done) for _ in own) for own in chunks]

    def _decode(self, tokens: list[str]) -> str:
        """Decode a translation; one that reached `max_tokens` was truncated."""
        return self._target.decode(tokens) if len(tokens) < self._config.max_tokens else CUT_OFF

    def _max_chunk_tokens(self) -> int:
        """Return the tokens that remain for the text after the prefix and the end token."""
        return max(1, self._config.max_tokens - 2)

    def costs(self) -> dict[str, float]:
        """Return the number of tokens read."""
        return {"tokens_in": self._tokens}


def _split_tokens(tokens: list[str], max_tokens: int) -> list[list[str]]:
    """Split a long sentence into chunks of at most `max_tokens`, between words if possible."""
    chunks: list[list[str]] = []
    while len(tokens) > max_tokens:
        words = [at for at in range(1, max_tokens + 1) if tokens[at].startswith(_WORD_START)]
        end = words[-1] if words else max_tokens
        chunks.append(tokens[:end])
        tokens = tokens[end:]
    return [*chunks, tokens]


class EndpointTranslator:
    """Endpoint back end; one request per text, with the earlier turns and their translations."""

    def __init__(self, config: TranslateConfig, prompt: TranslationPrompt) -> None:
        assert config.endpoint is not None
        self._config, self._prompt = config, prompt
        self._endpoint = Endpoint(config.endpoint, None)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Group the requests that run concurrently; a batch is repeated if the task is killed."""
        size = self._config.concurrency
        return [
            list(range(start, min(start + size, len(requests))))
            for start in range(0, len(requests), size)
        ]

    def translate(self, requests: Sequence[Request]) -> list[str]:
        """Send the requests concurrently."""
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            return list(pool.map(self._translate_one, requests))

    def _translate_one(self, request: Request) -> str:
        context = request.context[-self._config.context_turns :] if request.context else ()
        messages: list[dict[str, Any]] = [{"role": "system", "content": self._prompt.system}]
        for source, translation in (*self._prompt.examples, *context):
            messages.append({"role": "user", "content": source})
            messages.append({"role": "assistant", "content": translation})
        messages.append({"role": "user", "content": request.text})
        # One token per character is enough in any language; a longer reply repeats itself.
        max_tokens = min(self._config.max_reply_tokens, len(request.text) + _EXTRA_TOKENS)
        try:
            reply = self._endpoint.complete(messages, max_tokens=max_tokens, reject_truncated=True)
        except TruncatedReplyError:
            return CUT_OFF
        return _strip_added_quotes(reply, request.text)

    def costs(self) -> dict[str, float]:
        """Return the tokens and money that the endpoint reports."""
        bill = self._endpoint.bill
        return {
            "tokens_in": float(bill.tokens_in),
            "tokens_out": float(bill.tokens_out),
            "money": bill.cost,
            "requests": float(bill.asked),
        }


def _strip_added_quotes(reply: str, source: str) -> str:
    """Remove quotation marks around the whole reply if the source has none."""
    text = reply.strip()
    for opening, closing in ('""', "\u201c\u201d", "\u00ab\u00bb"):
        wrapped = len(text) > 1 and text.startswith(opening) and text.endswith(closing)
        if wrapped and not source.strip().startswith(opening):
            return text[1:-1].strip()
    return text
