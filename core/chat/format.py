"""Conversion of conversations to token ids and loss masks, shared by training and evaluation.

The rendered string is tokenised once, and the loss mask is derived from character offsets. Pieces
are never tokenised separately, which causes the "tokenization mismatch" of LLaVA-style code.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from core.chat.prompt_style import PromptStyle as PromptStyle
from core.chat.templates import ChatTemplate
from core.chat.tokens import IMAGE_MARK
from core.config import to_plain
from core.errors import ConfigError, DataError
from core.io.files import sha256_bytes
from core.io.hub import LOADING_ERRORS, explain_hub_error, hub_arguments
from core.samples import EncodedSample, Role, Sample, Turn


def load_tokenizer(
    path: str | Path, *, revision: str = "", is_local: bool = False
) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer from a folder or, at a revision, by its name on the hub.

    Args:
        path: Folder or name.
        revision: Commit or branch of a name.
        is_local: Do not ask the hub; a plan needs no network.

    Raises:
        ConfigError: If the tokenizer is missing, inaccessible, without revision, or not fast.
    """
    arguments = hub_arguments(path, revision, kind="tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=False, local_files_only=is_local, **arguments
        )
    except LOADING_ERRORS as error:
        reason = explain_hub_error(error, path, revision)
        raise ConfigError(
            f"no tokenizer at '{path}': {reason}. Set a folder with tokenizer.json"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"tokenizer '{path}' has no character offsets; use a fast tokenizer")
    return tokenizer


