"""Chat template, image processor and generation settings of an exported model."""

import json
from typing import Any

from core.chat.format import ChatFormat
from core.chat.templates import ChatTemplate
from core.chat.tokens import IMAGE_MARK
from models.towers.image_transform import ImageTransform, ResizeMode

_BICUBIC = 3


def chat_template(template: ChatTemplate) -> str:
    """Return a Jinja template that renders what `ChatFormat` encodes, with one `<image>` token.

    Content is a string with our mark, or a list of {"type": "image"} and {"type": "text"}. An image
    is followed by a newline if text follows, as in our data.
    """
    image, mark = _jinja_string(template.image_token), _jinja_string(IMAGE_MARK)
    return "".join(
        [
            "{%- macro body(content) -%}",
            "{%- if content is string -%}",
            f"{{{{- content | replace({mark}, {image}) -}}}}",
            "{%- else -%}{%- for item in content -%}",
            f"{{%- if item['type'] == 'image' -%}}{{{{- {image} -}}}}",
            "{%- if not loop.last and loop.nextitem['type'] == 'text' -%}",
            f"{{{{- {_jinja_string(chr(10))} -}}}}{{%- endif -%}}",
            f"{{%- else -%}}{{{{- item['text'] | replace({mark}, {image}) -}}}}{{%- endif -%}}",
            "{%- endfor -%}{%- endif -%}{%- endmacro -%}",
            f"{{{{- {_jinja_string(template.bos)} -}}}}",
            "{%- for message in messages -%}",
            "{%- if message['role'] == 'system' -%}",
            _render_turn(template.system_prefix, template.system_suffix),
            "{%- elif message['role'] == 'user' -%}",
            _render_turn(template.user_prefix, template.user_suffix),
            "{%- elif message['role'] == 'assistant' -%}",
            _render_turn(template.assistant_prefix, template.assistant_suffix),
            "{%- else -%}{{- raise_exception('unknown role ' + message['role']) -}}{%- endif -%}",
            "{%- endfor -%}{%- if add_generation_prompt -%}",
            f"{{{{- {_jinja_string(template.assistant_prefix)} -}}}}{{%- endif -%}}",
        ]
    )


def image_processor_config(transform: ImageTransform) -> dict[str, Any]:
    """Return the settings of the CLIPImageProcessor that is equivalent to a transform."""
    is_crop = transform.resize_mode is ResizeMode.SHORTEST
    square = {"height": transform.size, "width": transform.size}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": transform.size} if is_crop else square,
        "resample": _BICUBIC,
        "do_center_crop": is_crop,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }


def generation_config(chat: ChatFormat, *, max_new_tokens: int) -> dict[str, Any]:
    """Return settings for greedy decoding, as in the evaluation."""
    bos = chat.tokenizer.encode(chat.template.bos, add_special_tokens=False)[0]
    return {
        "bos_token_id": bos,
        "eos_token_id": chat.end_token_id,
        "pad_token_id": chat.pad_token_id,
        "do_sample": False,
        "max_new_tokens": max_new_tokens,
    }


def _render_turn(prefix: str, suffix: str) -> str:
    body = "{{- body(message['content']) -}}"
    return f"{{{{- {_jinja_string(prefix)} -}}}}{body}{{{{- {_jinja_string(suffix)} -}}}}"


def _jinja_string(text: str) -> str:
    """Format a string literal for Jinja."""
    return json.dumps(text)
