"""Who translates: a Marian-style model by CTranslate2, or a language model behind an endpoint."""

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from core.config import fingerprint
from core.errors import ConfigError
from core.io.endpoint import CutOffError, Endpoint, EndpointConfig
from core.io.files import sha256_file
from data_prep.prepare import segments
from data_prep.prepare.prompts import TranslationPrompt
from data_prep.prepare.quality import CUT_OFF

_EXTRA_TOKENS = 64
_WORD = "\u2581"
"""Begins a word's first token in SentencePiece."""


class Backend(StrEnum):
    """Who translates what is not published already."""

    NONE = "none"
    """Nobody: sources without a published translation are an error."""
    CTRANSLATE2 = "ctranslate2"
    ENDPOINT = "endpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslateConfig:
    """How texts are translated."""

    backend: Backend = Backend.NONE
    model: str = ""
    """Folder of a CTranslate2 model with `source.spm` and `target.spm` beside it
    (ct2-transformers-converter --model HiTZ/mt-hitz-en-eu --copy_files source.spm target.spm)."""
    source_prefix: str = ""
    """A token before every text, for models of several languages (`>>eus<<`)."""
    beam_size: int = 4
    batch_tokens: int = 4096
    max_tokens: int = 512
    """Of one sentence, for ctranslate2."""
    device: str = "auto"
    """cpu, cuda or auto."""
    threads: int = 1
    """CPU threads of a task."""
    endpoint: EndpointConfig | None = None
    max_reply_tokens: int = 4096
    """Of one text, for an endpoint; a translation that is cut off is none."""
    concurrency: int = 16
    """Requests at a time, of one task."""
    context_turns: int = 4
    """Earlier turns of a conversation that an endpoint is shown, with their translations."""
    block: int = 256
    """Items translated together: sorted by length into batches; the step of progress."""
    again: bool = False
    """Translate also what others have translated and published."""
    tokens_per_s: float = 500.0
    """Assumed by the plan before anything was measured."""

    def __post_init__(self) -> None:
        """Check that the chosen one can work."""
        if self.backend is Backend.CTRANSLATE2 and not self.model:
            raise ConfigError("translate: backend ctranslate2 needs translate.model=FOLDER")
        if self.backend is Backend.ENDPOINT and self.endpoint is None:
            raise ConfigError("translate: backend endpoint needs translate.endpoint.url and .model")
        if min(self.beam_size, self.batch_tokens, self.max_tokens, self.block) < 1:
            raise ConfigError("translate: beam_size, batch_tokens, max_tokens, block: at least 1")


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A text, and (source, translation) of what was said before it."""

    text: str
    context: tuple[tuple[str, str], ...] = ()


class Translator(Protocol):
    """A back end."""

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Indices that are translated together and kept together."""

    def translate(self, requests: Sequence[Request]) -> list[str]:
        """Their translations, in order."""

    def costs(self) -> dict[str, float]:
        """Tokens and money so far."""


def identity_of(config: TranslateConfig, prompt: TranslationPrompt) -> str:
    """Changes when translations may change: what a translation is remembered by."""
    if config.backend is Backend.CTRANSLATE2:
        files = [sha256_file(path) for path in _files_of(config)]
        return fingerprint([*files, config.source_prefix, config.beam_size, config.max_tokens])
    model = config.endpoint.model if config.endpoint else ""
    settings = [config.max_reply_tokens, config.context_turns]
    return fingerprint([config.backend, model, dataclasses.asdict(prompt), *settings])


def _files_of(config: TranslateConfig) -> list[Path]:
    needed = [
        Path(config.model) / name
        for name in ("model.bin", "config.json", "source.spm", "target.spm")
    ]
    if missing := [str(path) for path in needed if not path.is_file()]:
        raise ConfigError(f"translate.model: no {', '.join(missing)}; see --help")
    return needed


def make_translator(config: TranslateConfig, prompt: TranslationPrompt) -> Translator:
    """The configured back end.

    Raises:
        ConfigError: it is not there.
    """
    if config.backend is Backend.CTRANSLATE2:
        return MarianTranslator(config)
    if config.backend is Backend.ENDPOINT:
        return EndpointTranslator(config, prompt)
    raise ConfigError(
        "nothing translates: set translate.backend to ctranslate2 or endpoint (--help tells how), "
        "or name a published translation in the source's file"
    )


