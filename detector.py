"""The one road to the detector: its class as the Hub's users get it, and a checked load of a checkpoint."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, Pipeline, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from errors import UserError, first_line

ROOT = Path(__file__).parent
WEIGHTS = (".safetensors", ".onnx", ".bin", ".xml")  # .bin and .xml are OpenVINO's
SETTINGS = ("config.json", "adapter_config.json", "tokenizer.json")


class DetectorError(UserError):
    """A checkpoint that can't be loaded as a Lance detector."""


def detector_class() -> type[PreTrainedModel]:
    """`LanceForRiskDistribution`, through the Hub's dynamic modules like every user of the checkpoint."""
    return get_class_from_dynamic_module("modeling_lance.LanceForRiskDistribution", str(ROOT))


def pipeline_class() -> type[Pipeline]:
    """`RiskDistributionPipeline`, by the same road."""
    return get_class_from_dynamic_module("pipeline_lance.RiskDistributionPipeline", str(ROOT))


def exported_detector_class() -> type[Any]:
    """`ExportedDetector`, by the same road."""
    return get_class_from_dynamic_module("exported_detector.ExportedDetector", str(ROOT))


def load_detector(name_or_path: str | Path = ROOT) -> Any:
    """A Lance checkpoint from a folder or the Hub, in evaluation mode, or what `export_lance.py` made of one.

    The code that lies with it is run.

    Returns:
        A `RiskAssessor`.

    Raises:
        DetectorError: when there is no checkpoint, it is of another kind, or what it needs isn't installed.
    """
    try:
        # Its own word first: another kind of checkpoint is told by it, and its code is not run.
        fields, _ = PreTrainedConfig.get_config_dict(name_or_path)
        if fields.get("model_type") == "lance":
            model = AutoModel.from_pretrained(name_or_path, trust_remote_code=True)
            model.tokenizer  # noqa: B018  # read now: a broken one is found out here
            return model
    except ImportError as error:
        raise DetectorError(f"{name_or_path}: {first_line(error)}") from error
    except Exception as error:  # what a broken file makes transformers and tokenizers raise has no common kind
        raise DetectorError(f"{name_or_path}: no Lance checkpoint ({first_line(error)})") from error
    raise DetectorError(f"{name_or_path}: a {fields.get('model_type')!r} checkpoint, not Lance's.")


def weights_digest(checkpoint: str | Path) -> str | None:
    """The sha256 of what decides a checkpoint's verdicts: its weights, configuration and tokenizer, whatever its name.

    Args:
        checkpoint: a folder, or a single file of weights.

    Returns:
        `None` for a name on the Hub, which tells enough.

    Raises:
        DetectorError: for a file that can't be read.
    """
    path = Path(checkpoint)
    digest = sha256()
    try:
        path.stat()
        for file in [path] if path.is_file() else sorted(filter(_is_decisive, path.iterdir())):
            digest.update(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DetectorError(f"{checkpoint}: {error.strerror}.") from None
    return digest.hexdigest()


def _is_decisive(file: Path) -> bool:
    # The Trainer leaves its options beside a checkpoint's weights.
    decides = file.name in SETTINGS or (file.suffix in WEIGHTS and file.name != "training_args.bin")
    return decides and file.is_file()


def load_checkpoint(name_or_path: str | Path) -> PreTrainedModel:
    """A Lance checkpoint with its weights, as `load_detector` loads it.

    Raises:
        DetectorError: as there, or when it was exported.
    """
    detector = load_detector(name_or_path)
    if not isinstance(detector, PreTrainedModel):
        raise DetectorError(f"{name_or_path}: an exported detector; give the checkpoint that it was made from.")
    return detector


def average_checkpoints(names_or_paths: Sequence[str | Path]) -> PreTrainedModel:
    """The mean of several checkpoints' weights, with the first one's configuration.

    Runs that start from the same encoder and the same fresh heads end near enough to each other for their mean to be a
    model, and a steadier one (Wortsman et al., 2022, Model soups).

    Args:
        names_or_paths: checkpoints trained from one encoder with one seed.

    Raises:
        DetectorError: when one can't be loaded, or has other tensors, or another meaning of them, than the first.
    """
    models = [load_checkpoint(name) for name in names_or_paths]
    for name, model in zip(names_or_paths, models, strict=True):
        for field in ("beta_parameterization", "pooling", "categories"):
            if getattr(model.config, field) != getattr(models[0].config, field):
                raise DetectorError(f"{name}: its {field} is not that of {names_or_paths[0]}, so they have no mean.")
    states = [model.state_dict() for model in models]
    for name, state in zip(names_or_paths, states, strict=True):
        if {key: tensor.shape for key, tensor in state.items()} != {key: t.shape for key, t in states[0].items()}:
            raise DetectorError(f"{name}: its tensors are not those of {names_or_paths[0]}, so they have no mean.")
    mean = {key: torch.stack([state[key].float() for state in states]).mean(0).to(states[0][key]) for key in states[0]}
    models[0].load_state_dict(mean)
    return models[0]
