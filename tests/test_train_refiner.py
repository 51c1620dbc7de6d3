import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

import train_refiner
from command_line import UsageError
from generation.base import SamplingParameters
from generation.chat_text import ChatEncoder
from generation.transformers_engine import TransformersEngine
from refinement.demonstrations import DEMONSTRATIONS, as_chats, load_demonstrations
from refinement.frame import SYSTEM_PROMPT, read_refined
from train_refiner import IGNORED, SharedPrefixTrainer, encode, shared_prefix, without_prefix

SYSTEM_REFUSED = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
ROOT = Path(train_refiner.__file__).parent


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("demonstrations") / "few.jsonl"
    lines = DEMONSTRATIONS.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:24]) + "\n", encoding="utf-8")
    return path


def arguments(model, demonstrations, output_dir, *extra):
    return [
        *("--model", str(model), "--demonstrations", str(demonstrations), "--output_dir", str(output_dir)),
        *("--use_cpu", "--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--disable_tqdm", "True"),
        *("--validation_share", "0.2", *extra),
    ]


def run_main(*args):
    train_refiner.main(*train_refiner.make_parser().parse_args_into_dataclasses([str(arg) for arg in args]))


def test_only_the_reply_is_learned(roomy_chat_model, demonstrations):
    tokenizer = AutoTokenizer.from_pretrained(roomy_chat_model)
    chats = as_chats(load_demonstrations(demonstrations), seed=0)
    for (_, reply), row in zip(chats, encode(chats, tokenizer), strict=True):
        learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
        assert tokenizer.decode(learned).strip() == f"{reply}<|im_end|>"
        assert row["labels"][-len(learned) :] == learned


def test_a_template_without_a_system_role_is_trained_on_what_the_engines_ask(roomy_chat_model, demonstrations):
    tokenizer = AutoTokenizer.from_pretrained(roomy_chat_model)
    tokenizer.chat_template = tokenizer.chat_template.replace("{% for message in messages %}", SYSTEM_REFUSED, 1)
    assert SYSTEM_REFUSED in tokenizer.chat_template
    chats = as_chats(load_demonstrations(demonstrations), seed=0)
    asked = ChatEncoder(tokenizer, "m").encode([chat for chat, _ in chats], 10_000)
    for question, row in zip(asked, encode(chats, tokenizer), strict=True):
        assert row["input_ids"][: len(question)] == question
        assert set(row["labels"][: len(question)]) == {IGNORED}


def test_a_template_that_changes_an_answered_question_is_refused(roomy_chat_model, demonstrations):
    tokenizer = AutoTokenizer.from_pretrained(roomy_chat_model)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(UsageError, match="chat template changes a question once it is answered"):
        encode(as_chats(load_demonstrations(demonstrations), seed=0), tokenizer)


