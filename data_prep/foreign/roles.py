"""Roles of columns of conversation files; the command names them before it loads anything."""

COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "conversation": ("conversations", "messages", "conversation"),
    "question": ("question", "instruction", "prompt", "query"),
    "answer": ("answer", "output", "response"),
    "caption": ("caption", "text", "txt"),
    "image": ("image", "images", "image_path", "image_file", "file_name", "img", "path"),
}
"""Role -> usual names of its column, the most usual one first."""
