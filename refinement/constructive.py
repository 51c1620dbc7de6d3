"""The answer when no safe one was found: what can't be helped with, and what can."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

_TEXTS = tomllib.loads(Path(__file__).with_name("constructive_replies.toml").read_text(encoding="utf-8"))
_MOST_CATEGORIES = 2  # more would be a list, not a reply


def constructive_reply(categories: Sequence[str]) -> str:
    """A reply that names the riskiest categories and offers what can be helped with instead.

    Args:
        categories: the unsafe categories, the riskiest first; none where a safe prompt was never answered.
    """
    if not categories:
        return _TEXTS["unanswered"].strip()
    texts = [_TEXTS.get(category, _TEXTS["other"]) for category in categories[:_MOST_CATEGORIES]]
    cannot, can = (list(dict.fromkeys(text[part] for text in texts)) for part in ("cannot", "can"))
    return _TEXTS["reply"].format(cannot=" or ".join(cannot), can="; ".join(can)).strip()
