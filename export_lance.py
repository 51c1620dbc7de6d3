"""Export the detector for deployment on CPUs, to ONNX Runtime or OpenVINO.

    python export_lance.py --format onnx --output_dir runs/onnx
    python export_lance.py --format openvino --precision int8 --calibration_file pairs.jsonl --output_dir runs/int8

The folder holds the graph, for batches and texts of any length, the configuration, the tokenizer and the code around
them: `AutoModel` and every --detector take it in place of the checkpoint. int8 for ONNX Runtime quantises activations
as they come; OpenVINO's has fixed ranges, found on the calibration pairs, and is the faster of the two.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from command_line import OneLineErrors, UsageError, make_folder, run
from corpora.records import optional_text_column, read_rows, text_column
from detector import ROOT, exported_detector_class, load_checkpoint

PRECISIONS = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "int8", "bf16")}
PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("nncf", "openvino")}
CODE = ("assessment_lance.py", "configuration_lance.py", "distribution_lance.py", "exported_detector.py")

CONTRAST_PAIRS = [ROOT / "corpora" / "contrast" / name for name in ("labelled.jsonl", "safe.jsonl", "everyday.jsonl")]
CALIBRATION_PAIRS = 300

Pair = tuple[str, str | None]


class Concentrations(nn.Module):
    """The detector as its graph has it: encoded pairs in, α and β out.

    Args:
        detector: in evaluation mode.
    """

    def __init__(self, detector: PreTrainedModel):
        super().__init__()
        self.detector = detector

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map encoded pairs, each input of shape `(batch, seq)`, to (α, β), each of shape `(batch, categories)`."""
        output = self.detector(input_ids, attention_mask, token_type_ids)
        return output.alpha, output.beta


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default=str(ROOT), help="a Lance checkpoint (default: this directory)")
    parser.add_argument("--format", choices=PRECISIONS, required=True, help="what the graph is for")
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8", "bf16"),
        default="fp32",
        help="fp32 scores as PyTorch does (default); bf16 is OpenVINO's alone, for CPUs that compute in it",
    )
    parser.add_argument(
        "--calibration_file",
        type=Path,
        help=f"pairs with prompt and response, {CALIBRATION_PAIRS} of which set the ranges of OpenVINO's int8: the "
        "training pairs, best (default: the pairs of corpora/contrast)",
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="a new or empty folder")
    return parser


def check(args: argparse.Namespace):
    """Refuse what can't be exported.

    Raises:
        UsageError: naming the option and what would do.
    """
    if args.precision not in PRECISIONS[args.format]:
        allowed = " or ".join(PRECISIONS[args.format])
        raise UsageError(f"--precision {args.precision}: --format {args.format} has {allowed}.")
    if args.calibration_file is not None and (args.format, args.precision) != ("openvino", "int8"):
        raise UsageError("--calibration_file is for --format openvino --precision int8.")
    missing = [name for name in PACKAGES[args.format] if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {args.format} needs {' and '.join(missing)}: pip install -r requirements-export.txt"
        )


@contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """A folder whose files move to `output_dir` at the end, and are gone when an error comes before it.

    Raises:
        UsageError: when `output_dir` can't be written, or holds something.
    """
    make_folder("--output_dir", output_dir)
    try:
        if any(output_dir.iterdir()):
            raise UsageError(f"--output_dir {output_dir}: it isn't empty; name a new folder.")
        temporary = TemporaryDirectory(dir=output_dir)
    except OSError as error:
        raise UsageError(f"--output_dir {output_dir}: {error.strerror}.") from None
    with temporary as name:
        yield Path(name)
        for file in Path(name).iterdir():
            file.rename(output_dir / file.name)


def trace(detector: PreTrainedModel) -> torch.export.ExportedProgram:
    """The detector's graph, for batches and lengths of any size up to its `max_length`."""
    encodings, _ = detector.encode_pairs(["How do I bake bread?", "Hello"], ["Knead, rest, bake.", None])
    inputs = dict(detector.tokenizer.pad(encodings, return_tensors="pt"))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=detector.config.max_length)}
    return torch.export.export(Concentrations(detector), (), kwargs=inputs, dynamic_shapes=dict.fromkeys(inputs, axes))


