"""Conversation -> token ids and loss mask: the one formatter of training and evaluation.

The rendered string is tokenised once and targets are found from character offsets; pieces are
never tokenised apart, which is how LLaVA-style code gets its "tokenization mismatch" samples.
"""

import dataclasses
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from core.chat.tokens import IMAGE_MARK, IMAGE_TOKEN
from core.errors import ConfigError, DataError
from core.io.hub import explain, hub_arguments
from core.samples import EncodedSample, Role, Sample, Turn


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatTemplate:
    """The marks around turns. Everything between assistant marks is a target, end mark included."""

    name: str
    bos: str
    user_prefix: str
    user_suffix: str
    assistant_prefix: str
    assistant_suffix: str
    system_prefix: str
    system_suffix: str
    pad_token: str
    image_token: str = IMAGE_TOKEN
    separator: str = ""
    """Between an answer and the next turn; no target."""
    added_tokens: tuple[str, ...] = ()
    """Marks that are added to a tokenizer without them; the embeddings are then resized."""


EMBEDDED = ChatTemplate(
    name="embedded",
    bos="<|begin_of_text|>",
    user_prefix="<|user|>",
    user_suffix="",
    assistant_prefix="<|assistant|>",
    assistant_suffix="<|eot_id|>",
    system_prefix="<|system|>",
    system_suffix="",
    pad_token="<|finetune_right_pad_id|>",
)
"""One mark per turn: the short turns of the embedded data would drown in Llama-3's headers."""

_LLAMA3_HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"

LLAMA3 = ChatTemplate(
    name="llama-3.1",
    bos="<|begin_of_text|>",
    user_prefix=_LLAMA3_HEADER.format(role="user"),
    user_suffix="<|eot_id|>",
    assistant_prefix=_LLAMA3_HEADER.format(role="assistant"),
    assistant_suffix="<|eot_id|>",
    system_prefix=_LLAMA3_HEADER.format(role="system"),
    system_suffix="<|eot_id|>",
    pad_token="<|finetune_right_pad_id|>",
    image_token="<|reserved_special_token_0|>",
)
"""Llama-3.1 headers without the stock template's date block, which it repeats per call
(LLaVA-NeXT issue 267). The image's placeholder reuses a reserved token: no resized embeddings."""

_CHATML_HEADER = "<|im_start|>{role}\n"

SMOLLM2 = ChatTemplate(
    name="smollm2",
    bos="",
    user_prefix=_CHATML_HEADER.format(role="user"),
    user_suffix="<|im_end|>\n",
    assistant_prefix=_CHATML_HEADER.format(role="assistant"),
    assistant_suffix="<|im_end|>",
    system_prefix=_CHATML_HEADER.format(role="system"),
    system_suffix="<|im_end|>\n",
    pad_token="<gh_stars>",
    image_token="<empty_output>",
    separator="\n",
)
"""ChatML as SmolLM2-Instruct has it, without the English system turn its stock template puts first.
Padding and placeholder reuse marks of its code data: its own pad token is its end mark, and id 0
is the end of a document, so that a mask made from ids would hide real tokens."""

CHATML = dataclasses.replace(
    SMOLLM2,
    name="chatml",
    pad_token="<|fim_pad|>",
    image_token="<|image_pad|>",
    added_tokens=("<|fim_pad|>", "<|image_pad|>"),
)
"""ChatML for any other tokenizer that has `<|im_start|>` and `<|im_end|>` (Qwen's has all four)."""

TEMPLATES = {template.name: template for template in (EMBEDDED, LLAMA3, SMOLLM2, CHATML)}


class PromptStyle(StrEnum):
    """How a record becomes a sequence."""

    PLAIN = "plain"
    """Image, caption, end mark: the user's words are left out (LLaVA stage 1)."""
    CHAT = "chat"
    """The whole conversation between turn marks."""
    SHARED_PREFIX = "shared_prefix"
    """As CHAT, but each question about an image stands alone behind it: the image's tokens are
    computed once, and no question sees another one's answer. Without an image the same as CHAT."""
    FULL = "full"
    """As CHAT, but every token after the first is a target: how a language model is pretrained."""


