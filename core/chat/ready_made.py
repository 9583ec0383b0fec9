"""Conversion of conversations by the processor and the chat template of a ready-made model.

Training gets the token ids that `processor.apply_chat_template` returns. The number of visual
tokens follows from the size of an image alone: the processor encodes a blank image of that size,
once per size.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.chat.format import ChatFormat, PromptStyle
from core.chat.messages import to_messages
from core.chat.templates import ChatTemplate
from core.chat.tokens import IMAGE_MARK
from core.errors import ConfigError, DataError
from core.io.images import decode_image, image_size
from core.samples import EncodedSample, Role, Sample, Turn

OWN_TEMPLATE = "own"
"""Name of the chat template of a ready-made model: the one in its folder."""
_TEMPLATE_FILE = "chat_template.jinja"
_PROBE = "irudimen"
"""Content of turns with which a template is examined."""
_TEMPLATE_ERRORS: tuple[type[Exception], ...] = (Exception,)
"""A template is a program of its authors, which can raise any error."""

RotaryPositions = Callable[[np.ndarray, "dict[str, np.ndarray]"], np.ndarray]
"""Maps token ids (T,) and the geometry of an image to positions (A, T)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImagePlaceholders:
    """Placeholders and geometry of an image, which follow from its size."""

    text: str
    """The text that stands for the image in a prompt, with every placeholder."""
    num_tokens: int
    """Number of visual tokens."""
    geometry: dict[str, np.ndarray]
    """The small outputs of the image processor, such as grids of patches."""