@pytest.mark.parametrize("shares", [True, False])
def test_one_pass_over_the_shared_prefix_gives_the_same_loss_and_gradients(
    roomy_chat_model, demonstrations, tmp_path, shares
):
    tokenizer = AutoTokenizer.from_pretrained(roomy_chat_model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(roomy_chat_model)
    rows = encode(as_chats(load_demonstrations(demonstrations), seed=0), tokenizer)
    prefix = shared_prefix(rows) if shares else []
    assert (SYSTEM_PROMPT in tokenizer.decode(prefix)) == shares
    options = {"model": model, "args": TrainingArguments(tmp_path, use_cpu=True, report_to="none")}
    results = []
    for trainer, dataset in (
        (Trainer(**options), rows),
        (SharedPrefixTrainer(**options, prefix=prefix), without_prefix(rows, len(prefix))),
    ):
        batch = DataCollatorForSeq2Seq(tokenizer)(list(dataset.remove_columns("length").select(range(6))))
        model.zero_grad()
        loss = trainer.compute_loss(model, batch)
        loss.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        results.append((loss.detach(), gradients.clone()))
    (loss, gradients), (shared_loss, shared_gradients) = results
    assert shared_loss == pytest.approx(loss)
    assert (shared_gradients - gradients).norm() < 1e-4 * gradients.norm()


def test_the_shared_prefix_leaves_every_row_a_token_to_predict_its_reply_from():
    rows = Dataset.from_list([{"input_ids": [1, 2, 3, 9], "labels": [IGNORED, IGNORED, IGNORED, 9]}] * 2)
    assert shared_prefix(rows) == [1, 2]


def test_the_script_trains_an_adapter_that_an_engine_takes(roomy_chat_model, demonstrations, tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "train_refiner.py", *arguments(roomy_chat_model, demonstrations, tmp_path)],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    moved = [name for name, tensor in weights.items() if "lora_B" in name and tensor.abs().max() > 0]
    assert len(moved) == len(weights) / 2
    chat = as_chats(load_demonstrations(demonstrations)[:1], seed=0)[0][0]
    engine = TransformersEngine(str(roomy_chat_model), adapter=str(tmp_path), device="cpu")
    assert engine.generate([chat], SamplingParameters(max_new_tokens=4))[0].completion_tokens > 0


@pytest.mark.parametrize("extra", [[], ["--gradient_checkpointing"]])
def test_rank_zero_trains_all_weights(roomy_chat_model, demonstrations, tmp_path, extra):
    run_main(*arguments(roomy_chat_model, demonstrations, tmp_path, "--lora_r", "0", *extra))
    before = AutoModelForCausalLM.from_pretrained(roomy_chat_model, dtype="bfloat16").state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16").state_dict()
    assert before.keys() == after.keys()
    still = [name for name in before if "proj" in name and torch.equal(before[name], after[name])]
    assert still == []


def test_the_risks_fit_the_efforts_and_the_reply_gives_the_rewrite():
    for demonstration, (chat, reply) in zip(
        load_demonstrations(DEMONSTRATIONS), as_chats(load_demonstrations(DEMONSTRATIONS), seed=3), strict=True
    ):
        attempts = [(demonstration.prompt, demonstration.effort)]
        if demonstration.earlier is not None:
            attempts.insert(0, demonstration.earlier)
            assert read_refined(chat[2]["content"]) == demonstration.prompt
        questions = [message["content"] for message in chat if message["role"] == "user"]
        for question, (prompt, efforts) in zip(questions, attempts, strict=True):
            assert f"<prompt>\n{prompt}\n</prompt>" in question
            assert question.count("(risk ") == len(efforts)
            for line in question.split("</gradient>")[0].splitlines()[1:]:
                risk, effort = line.split("(risk ")[1].split(")")[0].split(", ")
                low, high = {"Minor": (0.3, 0.5), "Mild": (0.5, 0.7), "Severe": (0.7, 1)}[effort]
                assert low < float(risk) <= high
        assert read_refined(reply) == demonstration.refined


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 1"),
        ('{"prompt": "a", "refined": "b"}', "line 1"),
        ('{"prompt": "a", "effort": {"self_harm": "Huge"}, "refined": "b"}', "Minor"),
        ('{"prompt": "a", "effort": {}, "refined": "b"}', "effort"),
        ('{"prompt": "a", "effort": {"self_harm": "Mild"}, "refined": "b", "earlier": {"prompt": "c"}}', "earlier"),
        ('{"prompt": "a", "effort": {"self_harm": "Mild"}, "refined": "b", "earlier": "c"}', "earlier"),
        ('{"prompt": " ", "effort": {"self_harm": "Mild"}, "refined": "b"}', "must be text"),
        ("", "no demonstrations"),
    ],
)
def test_a_broken_file_is_one_line(tiny_chat_model, tmp_path, line, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert_refused(arguments(tiny_chat_model, path, tmp_path / "out"), message)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--model", "no/such/folder"], "--model no/such/folder"),
        (["--demonstrations", "missing.jsonl"], "missing.jsonl"),
        (["--validation_share", "1"], "--validation_share"),
        (["--lora_r", "-1"], "--lora_r"),
    ],
)
def test_a_bad_option_is_one_line(tiny_chat_model, demonstrations, tmp_path, extra, message):
    assert_refused(arguments(tiny_chat_model, demonstrations, tmp_path / "out", *extra), message)


def test_a_model_without_a_chat_template_is_refused(chat_model_without_template, demonstrations, tmp_path):
    assert_refused(arguments(chat_model_without_template, demonstrations, tmp_path / "out"), "chat template")


def assert_refused(options, message):
    command = [sys.executable, ROOT / "train_refiner.py", *options]
    result = subprocess.run(command, capture_output=True, text=True, env=None)
    lines = result.stderr.strip().splitlines()
    assert result.returncode == 2, result.stderr
    assert message in lines[-1]
    assert "Traceback" not in result.stderr


def test_the_adapter_does_not_name_this_machine():
    model, _ = train_refiner.load_model(train_refiner.RefinerArguments())
    assert model.peft_config["default"].base_model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_kept_adapter_is_of_the_embedded_model_and_small():
    config = json.loads((ROOT / "refiner" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (ROOT / "refiner" / "adapter_model.safetensors").stat().st_size <= 20_000_000
