import pytest

from generation.base import SamplingParameters
from generation.engines import EngineError, load_engine


@pytest.mark.parametrize(
    "spelling",
    ["", "embedded:smollm", "Embedded", "transformers", "transformers:", "openai:some-model", ":model", "a\nb"],
)
def test_a_spelling_that_names_no_engine_is_refused_in_one_line_with_the_two_that_do(spelling):
    with pytest.raises(EngineError) as raised:
        load_engine(spelling)
    message = str(raised.value)
    assert repr(spelling) in message
    assert "'embedded'" in message
    assert "'transformers:NAME_OR_PATH'" in message
    assert "\n" not in message


def test_a_folder_that_does_not_exist_is_refused_in_one_line(tmp_path):
    spelling = f"transformers:{tmp_path / 'missing'}"
    with pytest.raises(EngineError) as raised:
        load_engine(spelling)
    assert str(raised.value).startswith(f"{spelling}: ")
    assert "\n" not in str(raised.value)


def test_a_model_without_a_chat_template_is_refused_in_one_line(chat_model_without_template):
    with pytest.raises(EngineError, match="no chat template") as raised:
        load_engine(f"transformers:{chat_model_without_template}")
    assert "\n" not in str(raised.value)


def test_a_torn_weights_file_is_refused_in_one_line(tiny_chat_model, tmp_path):
    for file in tiny_chat_model.iterdir():
        (tmp_path / file.name).write_bytes(b"torn" if file.suffix == ".safetensors" else file.read_bytes())
    with pytest.raises(EngineError) as raised:
        load_engine(f"transformers:{tmp_path}")
    assert "\n" not in str(raised.value)


def test_a_folder_is_loaded_and_answers(tiny_chat_model):
    engine = load_engine(f"transformers:{tiny_chat_model}")
    assert engine.name == f"transformers:{tiny_chat_model}"
    (completion,) = engine.generate([[{"role": "user", "content": "Hi"}]], SamplingParameters(max_new_tokens=2))
    assert completion.completion_tokens <= 2
