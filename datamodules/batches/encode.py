"""Sample -> EncodedSample: the chat format applied, with every failure told as a DataError."""

from core.chat.format import ChatFormat, PromptStyle
from core.errors import DataError
from core.samples import EncodedSample, Sample


def encode_sample(sample: Sample, chat: ChatFormat, style: PromptStyle) -> EncodedSample:
    """Turn a sample into token ids and a target mask.

    Raises:
        DataError: nothing to learn from it, or text and image do not agree.
    """
    try:
        tokens = chat.encode(sample, style)
    except DataError as error:
        if sample.key in str(error):
            raise
        raise DataError(f"{sample.source}/{sample.key}: {error}", error.fault) from error
    # Nothing stands before the first token of a document, so nothing can predict it.
    tokens.loss_mask_T[0] = False
    if not tokens.loss_mask_T.any():
        fault = "no target after the first token"
        raise DataError(f"{sample.source}/{sample.key}: {fault}", fault)
    return EncodedSample(
        key=sample.key,
        source=sample.source,
        input_ids_T=tokens.input_ids_T,
        loss_mask_T=tokens.loss_mask_T,
        branch_ids_T=tokens.branch_ids_T,
        image=sample.image,
    )
