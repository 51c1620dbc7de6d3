"""Chats as a model reads them. A message is data: chat-template tokens in it must not open another turn."""

import re
from collections.abc import Sequence, Set

from jinja2 import TemplateError, TemplateSyntaxError

from generation.base import Chat, PromptTooLongError
from generation.reasoning import opens_thought

# What opens or closes a turn in common templates, whether or not a tokenizer calls it special.
_MARKER = re.compile(
    r"<(?=[|｜][^|｜<>\n]{1,40}[|｜]>|/?(?:start|end)_of_turn>|</?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT)\])"
)


class ChatEncoder:
    """From chats to token ids, by the model's own chat template.

    Args:
        tokenizer: the model's.
        model: its name, for the error.

    Raises:
        ValueError: when the tokenizer has no chat template.
    """

    def __init__(self, tokenizer, model: str):
        if tokenizer.chat_template is None:
            raise ValueError(f"{model}: its tokenizer has no chat template; name a chat model.")
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens(tokenizer)
        self.knows_system = knows_system(tokenizer)
        probe = tokenizer.apply_chat_template(
            [{"role": "user", "content": "-"}], add_generation_prompt=True, tokenize=False
        )
        self.opens_thought = opens_thought(probe)

    def encode(self, chats: Sequence[Chat], context_length: int) -> list[list[int]]:
        """The token ids of each chat, up to where the answer begins.

        Raises:
            PromptTooLongError: for the first chat that leaves no room for an answer in the context.
        """
        encoded = [self._encode(chat) for chat in chats]
        for index, ids in enumerate(encoded):
            if len(ids) >= context_length:
                raise PromptTooLongError(index, len(ids), context_length, chats[index][-1]["content"])
        return encoded

    def _encode(self, chat: Chat) -> list[int]:
        escaped = escape_special_tokens(escape_markers(chat), self.special_tokens)
        if not self.knows_system:
            escaped = without_system(escaped)
        return self.tokenizer.apply_chat_template(escaped, add_generation_prompt=True, return_dict=True)["input_ids"]


def knows_system(tokenizer) -> bool:
    """Whether a tokenizer's chat template has a system role: some refuse it, as Gemma's, others drop it silently."""
    system = "-system-"
    try:
        chat = [{"role": "system", "content": system}, {"role": "user", "content": "-"}]
        return system in tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateSyntaxError:
        raise
    except TemplateError:
        return False


def special_tokens(tokenizer) -> set[str]:
    """All special tokens of a tokenizer, those without a named slot too, such as Llama 3's headers."""
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def without_system(chat: Chat) -> Chat:
    """The chat with what the system says put before what the user says first, for a template without that role."""
    if chat[0]["role"] != "system":
        return chat
    system, first, *rest = chat
    return [first | {"content": f"{system['content']}\n\n{first['content']}"}, *rest]


def escape_markers(chat: Chat) -> Chat:
    """The chat with a space put into each marker of a common chat template in its messages, as in `< |im_end|>`."""
    return [message | {"content": _MARKER.sub(r"\g<0> ", message["content"])} for message in chat]


def escape_special_tokens(chat: Chat, tokens: Set[str]) -> Chat:
    """The chat with a space put into each special token of its messages, so that it is read as text."""
    return [message | {"content": _escape(message["content"], tokens)} for message in chat]


def _escape(text: str, tokens: Set[str]) -> str:
    for token in tokens:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
