"""Training: `train.py`'s model and trainer against transformers' own, on the same encoder, rows and batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer

from benchmarks.detector.encoder import load_classifier, save_encoder
from benchmarks.detector.timing import interleave, per_second, ratio
from command_line import UsageError
from train import (
    DataArguments,
    LanceTrainer,
    LanceTrainingArguments,
    LossArguments,
    ModelArguments,
    build_datasets,
    build_model,
    encode,
    set_dropout,
)


class CountingCollator(DataCollatorWithPadding):
    """`train.py`'s collator, adding up the tokens that it hands out."""

    tokens = 0

    def __call__(self, features):
        """Collate a batch."""
        batch = super().__call__(features)
        self.tokens += batch["input_ids"].numel()
        return batch


@dataclass(frozen=True)
class Options:
    """The options of `train.py` that both sides are trained with; its defaults, where left out.

    Args:
        model: `attn_implementation` and `encoder_dropout`.
        trainer: of `LanceTrainingArguments`.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)


# How the first two runs behind the embedded checkpoint are trained (`make checkpoint`), but for its two processes, and
# train.py as it comes.
RECIPES = {
    "checkpoint": Options(
        {"attn_implementation": "eager", "encoder_dropout": 0.0}, {"bf16": True, "per_device_train_batch_size": 16}
    ),
    "defaults": Options(),
}


@dataclass(frozen=True)
class Setting:
    """What both sides share.

    Args:
        encoder: the folder that holds it.
        detector: gives the tokenizer and the configuration.
        options: of the model.
        arguments: of both trainers.
        rows: encoded, with their labels.
    """

    encoder: str
    detector: PreTrainedModel
    options: ModelArguments
    arguments: LanceTrainingArguments
    rows: Dataset

    def lance_trainer(self, collator: CountingCollator) -> LanceTrainer:
        """As `train.py` sets it up, from the start."""
        return LanceTrainer(
            head_learning_rate=self.options.head_learning_rate,
            model=build_model(self.options, LossArguments()),
            **self._shared(collator),
        )

    def plain_trainer(self, collator: CountingCollator) -> Trainer:
        """`Trainer` over `AutoModelForSequenceClassification`, from the start."""
        labels = self.detector.config.num_labels
        model = load_classifier(self.encoder, labels, self.options.attn_implementation)
        if self.options.encoder_dropout is not None:
            set_dropout(model.base_model, self.options.encoder_dropout)
        return Trainer(model=model, **self._shared(collator))

    def _shared(self, collator: CountingCollator) -> dict:
        return {
            "args": self.arguments,
            "train_dataset": self.rows,
            "data_collator": collator,
            "processing_class": self.detector.tokenizer,
        }


def measure(detector: PreTrainedModel, train_files: list[str], steps: int, rounds: int) -> dict:
    """Train both sides by each of the `RECIPES`; the ratio that has a goal is the checkpoint's own.

    Args:
        detector: its encoder is what is trained.
        train_files: labelled pairs; the rows are `train.py`'s mixture of them.
        steps: of each training.
        rounds: of the timing.

    Raises:
        UsageError: when there are too few rows.
    """
    with TemporaryDirectory() as folder:
        save_encoder(detector, folder)
        recipes = {
            name: time_training(make_setting(folder, detector, train_files, steps, options), rounds)
            for name, options in RECIPES.items()
        }
    return {
        "steps": steps,
        "training_step_ratio": recipes["checkpoint"]["ratio"],
        "recipes": recipes,
    }


def make_setting(
    encoder: str, detector: PreTrainedModel, train_files: list[str], steps: int, options: Options
) -> Setting:
    """What both sides share under these options.

    Raises:
        UsageError: when there are too few rows.
    """
    arguments = LanceTrainingArguments(
        output_dir=encoder,
        max_steps=steps,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        disable_tqdm=True,
        use_cpu=True,
        **options.trainer,
    )
    model_options = ModelArguments(encoder=encoder, max_length=detector.config.max_length, **options.model)
    return Setting(encoder, detector, model_options, arguments, read_rows(detector, train_files, arguments))


def time_training(setting: Setting, rounds: int) -> dict:
    """Train both sides from the start in every round, after a round that doesn't count."""
    tokens: dict[str, int] = {}

    def timer(name: str, make_trainer: Callable) -> Callable[[], float]:
        def seconds() -> float:
            collator = CountingCollator(setting.detector.tokenizer)
            runtime = make_trainer(collator).train().metrics["train_runtime"]
            tokens[name] = collator.tokens
            return runtime

        return seconds

    timers = {
        "lance": timer("lance", setting.lance_trainer),
        "plain": timer("plain", setting.plain_trainer),
    }
    interleave(timers, 1)
    seconds = interleave(timers, rounds)
    return {
        "attn_implementation": setting.options.attn_implementation,
        "encoder_dropout": setting.options.encoder_dropout,
        "bf16": setting.arguments.bf16,
        "batch_size": setting.arguments.per_device_train_batch_size,
        "tokens": tokens,
        "pairs_per_second": {name: per_second(len(setting.rows), side) for name, side in seconds.items()},
        "ratio": ratio(seconds["plain"], seconds["lance"]),
    }


def read_rows(detector: PreTrainedModel, train_files: list[str], arguments: LanceTrainingArguments) -> Dataset:
    """As many rows of `train.py`'s mixture as the steps take, encoded.

    Raises:
        UsageError: when there are too few.
    """
    needed = arguments.max_steps * arguments.per_device_train_batch_size
    options = DataArguments(train_file=train_files, max_train_rows=needed)
    mixture, _ = build_datasets(options, detector.config.categories, arguments.seed)
    if len(mixture) < needed:
        raise UsageError(
            f"--training_steps {arguments.max_steps}: {needed} rows are needed, --train_file gives {len(mixture)}."
        )
    return encode(mixture, detector)
