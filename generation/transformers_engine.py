"""Any causal language model that transformers can load."""

from collections.abc import Sequence
from contextlib import nullcontext
from os.path import commonprefix

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from generation.base import Chat, Completion, SamplingParameters, check_count
from generation.chat_text import ChatEncoder
from generation.cpu_precision import WIDE, in_float32, is_slow_in_bf16
from generation.reasoning import without_thoughts
from generation.shared_beginning import ATTENTION, can_share, share

BATCH_TOKENS = 2**15  # read at once, at most: the memory that a batch of long chats takes grows with them


class TransformersEngine:
    """Left-padded batches through `model.generate`; on the CPU, what all chats of a batch begin with is read once.

    Args:
        name_or_path: a chat model on the Hub or in a folder.
        adapter: a LoRA adapter's folder, if any; it is merged into the weights.
        batch_size: most chats to a batch.
        device: such as `"cuda"`; the first accelerator when not given, else the CPU.
        dtype: such as `"float32"`; the checkpoint's own when not given, but for wide batches of a small model on a CPU
            that is slow in it.

    Raises:
        OSError: when there is no such model.
        ValueError: when its tokenizer has no chat template, there is no such adapter, or an argument is out of bounds.
    """

    follows_schema = False

    def __init__(
        self,
        name_or_path: str,
        adapter: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = "auto",
    ):
        check_count("batch_size", batch_size)
        # The cache's key: all that an answer depends on, but for what a folder of that name comes to hold later.
        self.name = f"transformers:{name_or_path}{f'+{adapter}' if adapter else ''}"
        self.name += "" if dtype == "auto" else f"?dtype={dtype}"
        self.batch_size = batch_size
        accelerator = torch.accelerator.current_accelerator()
        self.device = torch.device(device) if device else accelerator or torch.device("cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left")
        self.encoder = ChatEncoder(self.tokenizer, name_or_path)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=dtype)
        if adapter is not None:
            try:
                model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
            except (KeyError, TypeError):
                raise ValueError(f"{adapter}: its adapter_config.json is no LoRA adapter's.") from None
        self.model = model.to(self.device).eval()
        eos = self.model.generation_config.eos_token_id
        eos = self.tokenizer.eos_token_id if eos is None else eos
        self.eos_token_ids: list[int] = eos if isinstance(eos, list) else [eos]
        # `generate` fills what is left open from the model's own: its repetition penalty or beams, say.
        self.model.generation_config = GenerationConfig()
        self.widens = dtype == "auto" and is_slow_in_bf16(self.model)
        self.shares_beginnings = can_share(self.model)
        if self.shares_beginnings:
            self.model.set_attn_implementation(ATTENTION)
        self.context_length: int = self.model.config.get_text_config().max_position_embeddings

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]; chats of like length share a batch, and keep their order in the result."""
        if sampling.json_schema is not None:
            raise ValueError(f"{self.name} can't hold an answer to a JSON schema: use a vllm or openai engine.")
        encoded = self.encoder.encode(chats, self.context_length)
        order = sorted(range(len(chats)), key=lambda index: len(encoded[index]))
        completions: dict[int, Completion] = {}
        # A chat without full room for its answer goes alone: it would shorten the answers of its batch.
        roomy = [row for row in order if len(encoded[row]) + sampling.max_new_tokens <= self.context_length]
        batches: list[list[int]] = []
        for row in roomy:
            size = len(batches[-1]) + 1 if batches else 0
            if 0 < size <= self.batch_size and size * len(encoded[row]) <= BATCH_TOKENS:
                batches[-1].append(row)
            else:
                batches.append([row])
        for rows in [*batches, *([row] for row in order[len(roomy) :])]:
            # Another seed a batch: alike, equal chats in different batches would draw the same.
            with in_float32(self.model) if self.widens and len(rows) >= WIDE else nullcontext():
                sampled = self._generate_batch([encoded[row] for row in rows], sampling, sampling.seed + rows[0])
            completions |= zip(rows, sampled, strict=True)
        return without_thoughts([completions[index] for index in range(len(chats))], self.encoder.opens_thought)

    @torch.inference_mode()
    def _generate_batch(self, encoded: list[list[int]], sampling: SamplingParameters, seed: int) -> list[Completion]:
        # All but the last token at most: the first new token comes of what each row still has to read.
        shared = commonprefix([ids[:-1] for ids in encoded]) if len(encoded) > 1 and self.shares_beginnings else []
        rest = [{"input_ids": ids[len(shared) :]} for ids in encoded]
        batch = self.tokenizer.pad(rest, return_tensors="pt").to(self.device)
        if shared:
            beginning = torch.tensor([shared], device=self.device)  # (1, S)
            cache = self.model(beginning, use_cache=True, logits_to_keep=1).past_key_values
            share(cache)
            # Padding comes between the beginning and the rest, and the mask hides it.
            rows = beginning.expand(len(encoded), -1)
            batch["input_ids"] = torch.cat([rows, batch["input_ids"]], dim=1)  # (B, S + rest)
            batch["attention_mask"] = torch.cat([torch.ones_like(rows), batch["attention_mask"]], dim=1)
            batch["past_key_values"] = cache
        width = batch["input_ids"].shape[1]
        decoding: dict[str, float] = {"do_sample": False}
        if sampling.temperature > 0:
            decoding = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        config = GenerationConfig(
            max_new_tokens=min(sampling.max_new_tokens, self.context_length - width),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.eos_token_ids,
            **decoding,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self.model.generate(**batch, generation_config=config)  # (B, width + new)
        return [self._completion(new, len(ids)) for new, ids in zip(output[:, width:].tolist(), encoded, strict=True)]

    def _completion(self, new: list[int], prompt_tokens: int) -> Completion:
        end = next((place for place, token in enumerate(new) if token in self.eos_token_ids), None)
        text = self.tokenizer.decode(new[:end], skip_special_tokens=True).strip()
        length = len(new) if end is None else end + 1
        return Completion(text, prompt_tokens, length, "length" if end is None else "stop")
