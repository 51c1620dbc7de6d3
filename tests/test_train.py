import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import train
from command_line import UsageError

ROOT = Path(train.__file__).parent
DATA = ROOT / "tests" / "data"


def arguments(tiny_encoder, output_dir, *extra):
    return [
        *("--encoder", str(tiny_encoder), "--train_file", str(DATA / "pairs.jsonl"), "--output_dir", str(output_dir)),
        *("--safe_file", str(DATA / "safe_pairs.jsonl"), str(DATA / "safe_prompts.jsonl")),
        *("--max_length", "48", "--use_cpu", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3"),
        *("--disable_tqdm", "True", "--logging_steps", "2", "--validation_share", "0.3", *extra),
    ]


def run_main(tiny_encoder, output_dir, *extra):
    train.main(*train.make_parser().parse_args_into_dataclasses(arguments(tiny_encoder, output_dir, *extra)))


def history(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_the_script_trains_a_checkpoint_that_loads_and_reports(tiny_encoder, tmp_path):
    options = ("--num_train_epochs", "2", "--half_precision", "--soft_labels", "--category_balance", "0.3")
    subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments(tiny_encoder, tmp_path, *options)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    training = [row for row in history(next(tmp_path.glob("checkpoint-*"))) if "loss" in row]
    assert all({"label_loss", "aux_loss", "feature_loss", "kl_loss"} <= row.keys() for row in training)
    metrics = json.loads((tmp_path / "validation_metrics.json").read_text())
    for name in ("binary_f1", "auprc", "ece", "f1_category_0", "f1_category_13"):
        assert f"beavertails_{name}" in metrics
    assert load_file(tmp_path / "model.safetensors")["rejection_head.alpha.weight"].dtype == torch.float16
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert model.dtype == torch.float32
    assert model.config.binary_threshold == metrics["binary_threshold"]
    assert len(model.assess("a kind word", "thanks")) == 1


def test_a_resumed_run_ends_with_the_same_weights(tiny_encoder, tmp_path):
    options = ("--num_train_epochs", "3", "--save_total_limit", "5")
    run_main(tiny_encoder, tmp_path / "whole", *options)
    first = min((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    run_main(tiny_encoder, tmp_path / "resumed", *options, "--resume_from_checkpoint", str(first))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    resumed = load_file(tmp_path / "resumed" / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0, msg=name)


def test_lora_leaves_the_encoder_mergeable_and_moves_it(tiny_encoder, tmp_path):
    run_main(tiny_encoder, tmp_path, "--num_train_epochs", "1", "--lora_r", "4")
    trained = load_file(tmp_path / "model.safetensors")
    assert not [name for name in trained if "lora" in name]
    start = AutoModel.from_pretrained(tiny_encoder).state_dict()
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in trained.items() if name.startswith("encoder.")}
    moved = [name for name, tensor in encoder.items() if not torch.equal(start[name], tensor)]
    assert moved
    assert all("attention" in name or "dense" in name for name in moved)
    assert not [name for name in moved if "embeddings" in name or "LayerNorm" in name]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--output_dir", str(ROOT / "train.py")), "--output_dir"),
        (("--resume_from_checkpoint", "no-such"), "--resume_from_checkpoint no-such"),
        (("--max_length", "4096"), "max_length must be at most"),
        (("--validation_share", "0.0001"), "validation split lacks safe or harmful pairs"),
        (("--safe_share", "1.2"), "--safe_share must lie in"),
        (("--validation_share", "0"), "--validation_share must lie between"),
        (("--pooling", "max"), "pooling must be one of"),
        (("--encoder", "no-such-folder/at-all/x"), "no-such-folder"),
    ],
)
def test_bad_options_are_named(tiny_encoder, tmp_path, extra, message):
    with pytest.raises(UsageError, match=message):
        run_main(tiny_encoder, tmp_path, *extra)


def test_a_bad_row_is_one_line_and_exit_code_2(tiny_encoder, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "hello", "response": "hi", "labels": [0, 1]}\n')
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--encoder", tiny_encoder, "--train_file", bad, "--output_dir", tmp_path]
        + ["--max_length", "48"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"train.py: {bad}, row 1: 'labels' must be a list of 14")
    assert "Traceback" not in done.stderr
