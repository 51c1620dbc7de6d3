"""Completions kept on disk, so that a rerun asks nothing twice."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from diskcache import Cache

from errors import UserError, first_line
from generation.base import Chat, Completion, GenerationError, SamplingParameters, TextGenerator


class CacheError(UserError):
    """A folder that can hold no cache."""


class CachedEngine:
    """An engine behind a cache, keyed by the engine's name, every message and every sampling parameter.

    Sampled completions (a temperature above 0) pass through: another draw is what they are for.

    Args:
        engine: answers what the cache doesn't hold.
        folder: where the completions are kept.

    Raises:
        CacheError: when the folder can't be written, or holds another kind of database.
    """

    def __init__(self, engine: TextGenerator, folder: str | Path):
        self.engine = engine
        self.name = engine.name
        self.batch_size = engine.batch_size
        self.follows_schema = engine.follows_schema
        try:
            self.cache = Cache(str(folder), eviction_policy="none")
        except OSError as error:
            raise CacheError(f"{folder}: no cache can be kept there ({error.strerror}).") from None
        except sqlite3.Error as error:
            raise CacheError(f"{folder}: no cache can be kept there ({first_line(error)}).") from None

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]; equal chats of a batch are asked once."""
        if sampling.temperature > 0:
            return self.engine.generate(chats, sampling)
        keys = [self._key(chat, sampling) for chat in chats]
        kept = {key: self.cache.get(key) for key in keys}
        known = {key: Completion(**fields) for key, fields in kept.items() if fields is not None}
        missing = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in known}
        if missing:
            try:
                answers = dict(zip(missing, self.engine.generate(list(missing.values()), sampling), strict=True))
            except GenerationError as error:
                asked = list(missing)
                known |= self._keep({asked[place]: answer for place, answer in error.completions.items()})
                reasons = {asked[place]: reason for place, reason in error.failures.items()}
                too_long = {asked[place] for place in error.too_long}
                raise GenerationError(
                    str(error),
                    {index: reasons[key] for index, key in enumerate(keys) if key in reasons},
                    {index: known[key] for index, key in enumerate(keys) if key in known},
                    {index for index, key in enumerate(keys) if key in too_long},
                ) from error
            known |= self._keep(answers)
        return [known[key] for key in keys]

    def _keep(self, answers: dict[str, Completion]) -> dict[str, Completion]:
        for key, answer in answers.items():
            self.cache[key] = asdict(answer)
        return answers

    def _key(self, chat: Chat, sampling: SamplingParameters) -> str:
        question = json.dumps([self.name, chat, asdict(sampling)], sort_keys=True)
        return hashlib.sha256(question.encode()).hexdigest()
