import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModel, RobertaConfig, RobertaModel

import export_lance
from command_line import UsageError
from corpora.records import CorpusError
from detector import (
    ROOT,
    DetectorError,
    average_checkpoints,
    detector_class,
    exported_detector_class,
    load_detector,
)
from tests.out_of_sight import run_out_of_sight

ExportedDetector = exported_detector_class()
ExportedDetector.forbid_usage_reports()
import openvino  # noqa: E402  # it reports from its import on

DATA = ROOT / "tests" / "data"
FORMATS = ("onnx", "openvino")
LOSSY = (("onnx", "int8"), ("openvino", "int8"), ("openvino", "bf16"))
PAIRS = [
    ("the cat", "sat on the mat"),
    ("a dog", None),
    ("What is the safest way to cross a busy street with a child?", "Hold hands, and look both ways."),
    ("Hi", " "),
    ("bread " * 60, "a dog"),
]
LONG_PAIRS = [
    ("Please tell me a story", "about a garden and a friendly neighbour " * 60),
    ("bread " * 400, None),
    ("street " * 300, "garden " * 200),
]


def export(*options):
    export_lance.main(export_lance.make_parser().parse_args([str(option) for option in options]))


@pytest.fixture(scope="module")
def exported(tiny_detector, tmp_path_factory):
    folders = {}

    def folder_of(form, precision="fp32"):
        if (form, precision) not in folders:
            folder = tmp_path_factory.mktemp("exported") / f"{form}-{precision}"
            options = ("--format", form, "--precision", precision, "--output_dir", folder)
            calibration = ("--calibration_file", DATA / "pairs.jsonl") if (form, precision) == LOSSY[1] else ()
            export("--detector", tiny_detector, *options, *calibration)
            folders[form, precision] = folder
        return folders[form, precision]

    return folder_of


@pytest.fixture(scope="module")
def detector(tiny_detector):
    return load_detector(tiny_detector)


def assert_same(verdicts, expected, tolerance=1e-3):
    for verdict, other in zip(verdicts, expected, strict=True):
        for name in ("mean", "std", "alpha", "beta"):
            assert getattr(verdict, name) == pytest.approx(getattr(other, name), abs=tolerance)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_it_scores_as_pytorch_does_whatever_the_lengths(exported, detector, form, batch_size):
    prompts, responses = zip(*PAIRS, *LONG_PAIRS, strict=True)
    expected = detector.assess(prompts, responses)
    assert_same(load_detector(exported(form)).assess(prompts, responses, batch_size=batch_size), expected)


@pytest.mark.parametrize("form", FORMATS)
def test_threads_share_it(exported, detector, form):
    shared = load_detector(exported(form))
    prompts = [f"bread {'street ' * length}" for length in range(40)]
    with ThreadPoolExecutor(4) as threads:
        for verdicts in threads.map(lambda _: shared.assess(prompts, batch_size=2), range(8)):
            assert_same(verdicts, detector.assess(prompts))


@pytest.mark.parametrize("form", FORMATS)
def test_the_embedded_checkpoint_scores_as_in_pytorch(form, tmp_path):
    export("--format", form, "--output_dir", tmp_path)
    prompts, responses = zip(*PAIRS, *LONG_PAIRS[:1], strict=True)
    assert_same(load_detector(tmp_path).assess(prompts, responses), load_detector().assess(prompts, responses))


@pytest.mark.parametrize("form", FORMATS)
def test_an_encoder_without_segments_is_exported_too(tiny_detector, form, tmp_path):
    tokenizer = load_detector(tiny_detector).tokenizer
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=130, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RobertaModel(config).save_pretrained(tmp_path / "encoder")
        tokenizer.save_pretrained(tmp_path / "encoder")
        softplus = {"beta_parameterization": "softplus", "pooling": "cls"}
        model = detector_class().from_encoder(tmp_path / "encoder", max_length=64, **softplus)
    model.save_pretrained(tmp_path / "lance")
    export("--detector", tmp_path / "lance", "--format", form, "--output_dir", tmp_path / "exported")
    prompts, responses = zip(*PAIRS, *LONG_PAIRS, strict=True)
    expected = load_detector(tmp_path / "lance").assess(prompts, responses)
    assert_same(load_detector(tmp_path / "exported").assess(prompts, responses), expected)