def write_onnx(program: torch.export.ExportedProgram, folder: Path, precision: str):
    """The graph as an ONNX file; in int8 the encoder's weights are, by channel, and its activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exported = exported_detector_class()
    path = folder / exported.graph_files["onnx"][0]
    onnx_program = torch.onnx.export(program, output_names=exported.graph_outputs, verbose=False)
    onnx_program.save(path)
    if precision == "int8":
        # The heads are Gemm nodes: they stay in fp32, as do the embeddings.
        products = [node.name for node in onnx_program.model_proto.graph.node if node.op_type == "MatMul"]
        quantize_dynamic(path, path, nodes_to_quantize=products, weight_type=QuantType.QInt8, per_channel=True)


def write_openvino(
    program: torch.export.ExportedProgram,
    folder: Path,
    precision: str,
    detector: PreTrainedModel,
    pairs: Sequence[Pair],
):
    """The graph as OpenVINO's two files; in int8 its ranges are what the pairs reach.

    Args:
        program: the traced detector.
        folder: where they go.
        precision: of the graph.
        detector: encodes the pairs.
        pairs: to calibrate on, in int8.
    """
    exported = exported_detector_class()
    exported.forbid_usage_reports()
    import openvino

    model = openvino.convert_model(program)
    for output, name in zip(model.outputs, exported.graph_outputs, strict=True):
        output.tensor.set_names({name})
    if precision == "int8":
        model = quantize_openvino(model, detector, pairs)
    openvino.save_model(model, folder / exported.graph_files["openvino"][0], compress_to_fp16=precision == "bf16")


def quantize_openvino(model, detector: PreTrainedModel, pairs: Sequence[Pair]):
    """Weights and activations in int8, all but the heads', which stay in fp32."""
    import nncf

    encodings, _ = detector.encode_pairs(*zip(*pairs, strict=True))
    batches = [dict(detector.tokenizer.pad([encoding], return_tensors="np")) for encoding in encodings]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=head_names(model)),
    )


def head_names(model) -> list[str]:
    """The matrix products of an OpenVINO graph that no other one follows: the rejection head's."""
    names, nodes = set(), [output.get_node() for output in model.outputs]
    while nodes:
        node = nodes.pop()
        if node.get_type_name() == "MatMul":
            names.add(node.get_friendly_name())
        else:
            nodes.extend(value.get_node() for value in node.input_values())
    return sorted(names)


def calibration_pairs(paths: Sequence[Path]) -> list[Pair]:
    """Some pairs of the files, drawn at random, the same at each call.

    Raises:
        CorpusError: for a file that can't be read, holds no rows, or has a row without a prompt.
    """
    pairs = [
        (text_column(place, row, "prompt"), optional_text_column(place, row, "response"))
        for path in paths
        for place, row in read_rows(path)
    ]
    return random.Random(0).sample(pairs, min(CALIBRATION_PAIRS, len(pairs)))


def write_surroundings(detector: PreTrainedModel, folder: Path, form: str, precision: str):
    """What goes around the graph: configuration, tokenizer and code."""
    config = json.loads(detector.config.to_json_string())
    config |= {
        "architectures": ["ExportedDetector"],
        "auto_map": {
            "AutoConfig": "configuration_lance.LanceConfig",
            "AutoModel": "exported_detector.ExportedDetector",
        },
        "exported": {"format": form, "precision": precision, "parameters": detector.num_parameters()},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    detector.tokenizer.save_pretrained(folder)
    for name in CODE:
        shutil.copy(ROOT / name, folder)


def main(args: argparse.Namespace):
    """Export the detector, and print where it is."""
    check(args)
    calibrated = (args.format, args.precision) == ("openvino", "int8")
    pairs = (
        calibration_pairs([args.calibration_file] if args.calibration_file else CONTRAST_PAIRS) if calibrated else []
    )
    with staged(args.output_dir) as folder:
        detector = load_checkpoint(args.detector).float()
        program = trace(detector)
        if args.format == "onnx":
            write_onnx(program, folder, args.precision)
        else:
            write_openvino(program, folder, args.precision, detector, pairs)
        write_surroundings(detector, folder, args.format, args.precision)
    print(args.output_dir)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run("export_lance.py", lambda: main(make_parser().parse_args()))
