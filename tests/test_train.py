import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import expit, logit
from sklearn.metrics import f1_score
from transformers import AutoModel
from transformers.trainer_utils import PredictionOutput

import train
from command_line import UsageError
from detector import detector_class

ROOT = Path(train.__file__).parent
DATA = ROOT / "tests" / "data"


def arguments(tiny_encoder, output_dir, *extra):
    start = () if "--checkpoint" in extra else ("--encoder", str(tiny_encoder), "--max_length", "48")
    return [
        *(*start, "--train_file", str(DATA / "pairs.jsonl"), "--output_dir", str(output_dir)),
        *("--safe_file", str(DATA / "safe_pairs.jsonl"), str(DATA / "safe_prompts.jsonl")),
        *("--use_cpu", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3"),
        *("--disable_tqdm", "True", "--logging_steps", "2", "--validation_share", "0.3", *extra),
    ]


def run_main(tiny_encoder, output_dir, *extra):
    train.main(*train.make_parser().parse_args_into_dataclasses(arguments(tiny_encoder, output_dir, *extra)))


def history(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_the_script_trains_a_checkpoint_that_loads_and_reports(tiny_encoder, tmp_path):
    options = ("--num_train_epochs", "2", "--half_precision", "--soft_labels", "--category_balance", "0.3")
    options += ("--register_share", "0.3")
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


def test_the_mean_of_checkpoints_is_calibrated_and_saved_and_not_trained(tiny_encoder, tiny_detector, tmp_path):
    other = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    for parameter in other.parameters():
        parameter.data += 0.01
    other.save_pretrained(tmp_path / "other")
    run_main(tiny_encoder, tmp_path, "--average", str(tiny_detector), str(tmp_path / "other"))
    saved, before = (load_file(folder / "model.safetensors") for folder in (tmp_path, tiny_detector))
    for name in before:
        if not name.startswith("rejection_head"):  # calibration moves it, where a scale applies
            torch.testing.assert_close(saved[name], before[name] + 0.005)
    assert not [*tmp_path.glob("checkpoint-*")]
    metrics = json.loads((tmp_path / "validation_metrics.json").read_text())
    config = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).config
    assert config.binary_threshold == metrics["binary_threshold"]
    assert len(config.category_thresholds) == 14


@pytest.mark.parametrize("epochs", [0, 6])  # untrained, and so sure of itself that few pairs lie between
def test_the_saved_model_reaches_the_figures_beside_it(tiny_encoder, tmp_path, epochs):
    options = ("--num_train_epochs", str(epochs), "--head_learning_rate", "0.03", "--seed", "0")
    run_main(tiny_encoder, tmp_path, *options)
    metrics = json.loads((tmp_path / "validation_metrics.json").read_text())
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert len(model.config.category_thresholds) == 14
    _, evaluation = datasets_of()
    rows = evaluation["beavertails"]
    encodings, _ = model.encode_pairs(rows["prompt"], rows["response"])
    risk = np.array([model.concentrations(model.tokenizer.pad([pair], return_tensors="pt")) for pair in encodings])
    risk = risk[:, 0, 0] / risk.sum(1)[:, 0]  # (rows, 14)
    harmful = np.array(rows["labels"]).max(1) > 0.5
    f1 = f1_score(harmful, risk.max(1) > model.config.binary_threshold)
    assert f1 == pytest.approx(metrics["beavertails_binary_f1"])


def test_a_checkpoint_is_trained_on_from_its_weights_with_the_losses_asked_for(tiny_encoder, tiny_detector, tmp_path):
    own = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    own.config.update({"rejection_estimate": "expectation", "kl_loss_weight": 0.2})
    own.save_pretrained(tmp_path / "own")
    standing_still = ("--learning_rate", "0", "--head_learning_rate", "0")
    options = ("--checkpoint", str(tmp_path / "own"), "--num_train_epochs", "1", "--feature_loss_weight", "0.5")
    run_main(tiny_encoder, tmp_path, *options, *standing_still)
    saved, before = (load_file(folder / "model.safetensors") for folder in (tmp_path, tiny_detector))
    for name in before:
        if not name.startswith("rejection_head"):  # calibration moves it
            torch.testing.assert_close(saved[name], before[name])
    config = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).config
    assert (config.feature_loss_weight, config.rejection_estimate, config.kl_loss_weight) == (0.5, "expectation", 0.2)
    assert (config.beta_parameterization, config.max_length) == ("exp", 128)


def test_encoder_and_heads_have_learning_rates_of_their_own_and_norms_and_biases_no_decay(tiny_detector, tmp_path):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    training_args = train.LanceTrainingArguments(str(tmp_path), use_cpu=True, learning_rate=1e-5, weight_decay=0.1)
    trainer = train.LanceTrainer(head_learning_rate=1e-3, model=model, args=training_args, eval_dataset=[])
    of_parameter = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.create_optimizer().param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        undecayed = name.endswith("bias") or "LayerNorm" in name
        expected = (1e-5 if name.startswith("encoder.") else 1e-3, 0.0 if undecayed else 0.1)
        assert of_parameter[id(parameter)] == expected, name