@pytest.mark.parametrize(("form", "precision"), LOSSY)
def test_fewer_bits_stay_near(exported, detector, form, precision):
    prompts, responses = zip(*PAIRS, *LONG_PAIRS, strict=True)
    verdicts = load_detector(exported(form, precision)).assess(prompts, responses)
    for verdict, other in zip(verdicts, detector.assess(prompts, responses), strict=True):
        assert verdict.mean == pytest.approx(other.mean, abs=0.02)


def constants(folder, form):
    path = folder / ExportedDetector.graph_files[form][0]
    if form == "onnx":
        return [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    nodes = openvino.Core().read_model(path).get_ops()
    return [node.data for node in nodes if node.get_type_name() == "Constant"]


@pytest.mark.parametrize("form", FORMATS)
def test_the_heads_stay_in_fp32_in_int8(exported, detector, form):
    arrays = constants(exported(form, "int8"), form)
    heads = [array if len(array) == 14 else array.T for array in arrays if sorted(array.shape) == [14, 32]]
    for layer in (detector.rejection_head.alpha, detector.rejection_head.beta):
        weight = layer.weight.detach().numpy()
        # NNCF's smooth quantisation moves a scale of each feature from one side of the product to the other.
        scales = [(head * weight).sum(0) / (weight * weight).sum(0) for head in heads]
        assert any(np.allclose(head, weight * scale, 1e-5, 1e-7) for head, scale in zip(heads, scales, strict=True))


@pytest.mark.parametrize("form", FORMATS)
def test_int8_is_smaller_than_fp32(exported, form):
    sizes = [sum(file.stat().st_size for file in exported(form, bits).glob("*model.*")) for bits in ("fp32", "int8")]
    assert sizes[1] < sizes[0]


def test_without_a_file_int8_is_calibrated_on_the_contrast_pairs():
    pairs = export_lance.calibration_pairs(export_lance.CONTRAST_PAIRS)
    assert len(set(pairs)) == export_lance.CALIBRATION_PAIRS
    assert pairs == export_lance.calibration_pairs(export_lance.CONTRAST_PAIRS)


@pytest.mark.parametrize("form", FORMATS)
def test_the_folder_alone_gives_the_same_scores_and_sends_no_report(exported, detector, form, tmp_path):
    folder = shutil.copytree(exported(form), tmp_path / "lance")
    script = """
import json, sys
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
mean = model.assess("the cat", "sat on the mat")[0].mean
reports = [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name] is not None]
print(json.dumps([mean, reports]))
"""
    mean, reports = run_out_of_sight(script, folder, cwd=tmp_path)
    assert mean == pytest.approx(detector.assess("the cat", "sat on the mat")[0].mean, abs=1e-3)
    assert reports == []


def test_the_checkpoints_own_settings_go_along(tiny_detector, tmp_path):
    original = load_detector(tiny_detector)
    original.config.update({"binary_threshold": 0.4, "id2label": {n: f"risk {n}" for n in range(14)}})
    original.save_pretrained(tmp_path / "own")
    export("--detector", tmp_path / "own", "--format", "onnx", "--output_dir", tmp_path / "graph")
    model = load_detector(tmp_path / "graph")
    assert (model.config.binary_threshold, model.config.categories[13]) == (0.4, "risk 13")
    assert [*model.assess("the cat")[0].mean] == model.config.categories
    assert model.num_parameters() == original.num_parameters()
    assert type(model) is type(AutoModel.from_pretrained(tmp_path / "graph", trust_remote_code=True))


def run_script(script, *options, cwd):
    command = [sys.executable, ROOT / script, *map(str, options)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_the_evaluation_takes_it(exported, tmp_path):
    options = ("--detector", exported("onnx"), "--other_file", DATA / "other_pairs.jsonl", "--output_dir", tmp_path)
    done = run_script("evaluate_lance.py", "detection", *options, cwd=tmp_path)
    assert done.returncode == 0
    report = json.loads((tmp_path / "detection.json").read_text())
    assert report["other_domains"]["all"]["n"] == 16
    assert report["parameters"] == load_detector(exported("onnx")).num_parameters()


def test_the_loop_takes_it(exported, tiny_chat_model, tmp_path):
    engine = f"transformers:{tiny_chat_model}"
    options = ("--target", engine, "--refiner", engine, "--max_steps", 0, "--max_new_tokens", 4, "--json")
    done = run_script("refine.py", "--prompt", "a dog", "--detector", exported("openvino"), *options, cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr
    assert len(json.loads(done.stdout)["steps"][0]["risk"]) == 14


def test_the_script_prints_where_the_detector_is(tiny_detector, tmp_path):
    options = ("--detector", tiny_detector, "--format", "openvino", "--output_dir", tmp_path / "new" / "folder")
    done = run_script("export_lance.py", *options, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == str(tmp_path / "new" / "folder")


def test_a_fault_is_one_line_and_exit_code_2(tmp_path):
    options = ("--detector", tmp_path / "missing", "--format", "onnx", "--output_dir", tmp_path / "exported")
    done = run_script("export_lance.py", *options, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"export_lance.py: {tmp_path / 'missing'}: no Lance checkpoint")
    assert list((tmp_path / "exported").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--format", "onnx", "--precision", "bf16"), UsageError, "--format onnx has fp32 or int8"),
        (("--format", "onnx", "--calibration_file", DATA / "pairs.jsonl"), UsageError, "is for --format openvino"),
        (
            ("--format", "openvino", "--precision", "int8", "--calibration_file", "missing.jsonl"),
            CorpusError,
            "missing.jsonl: no such file",
        ),
    ],
)
def test_bad_input_is_named(tiny_detector, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        export("--detector", tiny_detector, *options, "--output_dir", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_folder_that_cannot_be_written_is_named(tiny_detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--output_dir .*file"):
        export("--detector", tiny_detector, "--format", "onnx", "--output_dir", tmp_path / "file")


def test_what_a_folder_holds_stays(tiny_detector, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="it isn't empty; name a new folder"):
        export("--detector", tiny_detector, "--format", "onnx", "--output_dir", tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("notes", "mine")]


def test_what_is_exported_already_is_no_checkpoint(exported, tmp_path):
    with pytest.raises(DetectorError, match="an exported detector; give the checkpoint"):
        export("--detector", exported("onnx"), "--format", "onnx", "--output_dir", tmp_path / "again")
    with pytest.raises(DetectorError, match="an exported detector; give the checkpoint"):
        average_checkpoints([exported("onnx")])


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named(tiny_detector, exported, tmp_path, monkeypatch, package):
    form = "onnx" if package == "onnxruntime" else package
    folder = exported(form)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"needs {package}: pip install -r requirements-export.txt"):
        export("--detector", tiny_detector, "--format", form, "--output_dir", tmp_path)
    with pytest.raises(DetectorError, match="isn't installed: pip install -r requirements-export.txt"):
        load_detector(folder)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("broken", ["missing", "cut", "tokenizer", "config"])
def test_a_broken_folder_is_named(exported, tmp_path, form, broken):
    folder = shutil.copytree(exported(form), tmp_path / "broken")
    name = {"tokenizer": "tokenizer*", "config": "config.json"}.get(broken, "*model.*")
    for path in folder.glob(name):
        if broken in ("cut", "config"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.unlink()
    with pytest.raises(DetectorError, match="broken: no Lance checkpoint"):
        load_detector(folder)
