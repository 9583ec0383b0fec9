"""Names that files and folders are named after, and language codes."""

import re

FILE_NAME = re.compile(r"\w[\w.=+-]{0,99}")
"""A name that is not a path, needs no quotes, and leaves room for suffixes."""
LANGUAGE_CODE = re.compile(r"\w+(?:-\w+)*")
"""A language code, such as eu or zh-Hant."""
FILE_NAME_ADVICE = "use up to 100 letters, digits and . _ = + -, without spaces"