def test_soft_labels_are_the_annotators_mean(tiny_detector):
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    mixture, _ = datasets_of()
    hard, soft = (train.encode(mixture, model, column)["labels"][:] for column in ("labels", "labels_mean"))
    assert soft == mixture["labels_mean"][:]
    assert hard == mixture["labels"][:]


def test_runs_of_several_seeds_can_share_their_validation_split():
    (_, first), (_, second), (_, other) = (
        datasets_of(seed=seed, split_seed=split_seed) for seed, split_seed in ((0, 7), (1, 7), (0, None))
    )
    assert first["beavertails"].to_list() == second["beavertails"].to_list()
    assert first["safe"].to_list() == second["safe"].to_list()
    assert {*first["beavertails"]["prompt"]} != {*other["beavertails"]["prompt"]}


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


CATEGORIES = detector_class().config_class().categories


def datasets_of(seed=0, **options):
    safe_file = [str(DATA / "safe_pairs.jsonl"), str(DATA / "safe_prompts.jsonl")]
    options = {"safe_file": safe_file, "validation_share": 0.3} | options
    return train.build_datasets(train.DataArguments([str(DATA / "pairs.jsonl")], **options), CATEGORIES, seed)


def prompts_of(*names):
    return {json.loads(line)["prompt"] for name in names for line in (DATA / name).read_text().splitlines()}


def test_weights_are_of_the_labelled_pairs_alone_and_harmless_rows_weigh_one():
    def weighed(**options):
        mixture, _ = datasets_of(category_balance=0.5, safety_balance=1.0, prompt_only_share=0.0, **options)
        return {(row["prompt"], row["response"]): row["loss_weights"] for row in mixture}

    labelled, mixture = weighed(safe_file=[]), weighed()
    harmless = mixture.keys() - labelled.keys()
    assert {prompt for prompt, _ in harmless} <= prompts_of("safe_pairs.jsonl", "safe_prompts.jsonl")
    assert len(harmless) > 10
    assert all(mixture[pair] == [1.0] * 14 for pair in harmless)
    assert {pair: mixture[pair] for pair in labelled} == labelled
    assert all(weights != [1.0] * 14 for weights in labelled.values())


def test_safe_and_unsafe_labelled_pairs_weigh_alike_whatever_the_harmless_rows():
    mixture, _ = datasets_of(safety_balance=1.0)
    labelled = prompts_of("pairs.jsonl")
    sums = {True: 0.0, False: 0.0}
    for row in mixture:
        if row["prompt"] in labelled:
            sums[any(row["labels"])] += sum(row["loss_weights"])
    assert sums[True] == pytest.approx(sums[False], rel=1e-4)


def test_registers_change_the_training_rows_texts_and_nothing_else():
    plain, plain_evaluation = datasets_of(safety_balance=0.5)
    recast, evaluation = datasets_of(safety_balance=0.5, register_share=0.5)
    for column in ("labels", "labels_mean", "loss_weights"):
        assert recast[column][:] == plain[column][:]
    pairs = list(zip(plain["prompt"], recast["prompt"], strict=True))
    assert all(prompt in framed for prompt, framed in pairs)
    for rows in (labelled := prompts_of("pairs.jsonl"), {prompt for prompt, _ in pairs} - labelled):
        assert {prompt == framed for prompt, framed in pairs if prompt in rows} == {True, False}
    for name, split in plain_evaluation.items():
        assert evaluation[name].to_list() == split.to_list()


def test_labelled_answers_come_under_harmless_prompts_and_the_other_way_round():
    mixture, evaluation = datasets_of(exchange_share=0.9)
    labelled, harmless = prompts_of("pairs.jsonl"), prompts_of("safe_pairs.jsonl", "safe_prompts.jsonl")
    harmless_answers = {json.loads(line)["response"] for line in (DATA / "safe_pairs.jsonl").read_text().splitlines()}
    origins = {
        (row["prompt"] in labelled, row["response"] not in harmless_answers) for row in mixture if row["response"]
    }
    assert origins >= {(False, True), (True, False)}
    assert any(any(row["labels"]) for row in mixture if row["prompt"] in harmless)
    assert {row["prompt"] for row in evaluation["beavertails"]} <= labelled


def test_safe_files_too_small_to_hold_out_a_row_make_no_split(tmp_path):
    path = tmp_path / "safe.jsonl"
    path.write_text('{"prompt": "How do I bake bread?", "response": "Knead, rest, bake."}\n', encoding="utf-8")
    mixture, evaluation = datasets_of(safe_file=[str(path)], validation_share=0.1)
    assert "How do I bake bread?" in mixture["prompt"]
    assert list(evaluation) == ["beavertails"]


