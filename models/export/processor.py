"""The text and image side of an exported model: chat template, image processor, generation."""

import json
from typing import Any

from core.chat.format import ChatFormat, ChatTemplate
from core.chat.tokens import IMAGE_MARK
from models.towers.image_transform import ImageTransform, ResizeMode

_BICUBIC = 3


def chat_template(template: ChatTemplate) -> str:
    """Jinja that renders what `ChatFormat` encodes, with `<image>` as one placeholder.

    Content is a string with our mark, or a list of {"type": "image"} and {"type": "text"}; a
    image is followed by a newline where text follows, as in our data.
    """
    image, mark = _literal(template.image_token), _literal(IMAGE_MARK)
    return "".join(
        [
            "{%- macro body(content) -%}",
            "{%- if content is string -%}",
            f"{{{{- content | replace({mark}, {image}) -}}}}",
            "{%- else -%}{%- for item in content -%}",
            f"{{%- if item['type'] == 'image' -%}}{{{{- {image} -}}}}",
            "{%- if not loop.last and loop.nextitem['type'] == 'text' -%}",
            f"{{{{- {_literal(chr(10))} -}}}}{{%- endif -%}}",
            f"{{%- else -%}}{{{{- item['text'] | replace({mark}, {image}) -}}}}{{%- endif -%}}",
            "{%- endfor -%}{%- endif -%}{%- endmacro -%}",
            f"{{{{- {_literal(template.bos)} -}}}}",
            "{%- for message in messages -%}",
            "{%- if message['role'] == 'system' -%}",
            _turn(template.system_prefix, template.system_suffix),
            "{%- elif message['role'] == 'user' -%}",
            _turn(template.user_prefix, template.user_suffix),
            "{%- elif message['role'] == 'assistant' -%}",
            _turn(template.assistant_prefix, template.assistant_suffix),
            "{%- else -%}{{- raise_exception('unknown role ' + message['role']) -}}{%- endif -%}",
            "{%- endfor -%}{%- if add_generation_prompt -%}",
            f"{{{{- {_literal(template.assistant_prefix)} -}}}}{{%- endif -%}}",
        ]
    )


def image_processor_config(transform: ImageTransform) -> dict[str, Any]:
    """CLIPImageProcessor's settings; `size` differs between CLIP's crop and a plain resize."""
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
    """Greedy, as the evaluation asks."""
    bos = chat.tokenizer.encode(chat.template.bos, add_special_tokens=False)[0]
    return {
        "bos_token_id": bos,
        "eos_token_id": chat.end_token_id,
        "pad_token_id": chat.pad_token_id,
        "do_sample": False,
        "max_new_tokens": max_new_tokens,
    }


def _turn(prefix: str, suffix: str) -> str:
    body = "{{- body(message['content']) -}}"
    return f"{{{{- {_literal(prefix)} -}}}}{body}{{{{- {_literal(suffix)} -}}}}"


def _literal(text: str) -> str:
    """A string literal of Jinja."""
    return json.dumps(text)
