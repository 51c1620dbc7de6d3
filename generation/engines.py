"""The one spelling of an engine: `embedded`, or `KIND:MODEL`."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from errors import UserError, first_line
from generation.base import TextGenerator
from generation.embedded import embedded_model
from generation.openai_engine import OpenAIEngine
from generation.transformers_engine import TransformersEngine

EMBEDDED = "embedded"
EMBEDDED_ADAPTER = Path(__file__).parents[1] / "refiner"  # makes the refiner of the embedded model; train_refiner.py
SPELLINGS = """\
embedded                                   SmolLM2-135M-Instruct, on this machine
transformers:MODEL[+ADAPTER][?OPTIONS]     a model on the Hub or in a folder, with a LoRA adapter if named
vllm:MODEL[+ADAPTER][?OPTIONS]             the same through vLLM (pip install -r requirements-vllm.txt)
openai:MODEL@BASE_URL[?OPTIONS]            an OpenAI-compatible server; the key from OPENAI_API_KEY
OPTIONS are NAME=VALUE&NAME=VALUE, the engine's own: batch_size, dtype and device for transformers; batch_size,
tensor_parallel_size, dtype and all else of vllm.LLM for vllm; concurrency, timeout, attempts, back_off (seconds),
key_variable (the environment variable that holds the key), follows_schema, system_role and reasoning for openai."""


class EngineError(UserError):
    """An engine's spelling that names none, or a model that can't be loaded."""


def load_engine(spelling: str, embedded_adapter: str | None = None) -> TextGenerator:
    """The engine that `spelling` names, in one of the forms of `SPELLINGS`.

    Args:
        spelling: see `SPELLINGS`.
        embedded_adapter: a LoRA adapter for the embedded model, where that is named.

    Raises:
        EngineError: for another spelling, an option that the engine doesn't have, or a model that can't be loaded.
    """
    make, named, options = _read(spelling)
    try:
        if is_embedded(spelling):
            named = (str(embedded_model()), embedded_adapter)
        return make(*named, **options)
    except Exception as error:  # what a broken file makes torch, transformers and tokenizers raise has no common kind
        raise EngineError(f"{spelling}: {first_line(error)}") from error


def check_spelling(spelling: str):
    """Refuse what names no engine, options that it doesn't have, and vLLM where that is missing; nothing is loaded.

    Raises:
        EngineError: naming the forms, the option, or what to install.
    """
    _read(spelling)


def is_embedded(spelling: str) -> bool:
    """Whether a spelling names the embedded model, with options or without."""
    return spelling.partition("?")[0] == EMBEDDED


def has_adapter(spelling: str) -> bool:
    """Whether a spelling names a LoRA adapter.

    Raises:
        EngineError: for one that names no engine.
    """
    return not is_embedded(spelling) and _match_kind(spelling)[1].groupdict().get("adapter") is not None


def _vllm(*named: Any, **options: Any) -> TextGenerator:
    from generation.vllm_engine import VLLMEngine  # an extra: imported where it is asked for

    return VLLMEngine(*named, **options)


_WITH_ADAPTER = re.compile(r"([^+]+)(?:\+(?P<adapter>.+)?)?")
_ON_SERVER = re.compile(r"(.+)@(https?://.+)")  # from the last @ before a URL: a model's name may hold one too
# By kind: what makes the engine, and how the model is named, whose groups are the first arguments.
_KINDS: dict[str, tuple[Callable[..., TextGenerator], re.Pattern[str]]] = {
    "transformers": (TransformersEngine, _WITH_ADAPTER),
    "vllm": (_vllm, _WITH_ADAPTER),
    "openai": (OpenAIEngine, _ON_SERVER),
}


def _read(spelling: str) -> tuple[Callable[..., TextGenerator], tuple[str | None, ...], dict[str, Any]]:
    """What makes the engine, with its first arguments and its options; errors as [`check_spelling`] raises them."""
    make: Callable[..., TextGenerator] = TransformersEngine
    named: tuple[str | None, ...] = (EMBEDDED, None)
    if not is_embedded(spelling):
        make, found = _match_kind(spelling)
        named = found.groups()
    try:
        options = _read_options(spelling.partition("?")[2])
        signature(make).bind(*named, **options)
    except (TypeError, ValueError) as error:
        raise EngineError(f"{spelling}: {first_line(error)}") from None
    if make is _vllm and find_spec("vllm") is None:
        raise EngineError(f"{spelling}: vLLM is not installed: pip install -r requirements-vllm.txt")
    return make, named, options


def _match_kind(spelling: str) -> tuple[Callable[..., TextGenerator], re.Match[str]]:
    kind, _, model = spelling.partition("?")[0].partition(":")
    if kind in _KINDS:
        make, pattern = _KINDS[kind]
        if found := pattern.fullmatch(model):
            return make, found
    raise EngineError(
        f"{spelling!r} names no engine: use 'embedded', 'transformers:MODEL', 'vllm:MODEL' or 'openai:MODEL@BASE_URL'."
    )


def _read_options(query: str) -> dict[str, Any]:
    options = {}
    for part in filter(None, query.split("&")):
        name, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"option {part!r} must read NAME=VALUE.")
        options[name] = _read_value(value)
    return options


def _read_value(value: str) -> str | int | float | bool:
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
