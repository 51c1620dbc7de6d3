"""Texts as data between tags: nothing that stands in a text can close its frame."""

import re


class Tags:
    """Tags of our own, such as `<prompt>`.

    Args:
        names: all that a model reads as a frame, also those that only its reply uses.
    """

    def __init__(self, *names: str):
        # Also where spaces, or characters that don't show, stand before the name or between its letters.
        spaced = "|".join(r"[^\w<]*".join(name) for name in names)
        rest = rf"(?=[^\w<]*(?:{spaced})\b)"
        self._tag = re.compile(f"<{rest}", re.IGNORECASE)
        self._escaped = re.compile(f"&lt;{rest}", re.IGNORECASE)

    def escape(self, text: str) -> str:
        """The text with the opening bracket of each tag of ours in it written as `&lt;`."""
        return self._tag.sub("&lt;", text)

    def unescape(self, text: str) -> str:
        """The text that [`escape`] was given, from a reply that repeats what it gave."""
        return self._escaped.sub("<", text)

    def frame(self, **parts: str) -> str:
        """Each text, escaped, between tags of its name, on lines of their own."""
        return "\n".join(f"<{name}>\n{self.escape(text)}\n</{name}>" for name, text in parts.items())
