"""vLLM in this process: continuous batching, prefix caching, LoRA adapters, structured output."""

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig
from pydantic import ValidationError
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import StructuredOutputsParams

from generation.base import Chat, Completion, SamplingParameters, check_count
from generation.chat_text import ChatEncoder
from generation.reasoning import without_thoughts

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the room for an adapter that vLLM can make


class VLLMEngine:
    """All chats of a batch at once; a beginning that they share, such as the refiner's examples, is computed once.

    On a GPU vLLM's own defaults do. On the CPU `enforce_eager=true&gpu_memory_utilization=0.3&block_size=32` was tried.

    Args:
        model: a chat model on the Hub or in a folder.
        adapter: a LoRA adapter's folder, if any.
        batch_size: chats that keep it busy.
        options: more of `vllm.LLM`'s own, such as `tensor_parallel_size`, `dtype`, `max_model_len`.

    Raises:
        OSError, RuntimeError: when vLLM can't load the model.
        ValueError: when its tokenizer has no chat template, there is no such adapter, or an argument is out of bounds.
        TypeError: for an option that `vllm.LLM` doesn't have.
    """

    follows_schema = True

    def __init__(self, model: str, adapter: str | None = None, batch_size: int = 256, **options: Any):
        check_count("batch_size", batch_size)
        # All that an answer may depend on: it is the cache's key.
        self.name = f"vllm:{model}{f'+{adapter}' if adapter else ''}"
        self.name += "?" * bool(options) + "&".join(f"{name}={value}" for name, value in options.items())
        self.batch_size = batch_size
        self.adapter = LoRARequest("adapter", 1, adapter) if adapter else None
        # Free to put whitespace between any two tokens, a small model may write nothing else.
        arguments: dict[str, Any] = {
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}
        }
        if current_platform.is_cpu():
            # Behind half-read prompts vLLM 0.32 rewinds the seeded draws of a row, which ends in an error on the CPU.
            arguments["enable_chunked_prefill"] = False
        if adapter:
            arguments |= {"enable_lora": True, "max_lora_rank": _room_for(adapter)}
        try:
            self.llm = LLM(model, **(arguments | options))
        except ValidationError as error:  # its own first line says only how many there are
            raise ValueError("; ".join(detail["msg"] for detail in error.errors())) from None
        self.tokenizer = self.llm.get_tokenizer()
        self.encoder = ChatEncoder(self.tokenizer, model)
        self.context_length: int = self.llm.model_config.max_model_len
        self.prompt_tokens = self.cached_tokens = 0

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]."""
        encoded = self.encoder.encode(chats, self.context_length)
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in encoded],
            [self._parameters(sampling, row, len(ids)) for row, ids in enumerate(encoded)],
            lora_request=self.adapter,
            use_tqdm=False,
        )
        self.prompt_tokens += sum(len(ids) for ids in encoded)
        self.cached_tokens += sum(output.num_cached_tokens or 0 for output in outputs)
        completions = [
            Completion(
                output.outputs[0].text.strip(),
                len(ids),
                len(output.outputs[0].token_ids),
                output.outputs[0].finish_reason,
            )
            for output, ids in zip(outputs, encoded, strict=True)
        ]
        return without_thoughts(completions, self.encoder.opens_thought)

    def prefix_cache_hit_rate(self) -> float:
        """Share of the prompts' tokens so far that the prefix cache spared."""
        return self.cached_tokens / max(1, self.prompt_tokens)

    def _parameters(self, sampling: SamplingParameters, row: int, prompt_tokens: int) -> SamplingParams:
        schema = sampling.json_schema
        return SamplingParams(
            max_tokens=min(sampling.max_new_tokens, self.context_length - prompt_tokens),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed + row,  # with the same seed, equal chats of a batch would draw the same
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
        )


def _room_for(adapter: str) -> int:
    try:
        rank = LoraConfig.from_pretrained(adapter).r
    except (KeyError, TypeError):
        raise ValueError(f"{adapter}: its adapter_config.json is no LoRA adapter's.") from None
    return next((room for room in _LORA_RANKS if room >= rank), rank)