class MarianTranslator:
    """Sentence by sentence, with what is no language left as it is; no context."""

    def __init__(self, config: TranslateConfig) -> None:
        try:
            import ctranslate2  # heavy, and only one of the back ends
            import sentencepiece
        except ImportError as error:
            raise ConfigError("ctranslate2 is not installed: pip install '.[prepare]'") from error
        _, _, *pieces = _files_of(config)
        self._source, self._target = (
            sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in pieces
        )
        self._config = config
        # Models converted from transformers expect the end of a text to be said by the caller.
        about = json.loads((Path(config.model) / "config.json").read_text(encoding="utf-8"))
        self._end = [] if about.get("add_source_eos") else [about.get("eos_token", "</s>")]
        self._model = ctranslate2.Translator(
            config.model, device=config.device, inter_threads=1, intra_threads=config.threads
        )
        self._tokens = 0.0

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """By length, up to so many tokens."""
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
        """Every sentence of every text in one batch."""
        pieces = [segments.split(request.text) for request in requests]
        wanted = [text for split in pieces for text, is_language in split if is_language]
        done = iter(self._sentences(wanted))
        found = [
            "".join(next(done) if is_language else text for text, is_language in split)
            for split in pieces
        ]
        return [CUT_OFF if CUT_OFF in text else text for text in found]

    def _sentences(self, texts: list[str]) -> list[str]:
        """Longer ones than the model takes go in pieces of whole words: nothing is cut off."""
        chunks = [_chunks(self._source.encode(x, out_type=str), self._room()) for x in texts]
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
                f"{self._config.model} can't translate ({error}); if it takes shorter texts, set "
                f"translate.max_tokens below {self._config.max_tokens}"
            ) from error
        self._tokens += sum(map(len, tokens))
        done = iter([self._text(result.hypotheses[0]) for result in results])
        return [" ".join(next(done) for _ in own) for own in chunks]

    def _text(self, tokens: list[str]) -> str:
        """A translation that filled all the room it had was cut off."""
        return self._target.decode(tokens) if len(tokens) < self._config.max_tokens else CUT_OFF

    def _room(self) -> int:
        """Tokens of a text beside a prefix and an end."""
        return max(1, self._config.max_tokens - 2)

    def costs(self) -> dict[str, float]:
        """Tokens read."""
        return {"tokens_in": self._tokens}


def _chunks(tokens: list[str], most: int) -> list[list[str]]:
    """At most so many tokens each, parted before a word where that is possible."""
    chunks: list[list[str]] = []
    while len(tokens) > most:
        words = [at for at in range(1, most + 1) if tokens[at].startswith(_WORD)]
        end = words[-1] if words else most
        chunks.append(tokens[:end])
        tokens = tokens[end:]
    return [*chunks, tokens]


class EndpointTranslator:
    """One request per text, shown what was said before and how it was translated."""

    def __init__(self, config: TranslateConfig, prompt: TranslationPrompt) -> None:
        assert config.endpoint is not None
        self._config, self._prompt = config, prompt
        self._endpoint = Endpoint(config.endpoint, None)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """As many as are asked at a time; what is in flight when a task dies is asked again."""
        size = self._config.concurrency
        return [
            list(range(start, min(start + size, len(requests))))
            for start in range(0, len(requests), size)
        ]

    def translate(self, requests: Sequence[Request]) -> list[str]:
        """All at a time."""
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            return list(pool.map(self._ask, requests))

    def _ask(self, request: Request) -> str:
        context = request.context[-self._config.context_turns :] if request.context else ()
        messages: list[dict[str, Any]] = [{"role": "system", "content": self._prompt.system}]
        for source, translation in (*self._prompt.examples, *context):
            messages.append({"role": "user", "content": source})
            messages.append({"role": "assistant", "content": translation})
        messages.append({"role": "user", "content": request.text})
        # A token per character is plenty in any language: a longer reply repeats itself.
        most = min(self._config.max_reply_tokens, len(request.text) + _EXTRA_TOKENS)
        try:
            reply = self._endpoint.complete(messages, max_tokens=most, refuse_cut=True)
        except CutOffError:
            return CUT_OFF
        return _unwrapped(reply, request.text)

    def costs(self) -> dict[str, float]:
        """Tokens and money, as the endpoint bills them."""
        bill = self._endpoint.bill
        return {
            "tokens_in": float(bill.tokens_in),
            "tokens_out": float(bill.tokens_out),
            "money": bill.cost,
            "requests": float(bill.asked),
        }


def _unwrapped(reply: str, source: str) -> str:
    """Without quotation marks around everything, which the source has not."""
    text = reply.strip()
    for opening, closing in ('""', "\u201c\u201d", "\u00ab\u00bb"):
        wrapped = len(text) > 1 and text.startswith(opening) and text.endswith(closing)
        if wrapped and not source.strip().startswith(opening):
            return text[1:-1].strip()
    return text
