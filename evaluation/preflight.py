"""What a study would come to grief on, found before anything is generated."""

import os
from collections.abc import Iterator
from typing import cast
from urllib.parse import urlsplit

from errors import UserError
from evaluation.assembly import most_calls
from evaluation.study import Study
from generation.engines import check_spelling, is_embedded, load_engine
from generation.openai_engine import OpenAIEngine

KEYED_HOST = "api.openai.com"  # serves no one without a key, while a server of one's own may ask for none


class PreflightError(UserError):
    """A study with an engine that can't do its part."""


def check_engines(study: Study):
    """Refuse a study whose engines can't be asked, or can't be steered by RepE; no model is loaded for it.

    Raises:
        PreflightError: naming the backbone or the engine.
        EngineError: for a spelling that names none, an option that it doesn't have, or vLLM where it isn't installed.
    """
    for backbone in study.backbones:
        if "repe" in study.methods_of(backbone):
            _check_steerable(backbone.name, study.engine_of("repe", backbone, "backbone"))
    for spelling in dict.fromkeys(_engines(study)):
        check_spelling(spelling)
        if spelling.startswith("openai:"):
            _check_key(spelling)


def _engines(study: Study) -> Iterator[str]:
    """The spellings of all engines that will be loaded."""
    roles = most_calls(study)
    for backbone in study.backbones:
        for method in study.methods_of(backbone):
            for role in roles[method]:
                yield study.engine_of(method, backbone, role)
    yield from study.judges


def _check_steerable(backbone: str, spelling: str):
    if not (is_embedded(spelling) or spelling.startswith("transformers:")):
        raise PreflightError(
            f"backbones: {backbone}: RepE steers a transformers engine from within and can't steer {spelling!r}: "
            "name one as its repe, or leave repe out of the methods."
        )


def _check_key(spelling: str):
    engine = cast(OpenAIEngine, load_engine(spelling))  # makes no connection
    if urlsplit(engine.base_url).hostname == KEYED_HOST and not os.environ.get(engine.key_variable, "").strip():
        raise PreflightError(f"{spelling}: the environment variable {engine.key_variable} is not set.")
