"""Any OpenAI-compatible server: bounded concurrency, back-off, and no prompt lost to a fault."""

import asyncio
import os
import re
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import loads
from typing import Any
from urllib.parse import urlsplit

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from errors import first_line
from generation.base import CONTENT_FILTER, Chat, Completion, GenerationError, SamplingParameters, check_count
from generation.chat_text import escape_markers, without_system
from generation.reasoning import NO_ANSWER, without_thought

KEY_VARIABLE = "OPENAI_API_KEY"
# As OpenAI, vLLM, llama.cpp and others say it.
_CONTEXT_EXCEEDED = re.compile(
    r"context[ _](length|size|window)|maximum context|maximum model length|prompt is too long", re.IGNORECASE
)
# That it won't have this text, as Azure, OpenAI, Moonshot, DeepSeek and DashScope say it.
_CONTENT_REFUSED = re.compile(
    r"content[ _-](filter|management polic|policy|exists risk)|usage polic|safety system|considered high risk|"
    r"inappropriate content",
    re.IGNORECASE,
)
_LONGEST_WAIT = 120.0  # seconds; of what a server asks for in Retry-After


class MalformedReplyError(OpenAIError):
    """A reply without a completion in it."""


class NoAnswerError(OpenAIError):
    """A completion that its limit of tokens ended before the answer began."""


@dataclass(frozen=True)
class _Failure:
    reason: str
    too_long: bool


