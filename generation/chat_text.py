"""A message is data: chat-template tokens in it must not open another turn."""

from collections.abc import Set

from generation.base import Chat


def special_tokens(tokenizer) -> set[str]:
    """All special tokens of a tokenizer, those without a named slot too, such as Llama 3's headers."""
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def escape_special_tokens(chat: Chat, tokens: Set[str]) -> Chat:
    """The chat with a space put into each special token of its messages, so that it is read as text."""
    return [message | {"content": _escape(message["content"], tokens)} for message in chat]


def _escape(text: str, tokens: Set[str]) -> str:
    for token in tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