class KnownModel:
    # Notes its calibration, and follows it.
    def __init__(self, beta_parameterization="exp"):
        self.calls = []
        self.rejection_head = SimpleNamespace(calibrate=lambda *call: self.calls.append(call))
        self.config = SimpleNamespace(beta_parameterization=beta_parameterization)

    def calibrate(self, splits):
        return train.calibrate(self, lambda: {name: self.moved(split) for name, split in splits.items()})

    def moved(self, split):
        for scale, shift in self.calls:
            split = split._replace(predictions=expit(scale * logit(split.predictions) + shift))
        return split


def known_split(risk, harmful):
    risk = np.column_stack([risk, np.full(len(risk), 0.01)])
    return PredictionOutput(risk, np.column_stack([np.zeros(len(risk)), harmful]), {})


LABELS = np.array([0, 0, 0, 1, 1, 1])
LABELLED = known_split([0.2, 0.3, 0.6, 0.4, 0.7, 0.8], LABELS)


def test_calibration_weighs_the_safe_pairs_of_each_split_alike():
    def calls(easy_rows):
        safe = known_split([0.05, 0.1, 0.15] * easy_rows, [0, 0, 0] * easy_rows)
        model = KnownModel()
        model.calibrate({"beavertails": LABELLED, "safe": safe})
        return model.calls

    ((scale, shift),) = calls(1)
    assert scale > 0
    assert calls(40) == [pytest.approx((scale, shift), rel=1e-2)]


def test_the_binary_cut_is_the_labelled_splits_own_after_calibration():
    model = KnownModel()
    predictions = model.calibrate({"beavertails": LABELLED, "safe": known_split([0.05, 0.99], [0, 0])})
    scale, shift = model.calls[0]
    calibrated_risk = predictions["beavertails"].predictions
    np.testing.assert_allclose(calibrated_risk, expit(scale * logit(LABELLED.predictions) + shift))
    flagged = calibrated_risk.max(1) > model.config.binary_threshold
    assert flagged.tolist() == [False, False, True, True, True, True]
    never, harm = model.config.category_thresholds
    assert never == model.config.binary_threshold  # the first category doesn't occur
    assert harm < calibrated_risk[:, 1].min()  # the second one's risk tells nothing: all are flagged


@pytest.mark.parametrize(("parameterization", "harmful"), [("softplus", LABELS), ("exp", 1 - LABELS)])
def test_where_a_scale_does_not_apply_the_model_is_left_alone(parameterization, harmful):
    model, split = KnownModel(parameterization), known_split(LABELLED.predictions[:, 0], harmful)
    predictions = model.calibrate({"beavertails": split})
    assert model.calls == []
    assert predictions["beavertails"] is split
    assert 0 < model.config.binary_threshold < 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--output_dir", str(ROOT / "train.py")), "--output_dir"),
        (("--resume_from_checkpoint", "no-such"), "--resume_from_checkpoint no-such"),
        (("--max_length", "4096"), "max_length must be at most"),
        (("--validation_share", "0.9999999"), "all prompts are held out"),
        (("--bf16_full_eval",), "would round what is saved"),
        (("--label_smoothing_factor", "0.1"), "--label_smoothing_factor is the plain classifier's"),
        (("--output_dir", "/proc"), "--output_dir /proc"),
        (("--validation_share", "0.0001"), "validation split lacks safe or harmful pairs"),
        (("--safe_share", "1.2"), "--safe_share must lie in"),
        (("--register_share", "1"), r"--register_share must lie in \[0, 1\), got 1"),
        (("--register_share", "-0.1"), "--register_share must lie in"),
        (("--register_share", "nan"), "--register_share must lie in"),
        (("--exchange_share", "1"), r"--exchange_share must lie in \[0, 1\), got 1"),
        (("--exchange_share", "0.2", "--safe_share", "0"), "--exchange_share takes harmless rows"),
        (("--average", "a", "b", "--lora_r", "8"), "--average trains nothing"),
        (("--average", "a", "b", "--checkpoint", "c"), "--average trains nothing"),
        (("--checkpoint", "no/such"), "no/such: no Lance checkpoint"),
        (("--checkpoint", ".", "--kl_loss_weight", "-1"), "kl_loss_weight must be"),
        (("--max_length", "0"), "max_length must be"),
        (("--checkpoint", ".", "--max_length", "128"), "--max_length are the checkpoint's own"),
        (("--checkpoint", ".", "--pooling", "mean"), "--pooling and --max_length are the checkpoint's own"),
        (("--checkpoint", ".", "--beta_parameterization", "exp"), "--beta_parameterization is what the checkpoint"),
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
