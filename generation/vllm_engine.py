"""vLLM in this process: continuous batching, prefix caching, LoRA adapters, structured output."""

from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams

from generation.base import Chat, Completion, PromptTooLongError, SamplingParameters
from generation.chat_text import escape_special_tokens, special_tokens


class VLLMEngine:
    """All chats of a batch at once; a beginning that they share, such as the refiner's examples, is computed once.

    Args:
        model: a chat model on the Hub or in a folder.
        adapter: a LoRA adapter's folder, if any.
        batch_size: chats that keep it busy.
        options: more of `vllm.LLM`'s own, such as `tensor_parallel_size`, `dtype`, `max_model_len`.

    Raises:
        OSError, ValueError, RuntimeError: when vLLM can't load the model.
        TypeError: for an option that `vllm.LLM` doesn't have.
    """

    def __init__(self, model: str, adapter: str | None = None, batch_size: int = 256, **options: Any):
        self.name = f"vllm:{model}" + (f"+{adapter}" if adapter else "")
        self.batch_size = batch_size
        self.adapter = LoRARequest("adapter", 1, adapter) if adapter else None
        defaults = {
            "disable_log_stats": False,  # the prefix cache's counters are among them
            # Free to put whitespace between any two tokens, a small model may write nothing else.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        }
        lora = {"enable_lora": True, "max_lora_rank": 64} if adapter else {}
        self.llm = LLM(model, **(defaults | lora | options))
        self.tokenizer = self.llm.get_tokenizer()
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{model}: its tokenizer has no chat template; name a chat model.")
        self.special_tokens = special_tokens(self.tokenizer)
        self.context_length: int = self.llm.model_config.max_model_len

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]."""
        encoded = [self._encode(chat) for chat in chats]
        for index, ids in enumerate(encoded):
            if len(ids) >= self.context_length:
                raise PromptTooLongError(index, len(ids), self.context_length, chats[index][-1]["content"])
        outputs = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in encoded],
            [self._parameters(sampling, row, len(ids)) for row, ids in enumerate(encoded)],
            lora_request=self.adapter,
            use_tqdm=False,
        )
        return [
            Completion(
                output.outputs[0].text.strip(),
                len(output.prompt_token_ids),
                len(output.outputs[0].token_ids),
                output.outputs[0].finish_reason,
            )
            for output in outputs
        ]

    def prefix_cache_hit_rate(self) -> float:
        """Share of the prompt tokens so far that the prefix cache spared."""
        counters = {metric.name: metric.value for metric in self.llm.get_metrics() if "prefix_cache" in metric.name}
        return counters["vllm:prefix_cache_hits"] / max(1, counters["vllm:prefix_cache_queries"])

    def _encode(self, chat: Chat) -> list[int]:
        escaped = escape_special_tokens(chat, self.special_tokens)
        return self.tokenizer.apply_chat_template(escaped, add_generation_prompt=True, return_dict=True)["input_ids"]

    def _parameters(self, sampling: SamplingParameters, row: int, prompt_tokens: int) -> SamplingParams:
        schema = sampling.json_schema
        return SamplingParams(
            max_tokens=min(sampling.max_new_tokens, self.context_length - prompt_tokens),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed + row,  # with the same seed, equal chats of a batch would draw the same
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
        )
