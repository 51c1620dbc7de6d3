"""Fine-tune a language model as the refiner, on rewriting demonstrations.

The embedded refiner, on two cores (`make refiner` holds the exact command):

    python train_refiner.py --output_dir runs/refiner --use_cpu

A larger one, on a GPU:

    python train_refiner.py --model Qwen/Qwen2.5-1.5B-Instruct --output_dir runs/refiner-1.5b --bf16 \
        --per_device_train_batch_size 16 --learning_rate 2e-4
    python refine.py --refiner vllm:Qwen/Qwen2.5-1.5B-Instruct+runs/refiner-1.5b --prompt "..."

All of `TrainingArguments` applies.
"""

from dataclasses import dataclass, field
from os.path import commonprefix

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from command_line import DataclassParser, UsageError, check_folders, push_folder, run
from corpora.splits import is_held_out
from errors import first_line
from generation.base import Chat
from generation.chat_text import knows_system, without_system
from generation.embedded import HUB_NAME, embedded_model
from refinement.demonstrations import DEMONSTRATIONS, as_chats, load_demonstrations

IGNORED = -100  # the label that the cross-entropy leaves out


@dataclass
class RefinerArguments:
    """The model, how much of it is trained, and on what."""

    model: str = field(default="embedded", metadata={"help": "A chat model on the Hub or in a folder, or 'embedded'."})
    demonstrations: str = field(default=str(DEMONSTRATIONS), metadata={"help": "A jsonl file of demonstrations."})
    validation_share: float = field(default=0.05, metadata={"help": "Share of prompts held out."})
    lora_r: int = field(default=16, metadata={"help": "LoRA rank; 0 trains all weights."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention code, such as 'eager'."})

    def __post_init__(self):
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must lie between 0 and 1, got {self.validation_share}.")
        if self.lora_r < 0:
            raise UsageError(f"--lora_r must be at least 0, got {self.lora_r}.")


@dataclass
class RefinerTrainingArguments(TrainingArguments):
    """`TrainingArguments` with this task's defaults."""

    output_dir: str = "runs/refiner"
    num_train_epochs: float = 3
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    eval_strategy: str = "epoch"
    save_strategy: str = "no"
    train_sampling_strategy: str = "group_by_length"
    logging_steps: float = 10
    report_to: str | None = "none"


def load_model(args: RefinerArguments) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32, behind LoRA where asked, and its tokenizer.

    Raises:
        UsageError: when there is no such chat model.
    """
    name = str(embedded_model()) if args.model == "embedded" else args.model
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype="float32", attn_implementation=args.attn_implementation
        )
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"--model {args.model}: {first_line(error)}") from None
    if tokenizer.chat_template is None:
        raise UsageError(f"--model {args.model}: its tokenizer has no chat template; name a chat model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if args.lora_r:
        adapter = LoraConfig(
            r=args.lora_r, lora_alpha=2 * args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, adapter)
        if args.model == "embedded":  # the cache's path on this machine is nobody's business
            model.peft_config["default"].base_model_name_or_path = HUB_NAME
    return model, tokenizer


def encode(chats: list[tuple[Chat, str]], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Each chat with its reply as token ids; the labels leave out all but the reply.

    Raises:
        UsageError: for a chat template that changes what comes before a reply once the reply is there.
    """
    rows = []
    if not knows_system(tokenizer):  # as the engines ask it
        chats = [(without_system(chat), reply) for chat, reply in chats]
    for chat, reply in chats:
        question = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = [*chat, {"role": "assistant", "content": reply}]
        ids = tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"]
        if ids[: len(question)] != question:
            raise UsageError(
                f"--model {tokenizer.name_or_path}: its chat template changes a question once it is answered."
            )
        labels = [IGNORED] * len(question) + ids[len(question) :]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "length": len(ids)})
    return Dataset.from_list(rows)


