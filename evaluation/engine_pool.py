"""The engines of a study: each loaded at its first use, and let go before a part that doesn't need it."""

import gc
from collections.abc import Collection

import torch

from generation.base import TextGenerator
from generation.engines import EMBEDDED_ADAPTER, is_embedded, load_engine


class EnginePool:
    """Engines by spelling."""

    def __init__(self) -> None:
        self._engines: dict[tuple[str, bool], TextGenerator] = {}

    def get(self, spelling: str, adapted: bool = False) -> TextGenerator:
        """The engine, loaded if it isn't there.

        Args:
            spelling: as `generation.engines.SPELLINGS` has it.
            adapted: whether the embedded model, if that is named, is wanted as the fine-tuned refiner.
        """
        key = spelling, adapted and is_embedded(spelling)  # of any other, one does for both
        if key not in self._engines:
            self._engines[key] = load_engine(spelling, str(EMBEDDED_ADAPTER) if adapted else None)
        return self._engines[key]

    def keep_only(self, spellings: Collection[str]):
        """Let all others go: two models of 8 B seldom fit one GPU."""
        self._engines = {key: engine for key, engine in self._engines.items() if key[0] in spellings}
        gc.collect()
        torch.cuda.empty_cache()  # what one engine's library has let go, the next one's sees only then
