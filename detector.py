"""The one road to the detector: its class as the Hub's users get it, and a checked load of a checkpoint."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

ROOT = Path(__file__).parent


class DetectorError(ValueError):
    """A checkpoint that can't be loaded as a Lance detector."""


def detector_class() -> type[PreTrainedModel]:
    """`LanceForRiskDistribution`, through the Hub's dynamic modules like every user of the checkpoint."""
    return get_class_from_dynamic_module("modeling_lance.LanceForRiskDistribution", str(ROOT))


def load_detector(name_or_path: str | Path = ROOT) -> PreTrainedModel:
    """A Lance checkpoint from a folder or the Hub, in evaluation mode.

    Raises:
        DetectorError: when there is no checkpoint, or it is of another kind.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=True)
        is_lance = config.model_type == "lance"
        model = AutoModel.from_pretrained(name_or_path, trust_remote_code=True) if is_lance else None
    except (OSError, ValueError, SafetensorError) as error:
        raise DetectorError(f"{name_or_path}: no Lance checkpoint ({str(error).splitlines()[0]})") from None
    if model is None:
        raise DetectorError(f"{name_or_path}: a {config.model_type!r} checkpoint, not Lance's.")
    return model.eval()