def shared_prefix(rows: Dataset) -> list[int]:
    """The token ids that all rows begin with: the template's opening and the system prompt.

    At least one token before the reply stays with its row.
    """
    both = zip(rows["input_ids"], rows["labels"], strict=True)
    return list(commonprefix([ids[: labels.count(IGNORED) - 1] for ids, labels in both]))


def without_prefix(rows: Dataset, length: int) -> Dataset:
    """The rows less their first tokens."""
    columns = ("input_ids", "attention_mask", "labels")
    return rows.map(lambda row: {name: row[name][length:] for name in columns} | {"length": row["length"] - length})


class SharedPrefixTrainer(Trainer):
    """Runs what all chats begin with once a batch, not once a row, and the vocabulary over the replies alone: the same
    loss and gradients for about half the work.

    Args:
        prefix: its token ids, maybe none; the rows of the data sets go on from there, padded on the left.
    """

    def __init__(self, *args, prefix: list[int], **kwargs):
        super().__init__(*args, **kwargs)
        self.prefix = torch.tensor([prefix])  # (1, prefix)

    def compute_loss(self, model, inputs, *args, **kwargs):
        """The loss over the batch's replies; arguments and result as the Trainer's."""
        mask, labels = inputs["attention_mask"], inputs["labels"]  # (batch, tokens)
        known, cache = self.prefix.shape[1], None
        if known:
            cache = model(input_ids=self.prefix.to(mask.device), use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(len(mask))  # keeps the graph: gradients flow back into the one pass
        first = (labels != IGNORED).any(dim=0).int().argmax().item()
        kept = labels.shape[1] - first + 1  # the token before a reply predicts its first
        after_prefix = {
            "past_key_values": cache,
            "attention_mask": torch.cat([mask.new_ones(len(mask), known), mask], dim=1),  # (batch, prefix + tokens)
            "position_ids": (known - 1 + mask.cumsum(dim=1)).clamp(min=0),
            "labels": labels[:, -kept:],
            "logits_to_keep": kept,
        }
        return super().compute_loss(model, inputs | after_prefix, *args, **kwargs)


def main(args: RefinerArguments, training_args: RefinerTrainingArguments):
    """Train on the demonstrations, and save the adapter, or the model, with its tokenizer."""
    check_folders(training_args)
    demonstrations = load_demonstrations(args.demonstrations)
    set_seed(training_args.seed)
    model, tokenizer = load_model(args)
    sides: dict[bool, list] = {False: [], True: []}
    for demonstration, chat in zip(demonstrations, as_chats(demonstrations, training_args.seed), strict=True):
        sides[is_held_out(demonstration.prompt, args.validation_share, training_args.seed)].append(chat)
    train, validation = sides[False], sides[True]
    if not train or not validation:
        raise UsageError(f"{args.demonstrations}: too few demonstrations for a validation split.")
    rows = encode(train + validation, tokenizer)
    # Checkpointing keeps no cache, and DataParallel, without torchrun, doesn't part one among its GPUs.
    keeps_cache = not training_args.gradient_checkpointing and training_args.n_gpu <= 1
    prefix = shared_prefix(rows) if keeps_cache else []
    rows = without_prefix(rows, len(prefix))
    trainer = SharedPrefixTrainer(
        model=model,
        args=training_args,
        prefix=prefix,
        train_dataset=rows.select(range(len(train))),
        eval_dataset=rows.select(range(len(train), len(rows))),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        model.to(torch.float16 if args.lora_r else torch.bfloat16)
        model.save_pretrained(training_args.output_dir)
        if not args.lora_r:
            tokenizer.save_pretrained(training_args.output_dir)
        push_folder(training_args, trainer.hub_model_id)


def make_parser() -> DataclassParser:
    """The command line: a group of our own, and the Trainer's."""
    return DataclassParser((RefinerArguments, RefinerTrainingArguments), description=__doc__)


if __name__ == "__main__":
    run("train_refiner.py", lambda: main(*make_parser().parse()))
