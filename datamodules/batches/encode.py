"""Encoding of samples with the chat format, with errors that name the sample."""

from core.chat.format import ChatFormat, PromptStyle
from core.errors import DataError
from core.samples import EncodedSample, Sample


def encode_sample(sample: Sample, chat: ChatFormat, style: PromptStyle) -> EncodedSample:
    """Encode a sample as token ids and a loss mask.

    Raises:
        DataError: If the sample has no loss tokens, or if its text and image do not agree. The
            message names the source and the key of the sample.
    """
    try:
        return chat.encode(sample, style)
    except DataError as error:
        raise DataError(f"{sample.source}/{sample.key}: {error}", error.fault) from error
