"""Refusal directions kept on disk, so that a rerun reads no prompts for them again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from errors import first_line
from evaluation.methods.refusal_direction import DirectionError, Kind, RefusalDirection, find_direction, read_states
from generation.transformers_engine import TransformersEngine
from whole_file import write_whole


def load_direction(
    engine: TransformersEngine,
    harmful: Sequence[str],
    harmless: Sequence[str],
    kind: Kind,
    layers: Sequence[int],
    folder: Path,
) -> RefusalDirection:
    """The direction that the folder keeps; computed, and kept there, where it has none or a damaged one.

    The coefficient is no part of it: it scales the direction only as it is added.

    Args:
        engine: holds the model.
        harmful: prompts that should be refused.
        harmless: prompts that should not.
        kind: see [`find_direction`].
        layers: places of the decoder layers.
        folder: is made where there is none.

    Raises:
        DirectionError: when the direction can't be computed, or the folder can't be written.
    """
    key = {
        "model": engine.name,
        "layers": json.dumps(list(layers)),
        "direction": kind,
        "sha256": _sha256(json.dumps([list(harmful), list(harmless)]).encode()),
        "count": str(len(harmful) + len(harmless)),
    }
    path = folder / f"{_sha256(json.dumps(key, sort_keys=True).encode())[:16]}.safetensors"
    direction = _read(path, key)
    if direction is None:
        direction = find_direction(read_states(engine, harmful, layers), read_states(engine, harmless, layers), kind)
        _write(path, key, direction)
    return direction


def _read(path: Path, key: dict[str, str]) -> RefusalDirection | None:
    try:
        with safe_open(path, framework="pt") as file:
            direction = RefusalDirection(file.get_tensor("vectors"), file.get_tensor("norms"))
            whole = file.metadata() == key | {"checksum": _checksum(direction)}
    except (OSError, SafetensorError):
        return None
    return direction if whole else None


def _write(path: Path, key: dict[str, str], direction: RefusalDirection):
    content = save(vars(direction), key | {"checksum": _checksum(direction)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise DirectionError(f"repe: {path.parent}: the direction can't be kept there ({first_line(error)}).") from None


def _checksum(direction: RefusalDirection) -> str:
    return _sha256(save(vars(direction)))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
