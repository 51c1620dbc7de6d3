"""Any OpenAI-compatible server: bounded concurrency, back-off, and no prompt lost to a fault."""

import asyncio
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from json import JSONDecodeError, loads

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from errors import first_line
from generation.base import Chat, Completion, GenerationError, SamplingParameters

KEY_VARIABLE = "OPENAI_API_KEY"
_BACK_OFF = wait_random_exponential(multiplier=0.5, max=30)
_CONTEXT_EXCEEDED = re.compile("context.length|maximum context|longer than the maximum model length", re.IGNORECASE)
_LONGEST_WAIT = 120.0  # seconds; of what a server asks for in Retry-After


class MalformedReplyError(OpenAIError):
    """A reply without a completion in it."""


class OpenAIEngine:
    """Chats to a server, many at a time.

    The key comes from the environment variable `OPENAI_API_KEY`; a server of one's own needs none.

    Args:
        model: its name on the server.
        base_url: where the server is, such as `http://127.0.0.1:8000/v1`.
        concurrency: most requests under way.
        timeout: seconds to wait for one reply.
        attempts: most tries of one request.
    """

    def __init__(self, model: str, base_url: str, concurrency: int = 16, timeout: float = 60.0, attempts: int = 6):
        self.name = f"openai:{model}@{base_url}"
        self.model = model
        self.base_url = base_url
        self.batch_size = self.concurrency = concurrency
        self.timeout = timeout
        self.attempts = attempts

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]; a request that fails to its last try is named in the error."""
        # In a thread of its own: the caller may run in an event loop, as notebooks do.
        with ThreadPoolExecutor(1) as thread:
            replies = thread.submit(asyncio.run, self._ask_all(chats, sampling)).result()
        completions = {index: reply for index, reply in enumerate(replies) if isinstance(reply, Completion)}
        failures = {index: reply for index, reply in enumerate(replies) if isinstance(reply, str)}
        if failures:
            first = next(iter(failures.values()))
            message = f"{len(failures)} of {len(chats)} requests to {self.base_url} failed; the first: {first}"
            too_long = [index for index, reason in failures.items() if _CONTEXT_EXCEEDED.search(reason)]
            raise GenerationError(message, failures, completions, too_long)
        return [completions[index] for index in range(len(chats))]

    async def _ask_all(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion | str]:
        slots = asyncio.Semaphore(self.concurrency)
        key = os.environ.get(KEY_VARIABLE, "none")
        async with AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0) as client:

            async def ask(row: int, chat: Chat) -> Completion | str:
                async with slots:
                    try:
                        return await self._ask_with_retries(client, row, chat, sampling)
                    except (OpenAIError, JSONDecodeError) as error:
                        return _reason(error).replace(key, "***")

            return await asyncio.gather(*(ask(row, chat) for row, chat in enumerate(chats)))

    async def _ask_with_retries(
        self, client: AsyncOpenAI, row: int, chat: Chat, sampling: SamplingParameters
    ) -> Completion:
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts), wait=_wait, retry=retry_if_exception(_is_passing), reraise=True
        )
        return await retrying(self._ask, client, row, chat, sampling)

    async def _ask(self, client: AsyncOpenAI, row: int, chat: Chat, sampling: SamplingParameters) -> Completion:
        options: dict = {}
        if sampling.json_schema is not None:
            schema = {"name": "reply", "schema": loads(sampling.json_schema)}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        reply = await client.chat.completions.create(
            model=self.model,
            messages=chat,  # type: ignore[arg-type]
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed + row,
            **options,
        )
        return _read(reply)


def _read(reply: ChatCompletion) -> Completion:
    # The client checks neither the type nor the fields of what a server sends.
    if not isinstance(reply, ChatCompletion) or not reply.choices or reply.choices[0].message is None:
        raise MalformedReplyError("the server's reply holds no completion")
    choice, usage = reply.choices[0], reply.usage
    return Completion(
        (choice.message.content or "").strip(),
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        "length" if choice.finish_reason == "length" else "stop",
    )


def _is_passing(error: BaseException) -> bool:
    """Whether another try may help: not where the request itself is at fault."""
    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError | MalformedReplyError | JSONDecodeError)


def _wait(state: RetryCallState) -> float:
    """Back off with jitter, and no shorter than the server asks."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("retry-after", "") if isinstance(error, APIStatusError) else ""
    return max(_BACK_OFF(state), min(float(asked), _LONGEST_WAIT) if asked.isdigit() else 0.0)


def _reason(error: Exception) -> str:
    if isinstance(error, JSONDecodeError):
        return "the server's reply is not JSON"
    return first_line(error)[:300]
