"""The exported detector: its graph runs in ONNX Runtime or OpenVINO on the CPU, everything else is the detector's own.

Copied by `export_lance.py` beside the graph, with the detector's own files that it imports: it needs but these,
torch, transformers and the graph's runtime, and `AutoModel` loads the folder like any checkpoint.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from .assessment_lance import RiskAssessor, hub_options, load_tokenizer
from .configuration_lance import LanceConfig

Graph = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


class ExportedDetector(RiskAssessor):
    """Estimates a continuous risk distribution over the categories, as the checkpoint does that it was exported from.

    Args:
        config: the checkpoint's, with what was exported in its field `exported`.
        tokenizer: the checkpoint's.
        graph: maps a padded batch, arrays of shape `(batch, seq)` by name, to α and β, of shape `(batch, categories)`.

    Attributes:
        graph_files: by format, the files that hold a graph, the one to be read first.
        graph_outputs: the names of what a graph gives.
    """

    config_class = LanceConfig
    graph_files = {"onnx": ("model.onnx",), "openvino": ("openvino_model.xml", "openvino_model.bin")}
    graph_outputs = ("alpha", "beta")

    def __init__(self, config: LanceConfig, tokenizer: PreTrainedTokenizerBase, graph: Graph):
        self.config = config
        self.tokenizer = tokenizer
        self._graph = graph

    @classmethod
    def register_for_auto_class(cls, auto_class):
        """Nothing to do: `AutoModel` asks it of every class, for a `save_pretrained` that this one hasn't."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, config: LanceConfig, **options) -> "ExportedDetector":
        """The detector in a folder or on the Hub; `AutoModel.from_pretrained` calls it.

        Args:
            name_or_path: what `export_lance.py` wrote.
            config: its configuration.
            options: of the Hub, such as `revision`; what `AutoModel` gives for models in PyTorch is left unread.

        Raises:
            ImportError: when the graph's runtime isn't installed.
            OSError: when a file is missing.
            ValueError: when the graph can't be read, or is of an unknown format.
        """
        from_hub = hub_options(options)
        form = config.exported["format"]
        if form not in cls.graph_files:
            raise ValueError(f"exported['format'] must be one of {', '.join(cls.graph_files)}, got {form!r}.")
        path, *_ = [cached_file(name_or_path, name, **from_hub) for name in cls.graph_files[form]]
        tokenizer = load_tokenizer(name_or_path, config, **from_hub)
        graph = cls._load_onnx(path) if form == "onnx" else cls._load_openvino(path, config.exported["precision"])
        return cls(config, tokenizer, graph)

    def num_parameters(self) -> int:
        """How many parameters the checkpoint has that was exported."""
        return self.config.exported["parameters"]

    def concentrations(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """α and β of one batch, each of shape `(batch, categories)`, in float32 on the CPU.

        Args:
            batch: what the tokenizer gives for padded pairs, of shape `(batch, seq)` each, on the CPU.
        """
        alpha, beta = self._graph({name: tensor.numpy() for name, tensor in batch.items()})  # (B, 14) each
        return torch.from_numpy(alpha), torch.from_numpy(beta)

    @staticmethod
    def forbid_usage_reports():
        """Keep OpenVINO and NNCF from sending usage reports, which they do from their import on, asking nobody.

        They do without `openvino_telemetry` where it isn't installed, so it is hidden from this process; their own
        opt-out is a file in the user's home.
        """
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

    @classmethod
    def _load_onnx(cls, path: str) -> Graph:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as errors
        except ImportError:
            raise _not_installed("ONNX Runtime") from None
        try:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf) as error:
            raise ValueError(f"ONNX Runtime can't read {Path(path).name}: {error}") from None
        return lambda batch: session.run(cls.graph_outputs, batch)

    @classmethod
    def _load_openvino(cls, path: str, precision: str) -> Graph:
        cls.forbid_usage_reports()
        try:
            import openvino
        except ImportError:
            raise _not_installed("OpenVINO") from None
        # Left to itself, OpenVINO computes in bf16 wherever the CPU can.
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        try:
            compiled = openvino.Core().compile_model(path, "CPU", hint)
        except RuntimeError as error:
            raise ValueError(f"OpenVINO can't read {Path(path).name}: {error}") from None
        one_at_a_time = Lock()  # it has one place for a request's inputs, and threads may share the detector

        def graph(batch: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
            with one_at_a_time:
                return compiled(batch).to_tuple()

        return graph


def _not_installed(runtime: str) -> ImportError:
    return ImportError(f"{runtime} isn't installed: pip install -r requirements-export.txt")


__all__ = ["ExportedDetector"]