class OpenAIEngine:
    """Chats to a server, many at a time.

    The key comes from an environment variable, `OPENAI_API_KEY` if no other is named; a server of one's own needs none.

    Args:
        model: its name on the server.
        base_url: where the server is, such as `http://127.0.0.1:8000/v1`.
        concurrency: most requests under way.
        timeout: seconds to wait for one reply, from the request to its last byte.
        attempts: most tries of one request; the default outlasts an outage of half a minute, as a rule.
        back_off: longest wait before the second try, in seconds; it doubles with each further one.
        key_variable: the environment variable that holds the key.
        follows_schema: whether the server takes a JSON schema; DeepSeek's, for one, refuses a request that has one.
        system_role: whether the model's chat template has that role; Gemma 2's, for one, refuses it.
        reasoning: whether the model is one of OpenAI's that reason: for those a limit of tokens has another name, and
            how they decode is theirs to say.

    Raises:
        ValueError: for an argument out of bounds, another kind of URL, a named variable that is not set, or a key that
            no header can carry.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        concurrency: int = 16,
        timeout: float = 60.0,
        attempts: int = 8,
        back_off: float = 0.5,
        key_variable: str = KEY_VARIABLE,
        follows_schema: bool = True,
        system_role: bool = True,
        reasoning: bool = False,
    ):
        _check_url(base_url)
        check_count("concurrency", concurrency)
        check_count("attempts", attempts)
        if not isinstance(timeout, int | float) or not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, got {timeout}.")
        if not isinstance(back_off, int | float) or not back_off >= 0:
            raise ValueError(f"back_off must be a number of seconds of at least 0, got {back_off}.")
        switches = {"follows_schema": follows_schema, "system_role": system_role, "reasoning": reasoning}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value}.")
        if not _read_key(key_variable) and key_variable != KEY_VARIABLE:
            raise ValueError(f"the environment variable {key_variable} is not set.")
        self.key_variable = key_variable
        # The cache's key: all that an answer depends on.
        self.name = f"openai:{model}@{base_url}{'' if system_role else '?system_role=false'}"
        self.model = model
        self.base_url = base_url
        self.batch_size = self.concurrency = concurrency
        self.timeout = timeout
        self.follows_schema, self.system_role, self.reasoning = follows_schema, system_role, reasoning
        self.attempts = attempts
        self._back_off = wait_random_exponential(multiplier=back_off, max=30)

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]; a request that fails to its last try is named in the error.

        A chat that the server's content filter refuses is answered by an empty text.
        """
        replies = _run(self._ask_all(chats, [self._options(sampling, row) for row in range(len(chats))]))
        completions = {index: reply for index, reply in enumerate(replies) if isinstance(reply, Completion)}
        failed = {index: reply for index, reply in enumerate(replies) if isinstance(reply, _Failure)}
        if failed:
            reasons = {index: failure.reason for index, failure in failed.items()}
            first = next(iter(reasons.values()))
            message = f"{len(failed)} of {len(chats)} requests to {self.base_url} failed; the first: {first}"
            too_long = [index for index, failure in failed.items() if failure.too_long]
            raise GenerationError(message, reasons, completions, too_long)
        return [completions[index] for index in range(len(chats))]

    def _options(self, sampling: SamplingParameters, row: int) -> dict[str, Any]:
        """What is asked beside the chat; of the sampling no more than it needs, as some servers know no seed."""
        limit = "max_completion_tokens" if self.reasoning else "max_tokens"
        options: dict[str, Any] = {"model": self.model, limit: sampling.max_new_tokens}
        if not self.reasoning:
            options["temperature"] = sampling.temperature
            if sampling.temperature > 0:  # with the same seed, equal chats of a batch would draw the same
                options |= {"top_p": sampling.top_p, "seed": sampling.seed + row}
        if sampling.json_schema is not None:
            if not self.follows_schema:
                raise ValueError(f"{self.name} can't hold an answer to a JSON schema: its follows_schema is false.")
            schema = {"name": "reply", "schema": loads(sampling.json_schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return options

    async def _ask_all(
        self, chats: Sequence[Chat], options: Sequence[dict[str, Any]]
    ) -> Sequence[Completion | _Failure]:
        slots = asyncio.Semaphore(self.concurrency)
        key = _read_key(self.key_variable)
        # The limit of the time is ours: the client's begins anew with each byte.
        client = AsyncOpenAI(api_key=key or "none", base_url=self.base_url, timeout=None, max_retries=0)

        async def ask(chat: Chat, options: dict[str, Any]) -> Completion | _Failure:
            retrying = AsyncRetrying(
                stop=stop_after_attempt(self.attempts),
                wait=self._wait,
                retry=retry_if_exception(_is_passing),
                reraise=True,
            )
            async with slots:
                try:
                    return await retrying(self._ask, client, chat, options)
                except (OpenAIError, TimeoutError, ValueError) as error:
                    # A refusal like a model's own: asked again, the server would say so again.
                    refused = _refuses_content(error)
                    return Completion("", 0, 0, CONTENT_FILTER) if refused else self._failure(error, key)

        async with client:
            return await asyncio.gather(*map(ask, map(self._as_sent, chats), options))

    def _as_sent(self, chat: Chat) -> Chat:
        return escape_markers(chat if self.system_role else without_system(chat))

    async def _ask(self, client: AsyncOpenAI, chat: Chat, options: dict[str, Any]) -> Completion:
        async with asyncio.timeout(self.timeout):
            reply = await client.chat.completions.with_raw_response.create(messages=chat, **options)  # type: ignore[arg-type]
        return _read(reply.content)

    def _wait(self, state: RetryCallState) -> float:
        """Back off with jitter, and no shorter than the server asks."""
        error = state.outcome.exception() if state.outcome else None
        return max(self._back_off(state), _asked_wait(error) if isinstance(error, APIStatusError) else 0.0)

    def _failure(self, error: Exception, key: str) -> _Failure:
        reason = first_line(error)
        if isinstance(error, TimeoutError):
            reason = f"no reply within {self.timeout:g} s"
        elif isinstance(error, APIConnectionError) and error.__cause__ is not None:
            reason = f"no connection, or a broken one ({first_line(error.__cause__)})"
        too_long = isinstance(error, APIStatusError) and _CONTEXT_EXCEEDED.search(f"{error.code} {error}") is not None
        # Some servers repeat the key that they refuse.
        return _Failure((reason.replace(key, "***") if key else reason)[:300], too_long)


def _run(asking: Coroutine[Any, Any, Sequence[Completion | _Failure]]) -> Sequence[Completion | _Failure]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)  # in this thread: Ctrl-C then ends it
    with ThreadPoolExecutor(1) as thread:  # the caller runs in an event loop, as notebooks do
        return thread.submit(asyncio.run, asking).result()


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{variable} holds characters that no key has.")
    return key


def _check_url(base_url: str):
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{base_url!r} is no server's URL: use http://HOST/... or https://HOST/....")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"a server's URL holds no name or password: put the key into {KEY_VARIABLE}.")


def _read(body: bytes) -> Completion:
    try:
        reply = loads(body)
        choice = reply["choices"][0]
        reason, message = choice.get("finish_reason"), choice.get("message") or {}
        # A choice that says why it ended may hold no text: a thought took all its tokens, or the model called a tool.
        text = (message["content"] if reason is None else message.get("content")) or ""
        usage = reply.get("usage") or {}
        # Half a surrogate pair is no text: no tokenizer and no file takes it.
        answer = without_thought(text.encode(errors="replace").decode().strip())
        read, written = (int(usage.get(f"{kind}_tokens") or 0) for kind in ("prompt", "completion"))
    except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError, RecursionError):
        beginning = " ".join(body[:1000].decode(errors="replace").split())
        raise MalformedReplyError(f"the server's reply holds no completion; it begins {beginning!r}") from None
    if answer is None or (not answer and reason == "length"):
        raise NoAnswerError(NO_ANSWER.format(tokens=written))
    return Completion(answer, read, written, reason if reason in ("length", CONTENT_FILTER) else "stop")


def _is_passing(error: BaseException) -> bool:
    """Whether another try may help: not where the request itself is at fault."""
    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError | MalformedReplyError | TimeoutError)


def _refuses_content(error: Exception) -> bool:
    """Whether the server's filter won't have the chat."""
    if not isinstance(error, APIStatusError) or error.status_code not in (400, 422):
        return False
    return _CONTENT_REFUSED.search(f"{error.code} {error}") is not None


def _asked_wait(error: APIStatusError) -> float:
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return 0.0  # none, or a date
    return max(0.0, min(seconds, _LONGEST_WAIT))
