"""Answerers of assembled models, apart from the assembly, which training stages share."""

from evaluation.answerers.ready_made import ReadyMadeAnswerer
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.reply_limits import ReplyLimits
from pipeline.assemble_ready_made import ReadyMadeParts
from pipeline.assemble_trained import ModelParts


def make_answerer(
    parts: ModelParts,
    *,
    batch_size: int,
    limits: ReplyLimits,
    num_threads: int = 0,
) -> VlmAnswerer | ReadyMadeAnswerer:
    """Return the answerer of a model; a ready-made one decodes as its class does.

    Args:
        parts: The model, in evaluation mode.
        batch_size: Prompts per batch.
        limits: Maximum lengths of the replies.
        num_threads: Threads that decode images; 0 decodes in the calling thread.
    """
    if isinstance(parts, ReadyMadeParts):
        return ReadyMadeAnswerer(
            parts.model.stock,
            parts.chat.processor,
            source=parts.source,
            batch_size=batch_size,
            end_token_id=parts.chat.end_token_id,
        )
    return VlmAnswerer(
        parts.model,
        parts.chat,
        parts.encode_image,
        batch_size=batch_size,
        limits=limits,
        num_threads=num_threads,
    )
