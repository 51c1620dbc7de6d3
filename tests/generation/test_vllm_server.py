import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from generation.base import GenerationError, SamplingParameters
from generation.embedded import embedded_model
from generation.engines import load_engine
from generation.openai_engine import KEY_VARIABLE
from generation.transformers_engine import TransformersEngine

pytest.importorskip("vllm")

START_LIMIT = 600  # seconds; a busy machine takes minutes
GREEDY = SamplingParameters(max_new_tokens=16)
QUESTIONS = [
    "What is the capital of France?",
    "Hi",
    "Please tell me a short story about a friendly neighbour and his garden.",
    "How do I bake bread at home, and how long does it take?",
]
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["score"],
        "additionalProperties": False,
    }
)


def user(text):
    return [{"role": "user", "content": text}]


CHATS = [user(question) for question in QUESTIONS]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The module and not `vllm serve`: the CPU build's command misses its own metadata.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(embedded_model()), "--served-model-name", "smollm2", "--dtype", "float32"]
    command += ["--enforce-eager", "--gpu-memory-utilization", "0.3", "--block-size", "32", "--max-model-len", "1024"]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_healthy(url, process, log):
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def engine(address, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return load_engine(f"openai:smollm2@{address}?attempts=1")


def test_a_greedy_answer_is_that_of_transformers(engine):
    reference = TransformersEngine(str(embedded_model()), device="cpu", dtype="float32")
    assert engine.generate(CHATS, GREEDY) == reference.generate(CHATS, GREEDY)


def test_equal_chats_draw_their_own_samples_and_the_same_again_with_the_same_seed(engine):
    sampling = SamplingParameters(max_new_tokens=16, temperature=1.0, seed=1)
    first = engine.generate([CHATS[2]] * 4, sampling)
    assert len({completion.text for completion in first}) == 4
    assert engine.generate([CHATS[2]] * 4, sampling) == first


def test_a_chat_without_room_for_an_answer_comes_back_as_too_long_and_the_others_answered(engine):
    with pytest.raises(GenerationError) as raised:
        engine.generate([CHATS[0], user("bread " * 1100), CHATS[1]], GREEDY)
    assert raised.value.too_long == {1}
    assert raised.value.failures.keys() == {1}
    assert "Paris" in raised.value.completions[0].text
    assert raised.value.completions.keys() == {0, 2}


def test_an_answer_follows_its_json_schema(engine):
    sampling = SamplingParameters(max_new_tokens=32, json_schema=SCHEMA)
    for completion in engine.generate([user(f"Rate this from 0 to 9: {question}") for question in QUESTIONS], sampling):
        reply = json.loads(completion.text)
        assert reply.keys() == {"score"}
        assert reply["score"] in range(10)


def test_a_model_that_the_server_does_not_have_is_named(address, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(GenerationError, match="no-such-model"):
        load_engine(f"openai:no-such-model@{address}?attempts=1").generate(CHATS[:1], GREEDY)
