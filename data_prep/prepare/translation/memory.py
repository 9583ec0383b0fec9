"""Cache of translations: an append-only file per task, so that no text is translated twice."""

from collections.abc import Callable, Sequence
from pathlib import Path

from core.config import fingerprint
from core.io.jsonl import append_jsonl, recover_jsonl
from data_prep.prepare.translation import segments
from data_prep.prepare.translation.translators import Request, Translator


class Memory:
    """Translator with a cache on disk; each batch is saved before the next one starts."""

    def __init__(
        self,
        path: Path,
        make: Callable[[], Translator],
        identity: str,
        words: dict[str, str],
    ) -> None:
        """Load the cache.

        Args:
            path: File of the cache.
            make: Creates the translator; called when the first uncached text is requested.
            identity: Identifies the translator and its settings; part of every cache key.
            words: Fixed translations by case-folded text.
        """
        self._path, self._make, self._identity, self._words = path, make, identity, words
        self._translator: Translator | None = None
        self._known = dict(
            recover_jsonl(path, _parse_translation, fix="remove the file to translate again")
        )
        self.num_remembered = 0
        self.num_translated = 0

    def translate(self, requests: Sequence[Request], on_progress: Callable[[], None]) -> list[str]:
        """Return the translations in order; equal requests are translated once."""
        keys = [self._key(request) for request in requests]
        unknown: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key not in self._known and self._without_translator(request) is None:
                unknown.setdefault(key, request)
        self.num_remembered += len(requests) - len(unknown)
        if unknown:
            self._translate_unknown(unknown, on_progress)
        return [
            self._known[key] if (text := self._without_translator(request)) is None else text
            for key, request in zip(keys, requests, strict=True)
        ]

    def costs(self) -> dict[str, float]:
        """Return the cost of the translator in this process."""
        return {} if self._translator is None else self._translator.costs()

    def _translate_unknown(
        self, unknown: dict[str, Request], on_progress: Callable[[], None]
    ) -> None:
        if self._translator is None:
            self._translator = self._make()
        keys, requests = list(unknown), list(unknown.values())
        for batch in self._translator.batches(requests):
            found = self._translator.translate([requests[at] for at in batch])
            fresh = {keys[at]: text for at, text in zip(batch, found, strict=True)}
            append_jsonl(self._path, ({"key": key, "text": text} for key, text in fresh.items()))
            self._known |= fresh
            self.num_translated += len(fresh)
            on_progress()

    def _without_translator(self, request: Request) -> str | None:
        """Return a fixed translation, or the text itself if it has no words to translate."""
        text = request.text.strip()
        if (word := self._words.get(text.casefold())) is not None:
            return word[:1].upper() + word[1:] if text[:1].isupper() else word
        return None if segments.has_language(request.text) else request.text

    def _key(self, request: Request) -> str:
        return fingerprint([self._identity, request.text, [list(pair) for pair in request.context]])


def _parse_translation(line: dict[str, str]) -> tuple[str, str]:
    return line["key"], line["text"]
