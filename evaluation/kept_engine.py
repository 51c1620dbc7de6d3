"""A run's engines: what one has answered, greedily or by a draw, it isn't asked for again."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from generation.base import Chat, Completion, GenerationError, SamplingParameters, TextGenerator
from generation.cache import CachedEngine


class KeptEngine:
    """An engine whose completions are kept in a run's folder, sampled ones too: a rerun generates none of them twice.

    Greedy ones are [`CachedEngine`]'s. A sampled request that comes again wants another draw, so its draws are kept in
    their order, and a new process is given them in that order before any is added. The seed is no part of a request:
    the loop's hangs on which prompts are under way together, which a restart changes, and a run has one study's seed.

    Args:
        engine: answers what isn't kept.
        folder: where the completions are kept.

    Raises:
        CacheError: when the folder can't be written, or holds another kind of database.
    """

    def __init__(self, engine: TextGenerator, folder: Path):
        self.engine, self.greedy = engine, CachedEngine(engine, folder)
        self.name, self.batch_size, self.follows_schema = engine.name, engine.batch_size, engine.follows_schema
        self._given: Counter[str] = Counter()  # this process's draws so far, by request

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]; equal chats of a sampled batch get a draw each."""
        if sampling.temperature == 0:
            return self.greedy.generate(chats, sampling)
        requests = [self._request(chat, sampling) for chat in chats]
        given = {place: draw for place, request in enumerate(requests) if (draw := self._next_kept(request))}
        missing = [place for place in range(len(chats)) if place not in given]
        if given:  # the kept draws had the seeds from this one on: alike, a new one could repeat them
            sampling = replace(sampling, seed=sampling.seed + len(chats))
        if missing:
            try:
                drawn = self.engine.generate([chats[place] for place in missing], sampling)
            except GenerationError as error:
                given |= self._keep(requests, {missing[row]: draw for row, draw in error.completions.items()})
                failures = {missing[row]: reason for row, reason in error.failures.items()}
                too_long = {missing[row] for row in error.too_long}
                raise GenerationError(str(error), failures, given, too_long) from error
            given |= self._keep(requests, dict(zip(missing, drawn, strict=True)))
        return [given[place] for place in range(len(chats))]

    def _next_kept(self, request: str) -> Completion | None:
        """The next of a request's kept draws, if there is another."""
        fields = self.greedy.cache.get(self._key(request))
        if fields is None:
            return None
        self._given[request] += 1
        return Completion(**fields)

    def _keep(self, requests: Sequence[str], draws: Mapping[int, Completion]) -> Mapping[int, Completion]:
        """Add draws, by place, to those of their requests."""
        for place, draw in draws.items():
            self.greedy.cache[self._key(requests[place])] = asdict(draw)
            self._given[requests[place]] += 1
        return draws

    def _key(self, request: str) -> str:
        return f"{request}, draw {self._given[request]}"

    def _request(self, chat: Chat, sampling: SamplingParameters) -> str:
        request = json.dumps([self.name, chat, asdict(replace(sampling, seed=0))], sort_keys=True)
        return hashlib.sha256(request.encode()).hexdigest()