def load_tokenizer(path: str | Path, *, revision: str = "") -> PreTrainedTokenizerBase:
    """Load a fast tokenizer from a folder or, at a revision, by its name on the hub.

    Raises:
        ConfigError: nothing there, no access, no revision, or a tokenizer without offsets.
    """
    arguments = hub_arguments(path, revision, kind="tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, **arguments)
    except (OSError, ValueError) as error:
        reason = explain(error, path, revision)
        message = f"no tokenizer at '{path}': {reason}. Give a folder with tokenizer.json"
        raise ConfigError(message) from error
    if not tokenizer.is_fast:
        raise ConfigError(f"tokenizer '{path}' gives no character offsets; a fast one is needed")
    return tokenizer


class ChatFormat:
    """Turns -> token ids and targets, with the image expanded to its placeholders."""

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
        self._marks = re.compile("|".join(re.escape(mark) for mark in marks))

    def encode(self, sample: Sample, style: PromptStyle) -> EncodedSample:
        """Encode a training sample as one token sequence.

        Raises:
            DataError: If the sample has no loss tokens, or if `<image>` and the image do not agree.
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
        """Ids (int64, shape (T,)) of a conversation up to where the assistant must speak."""
        pieces = self._chat(turns)
        if pieces[-1][1]:
            pieces.append((self.template.separator, False))
        return self._tokenize([*pieces, (self.template.assistant_prefix, False)])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to the end mark."""
        end = ids.index(self.end_token_id) if self.end_token_id in ids else len(ids)
        text: str = self.tokenizer.decode(
            ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.strip()

    def _single_id(self, token: str) -> int:
        ids: list[int] = self.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(
                f"template '{self.template.name}' needs '{token}' as one token, the tokenizer "
                f"makes {len(ids)}; choose the template that belongs to the backbone"
            )
        return ids[0]

    def _check_marks(self) -> None:
        """Padding must be told from ends and images by its id."""
        names = {
            self.pad_token_id: self.template.pad_token,
            self.end_token_id: self.template.assistant_suffix,
            self.image_token_id: self.template.image_token,
        }
        if len(names) < len(("pad", "end", "image")):
            raise ConfigError(
                f"template '{self.template.name}': padding, end mark and placeholder must be three "
                f"tokens, got {sorted(names.values())}"
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
            is_target = turn.role in (Role.ASSISTANT, Role.TEXT)
            self._check_content(turn.content)
            if is_target and not turn.content.strip():
                raise DataError("empty answer", "empty answer")
            if pieces[-1][1] and template.separator:
                pieces.append((template.separator, False))
            pieces += [(prefix, False), (turn.content + suffix, is_target)]
        return pieces

    def _branches(self, sample: Sample) -> EncodedSample:
        """Everything up to the image once, then each question and its answer.

        The idea is that of Molmo's message trees. A branch is tokenised with the prefix before it,
        so its tokens are those that it would have alone.
        """
        shared, questions = _split_at_image(sample)
        whole = [self._tokenize(self._chat([*shared, *question])) for question in questions]
        prefix = 1 + int(np.flatnonzero(whole[0][0] == self.image_token_id)[-1])
        first_ids, first_mask = whole[0]
        ids, mask = [first_ids[:prefix]], [first_mask[:prefix]]
        for branch_ids, branch_mask in whole:
            if not np.array_equal(branch_ids[:prefix], first_ids[:prefix]):
                fault = "the tokenizer joins the image's mark to the text behind it"
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
        self._check_content(answers[0])
        target = answers[0] + self.template.assistant_suffix
        return [(self.template.bos + image, False), (target, True)]

    def _check_content(self, content: str) -> None:
        """Refuse data that speaks in the template's own marks: it would forge turns."""
        if mark := self._marks.search(content):
            fault = f"the text contains the reserved token '{mark.group()}'"
            raise DataError(f"{fault}; remove it", fault)

    def _check_image(self, sample: Sample, text: str) -> None:
        marks, images = text.count(IMAGE_MARK), int(sample.image is not None)
        if marks != images:
            raise DataError(
                f"{marks} '{IMAGE_MARK}' in the text, {images} image in the sample; they must "
                "agree",
                f"{IMAGE_MARK} and image do not agree",
            )

    def _tokenize(self, pieces: Sequence[tuple[str, bool]]) -> tuple[np.ndarray, np.ndarray]:
        placeholders = self.template.image_token * self.num_image_tokens
        expanded = [(text.replace(IMAGE_MARK, placeholders), target) for text, target in pieces]
        encoding = self.tokenizer(
            "".join(text for text, _ in expanded),
            add_special_tokens=False,
            return_offsets_mapping=True,
        )
        starts = np.cumsum([0, *(len(text) for text, _ in expanded)])
        offsets = np.asarray(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        piece_of_token = np.searchsorted(starts, offsets[:, 0], side="right") - 1
        is_target = np.asarray([target for _, target in expanded], dtype=bool)
        return np.asarray(encoding["input_ids"], dtype=np.int64), is_target[piece_of_token]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Every control token: the named ones are a few of Llama-3's 256."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(str(t) for t in added if t.special)}


def _add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    """Append those a tokenizer lacks, as control tokens that no text can spell."""
    known = tokenizer.get_vocab()
    missing = [AddedToken(token, special=True, normalized=False) for token in tokens
               if token not in known]  # fmt: skip
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)


def _split_at_image(sample: Sample) -> tuple[list[Turn], list[list[Turn]]]:
    """System turns, and each question about the image with its answer, the image before it.

    Raises:
        DataError: the conversation isn't questions and answers behind one image.
    """
    shared = [turn for turn in sample.turns[:1] if turn.role is Role.SYSTEM]
    turns = sample.turns[len(shared) :]
    roles = [turn.role for turn in turns]
    if not turns or roles != [Role.USER, Role.ASSISTANT] * (len(turns) // 2):
        raise DataError(
            f"turns {', '.join(roles)}; prompt style '{PromptStyle.SHARED_PREFIX}' needs "
            "a user and an assistant in turn, so that each question can stand alone",
            "no questions and answers in turn",
        )
    opening = re.match(rf"{re.escape(IMAGE_MARK)}\s*", turns[0].content)
    if opening is None or sum(turn.content.count(IMAGE_MARK) for turn in sample.turns) != 1:
        fault = f"no single {IMAGE_MARK} before the first question"
        raise DataError(f"one '{IMAGE_MARK}' must open the first question", fault)
    questions = []
    for number in range(0, len(turns), 2):
        content = turns[number].content if number == 0 else opening[0] + turns[number].content
        questions.append([Turn(role=Role.USER, content=content), turns[number + 1]])
    return shared, questions
