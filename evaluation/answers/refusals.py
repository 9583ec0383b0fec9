"""Detection of replies that decline to answer."""

from collections.abc import Mapping, Sequence

from evaluation.answers.phrases import compile_phrases, plain_text


class RefusalDetector:
    """Recognises replies such as "I don't know" and "I can't see the image"."""

    def __init__(self, phrases: Mapping[str, Sequence[str]]) -> None:
        """Create a detector for all languages of a run.

        Args:
            phrases: The `refusal_phrases` of each language.

        Raises:
            ConfigError: If a phrase has no letters.
        """
        self._patterns = {
            language: compile_phrases(tuple(own)) for language, own in phrases.items()
        }

    def is_refusal(self, reply: str, language: str) -> bool:
        """Return whether a refusal phrase of the language occurs in the reply.

        A language without phrases has no refusals. A refusal in another language than the
        question's is not counted here: it is a reply in the wrong language.
        """
        pattern = self._patterns.get(language)
        return pattern is not None and pattern.search(plain_text(reply)) is not None
