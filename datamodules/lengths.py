"""How long every sample of a source is, measured once per chat format and kept on disk.

The batch plan needs all lengths of a step on every rank, long before the samples are read. The
file's name is the content address of all that the lengths depend on.
"""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np

from core import config
from core.chat import ChatFormat, PromptStyle
from core.errors import DataError
from core.files import atomic_write_bytes, atomic_write_text, sha256_bytes
from datamodules.encode import encode_sample
from datamodules.sources import Source

_RECIPE = 1
"""Raise it when the way samples are encoded changes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceLengths:
    """Lengths of a source's samples, in its order."""

    num_tokens: np.ndarray
    """int32; 0 marks a bad sample."""
    num_targets: np.ndarray
    """int32."""
    reasons: dict[int, str]
    """Why each bad sample is bad."""


def chat_fingerprint(chat: ChatFormat, style: PromptStyle) -> str:
    """Content address of tokenizer, template, prompt style and visual token count."""
    tokenizer = sha256_bytes(chat.tokenizer.backend_tokenizer.to_str().encode("utf-8"))
    return config.fingerprint(
        [_RECIPE, tokenizer, config.to_plain(chat.template), style, chat.num_image_tokens]
    )


def measure_lengths(
    source: Source, chat: ChatFormat, style: PromptStyle, cache_dir: Path
) -> SourceLengths:
    """Encode every sample of a source once, or read what an earlier call found."""
    address = config.fingerprint([source.manifest.fingerprint(), chat_fingerprint(chat, style)])
    array_path = cache_dir / f"{source.name}-{address[:16]}.npy"
    reasons_path = array_path.with_suffix(".json")
    if not array_path.is_file():
        lengths, found = _measure(source, chat, style)
        # The array is written last: where it is, both are whole.
        atomic_write_text(reasons_path, json.dumps(found, ensure_ascii=False, indent=1))
        buffer = io.BytesIO()
        np.save(buffer, lengths, allow_pickle=False)
        atomic_write_bytes(array_path, buffer.getvalue())
    try:
        lengths = np.load(array_path, mmap_mode="r", allow_pickle=False)
        reasons = json.loads(reasons_path.read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cached lengths {array_path} are damaged ({error}); delete them"
        ) from error
    if lengths.shape != (2, len(source)):
        raise DataError(
            f"cached lengths {array_path} have shape {lengths.shape}, expected (2, {len(source)}); "
            "delete them"
        )
    return SourceLengths(
        num_tokens=np.asarray(lengths[0]),
        num_targets=np.asarray(lengths[1]),
        reasons={int(i): reason for i, reason in reasons.items()},
    )


def _measure(
    source: Source, chat: ChatFormat, style: PromptStyle
) -> tuple[np.ndarray, dict[int, str]]:
    lengths = np.zeros((2, len(source)), dtype=np.int32)
    reasons: dict[int, str] = {}
    for i in range(len(source)):
        try:
            encoded = encode_sample(source.read(i, with_image=False), chat, style)
        except DataError as error:
            reasons[i] = str(error)
        else:
            lengths[:, i] = encoded.num_tokens, encoded.num_targets
    return lengths, reasons
