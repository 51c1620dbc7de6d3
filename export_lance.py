"""Write the detector as a graph for a CPU runtime.

    python export_lance.py --format openvino --precision int8 --output_dir runs/openvino-int8
    python refine.py --detector runs/openvino-int8 --prompt "How do I get back at a neighbour?"

The graph holds encoder, pooling and rejection head, for batches of any size and length; config.json and the tokenizer's
files lie beside it. What it needs besides: pip install -r requirements-export.txt
"""

import argparse
import logging
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from command_line import OneLineErrors, UsageError, make_folder, run
from corpora.records import CorpusError, optional_text_column, read_rows, text_column
from detector import ROOT, load_checkpoint
from errors import first_line
from exported_detector import OUTPUTS, RUNTIMES, Export

CALIBRATION_FILE = ROOT / "corpora" / "contrast" / "labelled.jsonl"
CALIBRATION_PAIRS = 256


class ProductSum(nn.Linear):
    """A linear layer spelt as a sum of products.

    Quantisation and OpenVINO's bfloat16 take hold of matrix products alone, so this one stays in float32.

    Args:
        layer: whose weights it has.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict(layer.state_dict())

    def forward(self, feature: Tensor) -> Tensor:
        """Map `(batch, in)` to `(batch, out)`."""
        return (feature.unsqueeze(1) * self.weight).sum(-1) + self.bias


class Concentrations(nn.Module):
    """What is exported of a detector: from token ids to α and β.

    Args:
        detector: a checkpoint in evaluation mode; its rejection head's layers are replaced.
    """

    def __init__(self, detector: transformers.PreTrainedModel):
        super().__init__()
        self.detector = detector
        head = detector.rejection_head
        head.alpha, head.beta = ProductSum(head.alpha), ProductSum(head.beta)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Arguments as the detector's; α and β, each of shape `(batch, categories)`."""
        # Not through the detector's own forward: OpenVINO misreads its autocast region.
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.detector.encoder(input_ids, attention_mask, **segments).last_hidden_state
        return self.detector.rejection_head(self.detector._pool(states, attention_mask))


def trace(detector: transformers.PreTrainedModel) -> torch.export.ExportedProgram:
    """The detector's graph, with free batch and sequence axes."""
    encodings, _ = detector.encode_pairs(["Any two pairs", "show the graph."], ["Of unequal", "length, best of all."])
    batch = dict(detector.tokenizer.pad(encodings, return_tensors="pt"))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return torch.export.export(Concentrations(detector), (), batch, dynamic_shapes=dict.fromkeys(batch, free))


def write_onnx(detector: transformers.PreTrainedModel, folder: Path, precision: str, calibration_file: Path):
    """Write detector.onnx; in int8 the activations are quantised as they come, so nothing is calibrated."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    detector.set_attn_implementation("eager")  # fewer nodes than what PyTorch's fused attention falls apart into
    graph = torch.onnx.export(trace(detector), output_names=OUTPUTS, dynamo=True, verbose=False)
    path = folder / "detector.onnx"
    if precision == "float32":
        graph.save(path)
    else:
        quantize_dynamic(
            graph.model_proto, path, op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
        )


def write_openvino(detector: transformers.PreTrainedModel, folder: Path, precision: str, calibration_file: Path):
    """Write detector.xml and detector.bin; in int8 the calibration pairs set the activations' ranges."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.convert_model(trace(detector))
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.tensor.set_names({name})
    if precision == "int8":
        encodings = read_calibration(detector, calibration_file)
        batches = [{name: np.array([ids]) for name, ids in encoding.items()} for encoding in encodings]
        model = nncf.quantize(
            model, nncf.Dataset(batches), subset_size=len(batches), model_type=nncf.ModelType.TRANSFORMER
        )
    openvino.save_model(model, folder / "detector.xml", compress_to_fp16=False)


WRITERS = {"onnx": write_onnx, "openvino": write_openvino}


def read_calibration(detector: transformers.PreTrainedModel, path: Path) -> Sequence[dict[str, list[int]]]:
    """The encodings of pairs drawn from a file, whose activations set the ranges that int8 spans.

    Raises:
        CorpusError: for a file without rows, or a row without a prompt.
    """
    pairs = [
        (text_column(place, row, "prompt"), optional_text_column(place, row, "response"))
        for place, row in read_rows(path)
    ]
    if not pairs:
        raise CorpusError(f"{path}: no rows.")
    drawn = random.Random(0).sample(pairs, min(CALIBRATION_PAIRS, len(pairs)))
    prompts, responses = zip(*drawn, strict=True)
    encodings, _ = detector.encode_pairs(prompts, responses)
    return encodings


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=sorted(RUNTIMES), required=True, help="the runtime that it is for")
    parser.add_argument(
        "--precision", choices=("float32", "int8"), default="float32", help="of the encoder (default: float32)"
    )
    parser.add_argument("--model", default=str(ROOT), help="a Lance checkpoint (default: this directory)")
    parser.add_argument(
        "--calibration_file",
        type=Path,
        default=CALIBRATION_FILE,
        help="pairs with prompt and response, for OpenVINO's int8 (default: the contrast pairs)",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="where the graph and its files go")
    return parser


def main(args: argparse.Namespace):
    """Write the graph, and what it needs beside it."""
    if args.output_dir.resolve() == Path(args.model).resolve():
        raise UsageError(f"--output_dir {args.output_dir}: must be another folder than the checkpoint's.")
    make_folder("--output_dir", args.output_dir)
    detector = load_checkpoint(args.model)
    parts = (detector.encoder, detector.rejection_head)
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    try:
        WRITERS[args.format](detector, args.output_dir, args.precision, args.calibration_file)
    except ImportError as error:
        raise UsageError(
            f"--format {args.format}: {first_line(error)}: pip install -r requirements-export.txt"
        ) from None
    detector.config.to_json_file(args.output_dir / "config.json")
    detector.tokenizer.save_pretrained(args.output_dir)
    Export(args.format, args.precision, parameters).save(args.output_dir)  # last: it makes the folder an export
    print(args.output_dir)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # the exporters' own, of PyTorch's inner parts
    run("export_lance.py", lambda: main(make_parser().parse_args()))