class ChatFormat:
    """Converts turns to token ids and loss masks, with placeholders for the image."""

    depends_on_image_size = False
    """Whether the number of placeholders depends on the size of the image."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: ChatTemplate,
        *,
        num_image_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.num_image_tokens = num_image_tokens
        _add_tokens(tokenizer, template.added_tokens)
        self.image_token_id = self._single_id(template.image_token)
        self.pad_token_id = self._single_id(template.pad_token)
        self.end_token_id = self._single_id(template.assistant_suffix)
        self._check_marks()
        marks = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        self._reserved = re.compile("|".join(re.escape(mark) for mark in marks))

    def identity(self, style: PromptStyle) -> list[Any]:
        """Return everything that token ids depend on, as JSON types."""
        tokenizer = sha256_bytes(self.tokenizer.backend_tokenizer.to_str().encode("utf-8"))
        return [tokenizer, to_plain(self.template), style, self.num_image_tokens]

    def encode(self, sample: Sample, style: PromptStyle) -> EncodedSample:
        """Encode a training sample as one token sequence.

        Raises:
            DataError: If the sample has no loss tokens, or if the text has `<image>` without
                an image or vice versa.
                The message does not name the sample; `encode_sample` adds its source and key.
        """
        if style is PromptStyle.SHARED_PREFIX and sample.image is not None:
            encoded = self._branches(sample)
        else:
            encoded = self._single_sequence(sample, style)
        # Nothing precedes the first token of a document, so nothing can predict it.
        encoded.loss_mask_T[:1] = False
        if not encoded.loss_mask_T.any():
            raise DataError("no loss tokens (empty answer?)", "no loss tokens")
        return encoded

    def _single_sequence(self, sample: Sample, style: PromptStyle) -> EncodedSample:
        pieces = self._plain(sample) if style is PromptStyle.PLAIN else self._chat(sample.turns)
        self._check_image(sample, "".join(text for text, _ in pieces))
        ids, mask = self._tokenize(pieces)
        if style is PromptStyle.FULL:
            mask = ids != self.image_token_id
        return EncodedSample(input_ids_T=ids, loss_mask_T=mask, branch_ids_T=np.zeros_like(ids))

    def encode_prompt(self, turns: Sequence[Turn]) -> np.ndarray:
        """Return the ids (int64, shape (T,)) of a conversation up to the assistant's next turn."""
        return self._tokenize(self._prompt(turns))[0]

    def encode_reply(self, turns: Sequence[Turn], reply: str) -> tuple[np.ndarray, int]:
        """Return the ids of a conversation with a reply, and the number of those of the reply.

        The text is tokenised once, without a token that ends the turn. A token that joins the end
        of the prompt and the beginning of the reply belongs to the prompt.

        Raises:
            DataError: If no token belongs to the reply alone, or contains a reserved token.
        """
        self.check_content(reply)
        ids, is_reply = self._tokenize([*self._prompt(turns), (reply, True)])
        prompt_length = int(np.flatnonzero(~is_reply)[-1]) + 1
        if prompt_length == len(ids):
            raise DataError(f"the reply '{reply}' merges into the last token of its prompt")
        return ids, len(ids) - prompt_length

    def _prompt(self, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
        pieces = self._chat(turns)
        if pieces[-1][1]:
            pieces.append((self.template.separator, False))
        return [*pieces, (self.template.assistant_prefix, False)]

    def count_reply_tokens(self, replies: Sequence[str]) -> list[int]:
        """Return the number of tokens that a model generates for each reply and its end token."""
        template = self.template
        begin = self.tokenizer.encode(template.assistant_prefix, add_special_tokens=False)
        texts = [f"{template.assistant_prefix}{x}{template.assistant_suffix}" for x in replies]
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [len(ids) - len(begin) for ids in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode generated ids up to the end token."""
        end = ids.index(self.end_token_id) if self.end_token_id in ids else len(ids)
        text: str = self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def _single_id(self, token: str) -> int:
        ids: list[int] = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(
                f"template '{self.template.name}' needs '{token}' as one token, but the tokenizer "
                f"splits it into {len(ids)}; choose the template of the backbone"
            )
        return ids[0]

    def _check_marks(self) -> None:
        """Check that the padding, end and placeholder tokens have different ids."""
        names = {
            self.pad_token_id: self.template.pad_token,
            self.end_token_id: self.template.assistant_suffix,
            self.image_token_id: self.template.image_token,
        }
        if len(names) < len(("pad", "end", "image")):
            raise ConfigError(
                f"template '{self.template.name}': padding, end and image tokens must be three "
                f"different ones, got {sorted(names.values())}"
            )

    def _chat(self, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
        template = self.template
        marks = {
            Role.SYSTEM: (template.system_prefix, template.system_suffix),
            Role.USER: (template.user_prefix, template.user_suffix),
            Role.ASSISTANT: (template.assistant_prefix, template.assistant_suffix),
            Role.TEXT: ("", template.assistant_suffix),
        }
        pieces = [(template.bos, False)]
        for turn in turns:
            prefix, suffix = marks[turn.role]
            has_loss = turn.role in (Role.ASSISTANT, Role.TEXT)
            self.check_content(turn.content)
            if has_loss and not turn.content.strip():
                raise DataError("empty answer", "empty answer")
            if pieces[-1][1] and template.separator:
                pieces.append((template.separator, False))
            pieces += [(prefix, False), (turn.content + suffix, has_loss)]
        return pieces

    def _branches(self, sample: Sample) -> EncodedSample:
        """Encode everything up to the image once, then each question with its answer as a branch.

        This follows Molmo's message trees. A branch is tokenised together with the prefix, so that
        it has the same tokens as in a conversation of its own.
        """
        shared, questions = _split_at_image(sample)
        whole = [self._tokenize(self._chat([*shared, *question])) for question in questions]
        prefix = 1 + int(np.flatnonzero(whole[0][0] == self.image_token_id)[-1])
        first_ids, first_mask = whole[0]
        ids, mask = [first_ids[:prefix]], [first_mask[:prefix]]
        for branch_ids, branch_mask in whole:
            if not np.array_equal(branch_ids[:prefix], first_ids[:prefix]):
                fault = "the tokenizer merges the image placeholder with the text after it"
                raise DataError(fault, fault)
            ids.append(branch_ids[prefix:])
            mask.append(branch_mask[prefix:])
        branches = [np.full(part.shape, number) for number, part in enumerate(ids)]
        return EncodedSample(
            input_ids_T=np.concatenate(ids),
            loss_mask_T=np.concatenate(mask),
            branch_ids_T=np.concatenate(branches),
        )

    def _plain(self, sample: Sample) -> list[tuple[str, bool]]:
        answers = [t.content for t in sample.turns if t.role in (Role.ASSISTANT, Role.TEXT)]
        if not answers or not answers[0].strip():
            raise DataError("empty caption", "empty caption")
        image = IMAGE_MARK if sample.image is not None else ""
        self.check_content(answers[0])
        caption = answers[0] + self.template.assistant_suffix
        return [(self.template.bos + image, False), (caption, True)]

    def check_content(self, content: str) -> None:
        """Reject text that contains reserved tokens, which could forge turns.

        Raises:
            DataError: If it does.
        """
        if mark := self._reserved.search(content):
            fault = f"the text contains the reserved token '{mark.group()}'"
            raise DataError(f"{fault}; remove it", fault)

    def _check_image(self, sample: Sample, text: str) -> None:
        marks, images = text.count(IMAGE_MARK), int(sample.image is not None)
        if marks != images:
            raise DataError(
                f"text has {marks} '{IMAGE_MARK}', but the sample has {images} image(s); the "
                "counts must match",
                f"{IMAGE_MARK} and image do not agree",
            )

    def _tokenize(
        self, pieces: Sequence[tuple[str, bool]], image_text: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise the joined pieces; `image_text` stands for the image, by default placeholders.

        The tokenizer adds its own begin and end tokens where a subclass asks for it.
        """
        if image_text is None:
            image_text = self.template.image_token * self.num_image_tokens
        expanded = [(text.replace(IMAGE_MARK, image_text), has_loss) for text, has_loss in pieces]
        whole = "".join(text for text, _ in expanded)
        encoding = self.tokenizer(
            whole,
            add_special_tokens=self._adds_special_tokens(whole),
            return_offsets_mapping=True,
        )
        starts = np.cumsum([0, *(len(text) for text, _ in expanded)])
        offsets = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        piece_of_token = np.searchsorted(starts, offsets[:, 0], side="right") - 1
        has_loss = np.asarray([flag for _, flag in expanded], dtype=bool)
        return np.asarray(encoding["input_ids"], dtype=np.int64), has_loss[piece_of_token]

    def _adds_special_tokens(self, text: str) -> bool:
        """Return whether the tokenizer adds its own special tokens to a rendered conversation."""
        del text
        return False


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return all control tokens; only a few of Llama-3's 256 are in `all_special_tokens`."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}


def _add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Add missing tokens to a tokenizer as control tokens."""
    known = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    if missing:
        added = [AddedToken(token, special=True, normalized=False) for token in missing]
        tokenizer.add_tokens(added, special_tokens=True)


def _split_at_image(sample: Sample) -> tuple[list[Turn], list[list[Turn]]]:
    """Split a conversation into system turns and pairs of question and answer about the image.

    Every question begins with the image placeholder.

    Raises:
        DataError: If the conversation does not consist of questions and answers after one image.
    """
    shared = [turn for turn in sample.turns[:1] if turn.role is Role.SYSTEM]
    turns = sample.turns[len(shared) :]
    roles = [turn.role for turn in turns]
    if not turns or roles != [Role.USER, Role.ASSISTANT] * (len(turns) // 2):
        raise DataError(
            f"turns {', '.join(roles)}; prompt style '{PromptStyle.SHARED_PREFIX}' needs "
            "alternating turns of user and assistant",
            "no alternating questions and answers",
        )
    opening = re.match(rf"{re.escape(IMAGE_MARK)}\s*", turns[0].content)
    if opening is None or sum(turn.content.count(IMAGE_MARK) for turn in sample.turns) != 1:
        fault = f"no single {IMAGE_MARK} before the first question"
        raise DataError(f"the first question must begin with the only '{IMAGE_MARK}'", fault)
    questions = []
    for number in range(0, len(turns), 2):
        content = turns[number].content if number == 0 else opening[0] + turns[number].content
        questions.append([Turn(role=Role.USER, content=content), turns[number + 1]])
    return shared, questions