class ReadyMadeChat(ChatFormat):
    """The chat format of a ready-made vision-language model."""

    depends_on_image_size = True

    def __init__(self, processor: Any, *, rotary_positions: RotaryPositions | None = None) -> None:
        """Examine a processor and its chat template.

        Args:
            processor: Processor of text and images.
            rotary_positions: Positions of models with multimodal rotary embeddings.

        Raises:
            ConfigError: If the template can't be used for training.
        """
        self.processor = processor
        self._rotary_positions = rotary_positions
        self._layouts: dict[tuple[int, int], ImagePlaceholders] = {}
        tokenizer = processor.tokenizer
        self._control = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        self._image_token = str(processor.image_token)
        try:
            end = self._find_end_token()
        except DataError as error:
            raise ConfigError(f"{error}; correct {_TEMPLATE_FILE}") from error
        template = ChatTemplate(
            name=OWN_TEMPLATE,
            bos=tokenizer.bos_token or "",
            user_prefix="",
            user_suffix="",
            assistant_prefix="",
            assistant_suffix=end,
            system_prefix="",
            system_suffix="",
            pad_token=tokenizer.pad_token or end,
            image_token=self._image_token,
        )
        super().__init__(tokenizer, template, num_image_tokens=0)

    def identity(self, style: PromptStyle) -> list[Any]:
        """Return everything that token ids depend on, as JSON types."""
        settings = [
            part.to_json_string() for part in (self.processor, self.processor.image_processor)
        ]
        return [*super().identity(style), str(self.processor.chat_template), *settings]

    def encode(self, sample: Sample, style: PromptStyle) -> EncodedSample:
        """Encode a training sample; see `ChatFormat.encode`.

        Raises:
            ConfigError: If the style is not `chat`.
        """
        if style is not PromptStyle.CHAT:
            raise ConfigError(
                f"prompt_style={style.value} does not exist for ready-made models, whose chat "
                f"template lays out conversations; set prompt_style={PromptStyle.CHAT.value}"
            )
        pieces = self._chat(sample.turns)
        self._check_image(sample, "".join(text for text, _ in pieces))
        layout = None if sample.image is None else self.layout(find_image_size(sample))
        ids, mask = self._tokenize(pieces, "" if layout is None else layout.text)
        mask[:1] = False  # nothing predicts the first token
        if not mask.any():
            raise DataError("no loss tokens (empty answer?)", "no loss tokens")
        positions = None
        if self._rotary_positions is not None:
            positions = self._rotary_positions(ids, {} if layout is None else layout.geometry)
        return EncodedSample(
            input_ids_T=ids,
            loss_mask_T=mask,
            branch_ids_T=np.zeros_like(ids),
            rotary_positions_AT=positions,
        )

    def layout(self, size: tuple[int, int]) -> ImagePlaceholders:
        """Return the placeholders of an image of some width and height.

        Raises:
            DataError: If the image processor rejects the size.
        """
        if size not in self._layouts:
            try:
                encoded = self.processor(
                    text=[self._image_token],
                    images=[[Image.new("RGB", size)]],
                    return_text_replacement_offsets=True,
                )
            # Processors raise errors of any kind, for example for extreme shapes.
            except Exception as error:
                raise DataError(
                    f"the image processor of the model rejects an image of {size[0]}x{size[1]} "
                    f"pixels ({error}); leave it out",
                    "size of the image",
                ) from error
            replaced = encoded["text_replacement_offsets"][0]
            ids = np.asarray(encoded["input_ids"][0])
            self._layouts[size] = ImagePlaceholders(
                text=replaced[0]["replacement"],
                num_tokens=int(np.isin(ids, self.processor.image_token_ids).sum()),
                geometry=_geometry(encoded),
            )
        return self._layouts[size]

    def count_image_tokens(self, size: tuple[int, int]) -> int:
        """Return the visual tokens of an image of some width and height; see `layout`."""
        return self.layout(size).num_tokens

    def encode_image(self, image: bytes) -> dict[str, torch.Tensor]:
        """Return the inputs of the model for one image, with the defaults of its processor.

        Raises:
            DataError: If the image can't be decoded.
        """
        inputs = self.processor(
            text=[self._image_token], images=[[decode_image(image)]], return_tensors="pt"
        )
        unused = set(self.processor.unused_input_names)
        names = set(self.processor.image_processor.model_input_names) - unused
        return {name: value for name, value in inputs.items() if name in names}

    def count_reply_tokens(self, replies: Sequence[str]) -> list[int]:
        """Return the number of tokens that a model generates for each reply and its end token."""
        encoded = self.tokenizer(list(replies), add_special_tokens=False)["input_ids"]
        return [len(ids) + 1 for ids in encoded]

    def _check_marks(self) -> None:
        """Accept equal padding and end tokens: no mask is computed from token ids."""

    def _chat(self, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
        """Return the rendered conversation in pieces; those with loss are answers."""
        for turn in turns:
            # The mark of the image may be spelled as a token of the model.
            self.check_content(turn.content.replace(IMAGE_MARK, "", 1))
            if turn.role in (Role.ASSISTANT, Role.TEXT) and not turn.content.strip():
                raise DataError("empty answer", "empty answer")
        if [turn.role for turn in turns] == [Role.TEXT]:
            return [(self.template.bos, False), (turns[0].content + self._end, True)]
        if any(turn.role is Role.TEXT for turn in turns):
            fault = "running text among the turns of a conversation"
            raise DataError(f"{fault}; store it as a record of its own", fault)
        pieces: list[tuple[str, bool]] = []
        done = ""
        for number, turn in enumerate(turns):
            if turn.role is not Role.ASSISTANT:
                continue
            prompt = self._render(turns[:number], is_prompt=True)
            whole = self._render(turns[: number + 1])
            answer, rest = self._split_answer(whole, prompt, turn.content)
            if not prompt.startswith(done):
                raise self._unstable(done, prompt)
            pieces += [(prompt.removeprefix(done), False), (answer, True)]
            done = whole.removesuffix(rest)
        whole = self._render(turns)
        if not whole.startswith(done):
            raise self._unstable(done, whole)
        return [*pieces, (whole.removeprefix(done), False)]

    def _prompt(self, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
        return [(self._render(turns, is_prompt=True), False)]

    def _adds_special_tokens(self, text: str) -> bool:
        """Follow `apply_chat_template`: the tokenizer adds BOS where the template has not."""
        return not (self.template.bos and text.startswith(self.template.bos))

    def _render(self, turns: Sequence[Turn], *, is_prompt: bool = False) -> str:
        """Return turns as text in which the placeholder of the image is `IMAGE_MARK`."""
        try:
            text: str = self.processor.apply_chat_template(
                to_messages(turns, None), add_generation_prompt=is_prompt
            )
        except _TEMPLATE_ERRORS as error:
            raise DataError(
                f"the model's chat template can't render the conversation ({error})",
                "chat template",
            ) from error
        return text.replace(self._image_token, IMAGE_MARK)

    def _split_answer(self, whole: str, prompt: str, content: str) -> tuple[str, str]:
        """Split what follows a prompt into the answer with its end token, and the rest."""
        if not whole.startswith(prompt):
            raise self._unstable(prompt, whole)
        tail = whole.removeprefix(prompt)
        found = content if tail.startswith(content) else content.strip()
        if not tail.startswith(found):
            raise self._unstable(prompt + found, whole)
        after = tail.removeprefix(found)
        end = self._find_control(after)
        if not end:
            raise DataError(
                f"the model's chat template has no control token after an answer ({after[:20]!r}), "
                "so that training would not teach it to end its answers",
                "chat template",
            )
        stop = len(found) + after.index(end) + len(end)
        return tail[:stop], tail[stop:]

    def _find_end_token(self) -> str:
        """Return the control token with which the template ends an answer."""
        turns = [
            Turn(role=Role.USER, content=_PROBE),
            Turn(role=Role.ASSISTANT, content=_PROBE),
        ]
        prompt = self._render(turns[:1], is_prompt=True)
        answer, _ = self._split_answer(self._render(turns), prompt, _PROBE)
        self._end = self._find_control(answer)
        return self._end

    def _find_control(self, text: str) -> str:
        """Return the first control token in a text, or an empty string."""
        places = {text.find(token): token for token in self._control if token in text}
        return places[min(places)] if places else ""

    def _unstable(self, expected: str, found: str) -> DataError:
        return DataError(
            f"the model's chat template renders a beginning of the conversation as "
            f"{expected[-60:]!r}, but the whole as {found[-60:]!r}; training would differ from "
            "asking",
            "chat template",
        )


def find_image_size(sample: Sample) -> tuple[int, int]:
    """Return width and height of a sample's image, from the index or else from its header.

    Raises:
        DataError: If the image can't be read, or the index records another size.
    """
    if not sample.image:
        if sample.image_size is None:
            raise ValueError("the sample was read without its image, and its size is unknown")
        return sample.image_size
    size = image_size(sample.image)
    if sample.image_size not in (None, size):
        raise DataError(
            f"the index records an image of {sample.image_size}, the image is {size} (width, "
            "height); rebuild the index",
            "size of the image in the index",
        )
    return size


def _geometry(encoded: Any) -> dict[str, np.ndarray]:
    """Return the outputs of an image processor other than pixels and their masks."""
    return {
        name: np.asarray(value) for name, value in encoded.items() if name.startswith("image_grid")
    }
