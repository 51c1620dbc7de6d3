import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from generation.base import SamplingParameters
from generation.cpu_precision import WIDE
from generation.transformers_engine import TransformersEngine

GREEDY = SamplingParameters(max_new_tokens=6)
CHATS = [[{"role": "user", "content": f"{number} loaves of bread?"}] for number in range(WIDE)]


@pytest.fixture(scope="module")
def in_bf16(tiny_chat_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "in-bf16"
    AutoModelForCausalLM.from_pretrained(tiny_chat_model, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_chat_model).save_pretrained(folder)
    return str(folder)


def precisions(engine, monkeypatch, chats):
    """In what the engine's model decodes each batch."""
    seen = []
    generate = engine.model.generate

    def recording(**inputs):
        seen.append(engine.model.dtype)
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", recording)
    engine.generate(chats, GREEDY)
    return seen


@pytest.mark.parametrize(
    ("capability", "rows", "dtype", "expected"),
    [
        ("AVX2", WIDE, "auto", torch.float32),
        ("AVX2", WIDE - 1, "auto", torch.bfloat16),
        ("AVX2", WIDE, "bfloat16", torch.bfloat16),
        ("AVX512", WIDE, "auto", torch.bfloat16),
    ],
)
def test_a_wide_batch_goes_through_float32_where_the_cpu_has_avx2_alone(
    monkeypatch, in_bf16, capability, rows, dtype, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    engine = TransformersEngine(in_bf16, device="cpu", dtype=dtype)
    assert precisions(engine, monkeypatch, CHATS[:rows]) == [expected]


def test_a_wide_batch_is_answered_as_float32_does_and_leaves_the_model_as_it_was(monkeypatch, in_bf16):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    engine, reference = (TransformersEngine(in_bf16, device="cpu", dtype=dtype) for dtype in ("auto", "float32"))
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    assert engine.generate(CHATS, GREEDY) == reference.generate(CHATS, GREEDY)
    for name, tensor in engine.model.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name])
