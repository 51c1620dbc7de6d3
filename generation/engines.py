"""The one spelling of an engine: `embedded`, or `KIND:MODEL`."""

from safetensors import SafetensorError

from errors import UserError, first_line
from generation.base import TextGenerator
from generation.embedded import embedded_model
from generation.transformers_engine import TransformersEngine


class EngineError(UserError):
    """An engine's spelling that names none, or a model that can't be loaded."""


def load_engine(spelling: str) -> TextGenerator:
    """The engine that `spelling` names: `embedded`, or `transformers:NAME_OR_PATH`.

    Raises:
        EngineError: for another spelling, or a model that can't be loaded.
    """
    kind, _, model = spelling.partition(":")
    try:
        if spelling == "embedded":
            return TransformersEngine(str(embedded_model()))
        if kind == "transformers" and model:
            return TransformersEngine(model)
    except (OSError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        raise EngineError(f"{spelling}: {first_line(error)}") from None
    raise EngineError(f"{spelling!r} names no engine: use 'embedded' or 'transformers:NAME_OR_PATH'.")
