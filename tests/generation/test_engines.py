import importlib.util
import shutil

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from generation.base import SamplingParameters
from generation.cache import CachedEngine
from generation.engines import EngineError, load_engine
from tests.generation.faulty_server import FaultyServer, answer

SERVER = "http://127.0.0.1:9/v1"


def refusal(spelling):
    with pytest.raises(EngineError) as raised:
        load_engine(spelling)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "embedded:smollm",
        "Embedded",
        "transformers",
        "transformers:",
        "vllm",
        "vllm:",
        "openai",
        "openai:some-model",
        f"openai:@{SERVER}",
        "openai:some-model@",
        "openai:some-model@127.0.0.1:9/v1",
        ":model",
        "a\nb",
        "?batch_size=2",
    ],
)
def test_a_spelling_that_names_no_engine_is_refused_in_one_line_with_those_that_do(spelling):
    message = refusal(spelling)
    assert repr(spelling) in message
    for known in ("'embedded'", "'transformers:MODEL'", "'vllm:MODEL'", "'openai:MODEL@BASE_URL'"):
        assert known in message


def test_a_folder_that_does_not_exist_is_refused_in_one_line(tmp_path):
    spelling = f"transformers:{tmp_path / 'missing'}"
    assert refusal(spelling).startswith(f"{spelling}: ")


def test_a_model_without_a_chat_template_is_refused_in_one_line(chat_model_without_template):
    assert "no chat template" in refusal(f"transformers:{chat_model_without_template}")


def test_a_torn_weights_file_is_refused_in_one_line(tiny_chat_model, tmp_path):
    for file in tiny_chat_model.iterdir():
        (tmp_path / file.name).write_bytes(b"torn" if file.suffix == ".safetensors" else file.read_bytes())
    assert refusal(f"transformers:{tmp_path}").startswith(f"transformers:{tmp_path}: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"type": "of tomorrow"}}'),
        ("chat_template.jinja", "{% for message in messages %}"),
        ("config.json", '{"model_type": "llama", "hidden_act": "of tomorrow"}'),
    ],
)
def test_a_broken_file_of_a_model_is_refused_in_one_line(tiny_chat_model, tmp_path, name, content):
    folder = shutil.copytree(tiny_chat_model, tmp_path / "model")
    assert (folder / name).exists()
    (folder / name).write_text(content)
    assert refusal(f"transformers:{folder}").startswith(f"transformers:{folder}: ")


def test_a_folder_is_loaded_and_answers(tiny_chat_model):
    engine = load_engine(f"transformers:{tiny_chat_model}")
    assert engine.name == f"transformers:{tiny_chat_model}"
    (completion,) = engine.generate([[{"role": "user", "content": "Hi"}]], SamplingParameters(max_new_tokens=2))
    assert completion.completion_tokens <= 2


@pytest.mark.parametrize(
    "spelling, reason",
    [
        ("transformers:MODEL?batch_size=0", "batch_size must be a whole number of at least 1, got 0"),
        ("transformers:MODEL?batch_size=few", "batch_size must be a whole number of at least 1, got few"),
        ("transformers:MODEL?batch_size", "option 'batch_size' must read NAME=VALUE"),
        ("transformers:MODEL?dtype=float3", "float3"),
        ("transformers:MODEL?colour=red", "colour"),
        ("transformers:MODEL?device=abacus", "abacus"),
        ("transformers:MODEL?name_or_path=other", "name_or_path"),
        (f"openai:m@{SERVER}?colour=red", "colour"),
        (f"openai:m@{SERVER}?concurrency=0", "concurrency must be a whole number of at least 1, got 0"),
        (f"openai:m@{SERVER}?concurrency=1.5", "concurrency must be a whole number of at least 1, got 1.5"),
        (f"openai:m@{SERVER}?timeout=-1", "timeout must be a number of seconds above 0, got -1"),
        (f"openai:m@{SERVER}?attempts=never", "attempts must be a whole number of at least 1, got never"),
    ],
)
def test_an_option_that_no_engine_could_use_is_refused_in_one_line_that_names_it(tiny_chat_model, spelling, reason):
    spelling = spelling.replace("MODEL", str(tiny_chat_model))
    message = refusal(spelling)
    assert message.startswith(f"{spelling}: ")
    assert reason in message


def test_the_options_of_a_local_model_arrive(tiny_chat_model):
    engine = load_engine(f"transformers:{tiny_chat_model}?batch_size=3&dtype=float16")
    assert engine.batch_size == 3
    assert str(engine.model.dtype) == "torch.float16"


def test_two_precisions_of_a_model_share_no_cache(tiny_chat_model, tmp_path):
    coarse, fine = (load_engine(f"transformers:{tiny_chat_model}?dtype={dtype}") for dtype in ("bfloat16", "float32"))
    chat, sampling = [{"role": "user", "content": "Hi"}], SamplingParameters(max_new_tokens=2)
    for engine in (coarse, fine):
        CachedEngine(engine, tmp_path).generate([chat], sampling)
    assert len(CachedEngine(fine, tmp_path).cache) == 2


def test_the_options_of_a_server_arrive():
    engine = load_engine(f"openai:m@{SERVER}?concurrency=3&timeout=2.5&attempts=7")
    assert (engine.batch_size, engine.timeout, engine.attempts) == (3, 2.5, 7)
    assert engine.name == f"openai:m@{SERVER}"


@pytest.mark.parametrize("model", ["m", "org/model-7B", "@cf/meta/llama-3", "a@b", "with:colon"])
def test_a_model_on_a_server_is_asked_by_its_name(model):
    with FaultyServer(lambda _: answer("Hello.")) as server:
        engine = load_engine(f"openai:{model}@{server.url}")
        (completion,) = engine.generate([[{"role": "user", "content": "Hi"}]], SamplingParameters())
    assert completion.text == "Hello."
    assert [asked.model for asked in server.asked] == [model]


def test_a_password_in_the_address_of_a_server_is_refused():
    assert "put the key into OPENAI_API_KEY" in refusal("openai:m@http://user:password@127.0.0.1:9/v1")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
@pytest.mark.parametrize("spelling", ["vllm:model", "vllm:model+adapter?dtype=float16"])
def test_without_vllm_its_engine_says_what_to_install(spelling):
    message = refusal(spelling)
    assert "vLLM is not installed" in message
    assert "pip install -r requirements-vllm.txt" in message


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"adapter_config.json": "{}"},
        {"adapter_config.json": "{"},
        {"adapter_config.json": "[1]"},
        {"adapter_config.json": '{"peft_type": "MARTIAN"}'},
        {"adapter_config.json": '{"peft_type": "LORA", "r": 2, "target_modules": ["no_such_layer"]}',
         "adapter_model.safetensors": "torn"},
        {"adapter_config.json": '{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}',
         "adapter_model.safetensors": "torn"},
    ],
)  # fmt: skip
def test_an_adapter_that_cannot_be_loaded_is_refused_in_one_line(tiny_chat_model, tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    spelling = f"transformers:{tiny_chat_model}+{tmp_path}"
    assert refusal(spelling).startswith(f"{spelling}: ")


def test_an_adapter_of_a_larger_model_is_refused_in_one_line(tiny_chat_model, tmp_path):
    wide = AutoModelForCausalLM.from_pretrained(tiny_chat_model, hidden_size=64, ignore_mismatched_sizes=True)
    get_peft_model(wide, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    spelling = f"transformers:{tiny_chat_model}+{tmp_path}"
    assert refusal(spelling).startswith(f"{spelling}: ")
