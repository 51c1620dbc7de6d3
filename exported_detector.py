"""The detector as a graph that `export_lance.py` wrote, on ONNX Runtime or OpenVINO: faster than PyTorch on a CPU."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from detector import EXPORT_FILE, ROOT, DetectorError
from errors import first_line

OUTPUTS = ("alpha", "beta")
Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]

RiskAssessor: Any = get_class_from_dynamic_module("modeling_lance.RiskAssessor", str(ROOT))
LanceConfig: Any = get_class_from_dynamic_module("configuration_lance.LanceConfig", str(ROOT))


@dataclass(frozen=True)
class Export:
    """What an exported folder holds, kept in its `EXPORT_FILE`.

    Attributes:
        format: `"onnx"` or `"openvino"`.
        precision: `"float32"` or `"int8"`.
        parameters: how many parameters the graph computes with, before any quantisation.
    """

    format: str
    precision: str
    parameters: int

    def save(self, folder: Path):
        """Write the folder's `EXPORT_FILE`."""
        (folder / EXPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Export":
        """Read the folder's `EXPORT_FILE`."""
        return cls(**json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8")))


class ExportedDetector(RiskAssessor):
    """Assesses pairs as `LanceForRiskDistribution` does, without PyTorch's forward.

    Args:
        folder: what `export_lance.py` wrote.

    Raises:
        DetectorError: when its runtime isn't installed, or can't read the graph.
        OSError: when a file is missing.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.export = Export.load(folder)
        self.config = LanceConfig.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, config=self.config.encoder_config)
        try:
            self._run = RUNTIMES[self.export.format](folder, self.export.precision)
        except ImportError as error:
            raise DetectorError(f"{folder}: {first_line(error)}: pip install -r requirements-export.txt") from None

    def concentrations(self, encodings: Sequence[dict[str, list[int]]]) -> tuple[Tensor, Tensor]:
        """α and β of one batch, each of shape `(batch, categories)`, in float32.

        Args:
            encodings: of pairs, not padded yet.
        """
        alpha, beta = self._run(self.tokenizer.pad(list(encodings), return_tensors="np"))
        return torch.from_numpy(alpha), torch.from_numpy(beta)

    def num_parameters(self) -> int:
        """How many parameters the graph computes with; the decoders and the semantic head are not among them."""
        return self.export.parameters


def _onnx(folder: Path, precision: str) -> Run:
    import onnxruntime  # an extra, as OpenVINO is: imported where it is asked for
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile

    path = folder / "detector.onnx"
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise DetectorError(f"{path}: no graph for ONNX Runtime ({first_line(error)})") from None
    return lambda batch: session.run(OUTPUTS, dict(batch))


def _openvino(folder: Path, precision: str) -> Run:
    import openvino

    path = folder / "detector.xml"
    # Left to itself OpenVINO computes in bfloat16 where the CPU has it: welcome beside int8, too coarse for float32.
    options = {"INFERENCE_PRECISION_HINT": "f32"} if precision == "float32" else {}
    try:
        compiled = openvino.compile_model(path, "CPU", options)
    except RuntimeError as error:
        raise DetectorError(f"{path}: no graph for OpenVINO ({first_line(error)})") from None

    def run(batch: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        outputs = compiled(dict(batch))
        return [outputs[name] for name in OUTPUTS]

    return run


RUNTIMES: dict[str, Callable[[Path, str], Run]] = {"onnx": _onnx, "openvino": _openvino}
