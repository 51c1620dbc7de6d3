"""Train the Lance detector.

With a network, on the Hub's own data:

    python train.py --encoder roberta-base --output_dir runs/roberta

On local files, with harmless rows against false alarms (`make checkpoint` holds the embedded model's own command):

    python train.py --encoder ENCODER --train_file pairs.jsonl --safe_file safe_pairs.jsonl safe_prompts.jsonl \
        --output_dir runs/detector --num_train_epochs 3 --learning_rate 1e-4

An earlier Lance checkpoint, the embedded one for example, trained on with pairs of your own:

    python train.py --checkpoint . --train_file pairs.jsonl --output_dir runs/continued

The mean of several runs' weights, calibrated anew on the same validation split (encoder, losses and mixture are those
of the runs, and their options count for nothing):

    python train.py --average runs/first runs/second --train_file ... --safe_file ... --output_dir runs/mean

All of `TrainingArguments` applies, such as `--bf16`, `--resume_from_checkpoint`, `--push_to_hub` and `torchrun train.py
...`, but for label smoothing, and for evaluation in half precision, whose cast would stay in what is saved.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import evaluate
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import PredictionOutput
from transformers.utils import logging

from command_line import DataclassParser, UsageError, check_folders, push_folder, run
from corpora.beavertails import HUB_NAME, load_beavertails
from corpora.mixture import drop_responses, exchange_prompts, label_weights, splice_safe, with_loss_weights
from corpora.registers import recast
from corpora.safe import load_safe, match_lengths, sample_evenly
from corpora.splits import split_by_prompt
from detector import ROOT, average_checkpoints, detector_class, load_checkpoint, pipeline_class
from errors import first_line
from evaluation.calibration import best_balanced_threshold, fit_platt

logger = logging.get_logger("lance.train")

MAX_LENGTH = 256  # tokens of a pair: few of BeaverTails' are longer
LOSS_TERMS = ("label_loss", "aux_loss", "feature_loss", "kl_loss")


@dataclass
class ModelArguments:
    """The encoder and how it is trained."""

    encoder: str = field(default="roberta-base", metadata={"help": "Encoder on the Hub or in a folder."})
    checkpoint: str | None = field(
        default=None,
        metadata={"help": "Train on from this Lance checkpoint, with its own settings but for the losses named here."},
    )
    pooling: str | None = field(default=None, metadata={"help": "Context feature: 'mean' (default) or 'cls'."})
    max_length: int | None = field(
        default=None, metadata={"help": "Longest encoded pair, in training and after, in tokens (default: 256)."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention code; 'eager' suits bf16 CPUs."})
    encoder_dropout: float | None = field(
        default=None, metadata={"help": "In place of the encoder's own; at 0 a CPU trains a third faster."}
    )
    lora_r: int | None = field(default=None, metadata={"help": "Train the encoder through LoRA of this rank (PEFT)."})
    head_learning_rate: float = field(
        default=1e-3, metadata={"help": "Of the fresh heads; --learning_rate is the encoder's."}
    )
    half_precision: bool = field(default=False, metadata={"help": "Save the final weights as float16."})
    early_stopping_patience: int = field(default=2, metadata={"help": "Evaluations without a gain before stopping."})
    average: list[str] = field(
        default_factory=list,
        metadata={"help": "In place of training: calibrate and save the mean of these checkpoints' weights."},
    )

    def __post_init__(self):
        if self.average and (self.lora_r is not None or self.checkpoint is not None):
            raise UsageError("--average trains nothing: it goes without --lora_r and --checkpoint.")
        if self.checkpoint is not None and (self.pooling is not None or self.max_length is not None):
            raise UsageError("--pooling and --max_length are the checkpoint's own: they go without --checkpoint.")
        if self.encoder_dropout is not None and not 0 <= self.encoder_dropout < 1:
            raise UsageError(f"--encoder_dropout must lie in [0, 1), got {self.encoder_dropout}.")


@dataclass
class LossArguments:
    """The variational objective (Eq. 16); what is left out is as `LanceConfig` or --checkpoint has it."""

    beta_parameterization: str | None = field(default=None, metadata={"help": "'exp' (default) or 'softplus'."})
    rejection_estimate: str | None = field(
        default=None,
        metadata={"help": "What the losses see of the Beta: 'sample' (default), 'expectation' or 'mean'."},
    )
    detach_feature_target: bool | None = field(
        default=None, metadata={"help": "Leave h alone in the feature loss (default: True)."}
    )
    feature_loss_weight: float | None = field(default=None, metadata={"help": "Weight of Eq. 10 (default: 0.01)."})
    label_loss_weight: float | None = field(default=None, metadata={"help": "Weight of Eq. 8 (default: 1)."})
    kl_loss_weight: float | None = field(default=None, metadata={"help": "Weight of Eq. 11 (default: 0.01)."})
    aux_loss_weight: float | None = field(default=None, metadata={"help": "Weight of Eq. 15 (default: 1)."})


@dataclass
class DataArguments:
    """The training mixture."""

    train_file: list[str] = field(
        default_factory=lambda: [HUB_NAME],
        metadata={"help": "Labelled pairs: local files, or a Hub data set of BeaverTails' kind."},
    )
    safe_file: list[str] = field(
        default_factory=list, metadata={"help": "Harmless rows, pairs or prompts alone: all-zero labels."}
    )
    safe_share: float = field(default=0.35, metadata={"help": "Share of safe-file rows in the mixture, at most."})
    prompt_only_share: float = field(default=0.15, metadata={"help": "Share of labelled pairs shown without response."})
    splice_share: float = field(
        default=0.0, metadata={"help": "Share of rows whose response gets a harmless one before or behind it."}
    )
    exchange_share: float = field(
        default=0.0,
        metadata={"help": "Share of labelled answers set under harmless prompts, and of harmless ones under labelled."},
    )
    register_share: float = field(
        default=0.0, metadata={"help": "Share of prompts framed as role play, and of responses laid out anew."}
    )
    validation_share: float = field(default=0.1, metadata={"help": "Share of prompts held out for validation."})
    split_seed: int | None = field(
        default=None,
        metadata={"help": "Of the validation split, which runs of several seeds can share; left out, --seed."},
    )
    soft_labels: bool = field(default=False, metadata={"help": "Train on 'labels_mean' where the file has it."})
    category_balance: float = field(default=0.0, metadata={"help": "0: no weights; 1: rare categories weigh in full."})
    safety_balance: float = field(
        default=0.0, metadata={"help": "0: no weights; 1: safe and unsafe labelled pairs weigh alike."}
    )
    max_train_rows: int | None = field(default=None, metadata={"help": "Train on a random part of the mixture."})

    def __post_init__(self):
        for name in ("safe_share", "prompt_only_share", "splice_share", "exchange_share", "register_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name} must lie in [0, 1), got {getattr(self, name)}.")
        for name in ("splice_share", "exchange_share"):
            if getattr(self, name) and not (self.safe_file and self.safe_share):
                raise UsageError(f"--{name} takes harmless rows: it needs --safe_file and a --safe_share above 0.")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must lie between 0 and 1, got {self.validation_share}.")
        if self.max_train_rows is not None and self.max_train_rows < 1:
            raise UsageError(f"--max_train_rows must be at least 1, got {self.max_train_rows}.")


@dataclass
class LanceTrainingArguments(TrainingArguments):
    """`TrainingArguments` with this task's defaults."""

    output_dir: str = "runs/detector"
    learning_rate: float = 2e-5
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 128
    warmup_steps: float = 0.06
    weight_decay: float = 0.01
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "eval_auprc"
    train_sampling_strategy: str = "group_by_length"
    report_to: str | None = "none"

    def __post_init__(self):
        super().__post_init__()
        if self.bf16_full_eval or self.fp16_full_eval:
            raise UsageError("--bf16_full_eval and --fp16_full_eval would round what is saved: use --bf16 or --fp16.")
        if self.label_smoothing_factor:
            raise UsageError("--label_smoothing_factor is the plain classifier's: use --soft_labels.")


class LanceTrainer(Trainer):
    """`Trainer` that logs every loss term, and gives the fresh heads a learning rate of their own.

    A term is logged before its weight of Eq. 16, as the mean over the batches of the process that logs.

    Args:
        head_learning_rate: of all that isn't the encoder.
        kwargs: what `Trainer` takes.
    """

    def __init__(self, head_learning_rate: float, **kwargs):
        super().__init__(**kwargs)
        self.head_learning_rate = head_learning_rate
        self._term_sums: Counter[str] = Counter()
        self._term_batches = 0

    def create_optimizer(self, model=None):
        """The Trainer's optimizer, each of its groups parted into the encoder's parameters and the heads'."""
        if self.optimizer is None:  # type: ignore[has-type]
            optimizer = super().create_optimizer(model)
            heads = {
                id(parameter) for name, parameter in self.model.named_parameters() if not name.startswith("encoder.")
            }
            groups, optimizer.param_groups = optimizer.param_groups, []
            for group in groups:
                for of_heads in (False, True):
                    parameters = [parameter for parameter in group["params"] if (id(parameter) in heads) == of_heads]
                    rate = self.head_learning_rate if of_heads else self.args.learning_rate
                    if parameters:
                        optimizer.add_param_group(group | {"params": parameters, "lr": rate})
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Eq. 16, keeping count of its terms while training."""
        outputs = model(**inputs)
        if model.training:
            self._term_sums.update({term: outputs[term].detach().mean() for term in LOSS_TERMS})
            self._term_batches += 1
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs, start_time=None):
        """Add each term's mean since the last log to a training log."""
        if "loss" in logs and self._term_batches:
            logs |= {term: round(float(self._term_sums[term]) / self._term_batches, 5) for term in LOSS_TERMS}
            self._term_sums.clear()
            self._term_batches = 0
        super().log(logs, start_time)


def build_model(model_args: ModelArguments, loss_args: LossArguments) -> PreTrainedModel:
    """Fresh heads on the pretrained encoder, or an earlier checkpoint; the encoder behind LoRA where asked.

    Raises:
        UsageError: when there is no such encoder or checkpoint, or an option is out of its range.
    """
    settings = asdict(loss_args) | {"pooling": model_args.pooling, "max_length": model_args.max_length}
    fields = {name: value for name, value in settings.items() if value is not None}
    if model_args.checkpoint is not None and "beta_parameterization" in fields:
        raise UsageError("--beta_parameterization is what the checkpoint was made with: it goes without --checkpoint.")
    try:
        if model_args.checkpoint is not None:
            model = load_checkpoint(model_args.checkpoint)
            type(model.config).from_dict(model.config.to_dict() | fields)  # checks their ranges
            model.config.update(fields)
        else:
            model = detector_class().from_encoder(model_args.encoder, **{"max_length": MAX_LENGTH} | fields)
        if model_args.attn_implementation is not None:
            model.set_attn_implementation(model_args.attn_implementation)
        if model_args.lora_r is not None:
            adapter = LoraConfig(r=model_args.lora_r, lora_alpha=2 * model_args.lora_r, target_modules="all-linear")
            model.encoder = get_peft_model(model.encoder, adapter)
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        raise UsageError(first_line(error)) from None
    if model_args.encoder_dropout is not None:
        set_dropout(model.encoder, model_args.encoder_dropout)
    return model


def set_dropout(encoder: torch.nn.Module, probability: float):
    """Give every dropout of the encoder this probability."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


def build_datasets(data_args: DataArguments, categories: list[str], seed: int) -> tuple[Dataset, dict[str, Dataset]]:
    """The training mixture, and the validation splits by name ("beavertails", and "safe" with safe files)."""
    pairs = concatenate_datasets([load_beavertails(source, categories) for source in data_args.train_file])
    split_seed = seed if data_args.split_seed is None else data_args.split_seed
    cut = partial(split_by_prompt, share=data_args.validation_share, seed=split_seed)
    train, validation = cut(pairs)
    if not len(train):
        raise UsageError("all prompts are held out for validation: give more data, or lower --validation_share.")
    if len({max(labels) > 0.5 for labels in validation["labels"]}) < 2:
        raise UsageError(
            "the validation split lacks safe or harmful pairs: give more data, or raise --validation_share."
        )
    evaluation = {"beavertails": validation}
    mixture = drop_responses(train, data_args.prompt_only_share, seed)
    weights = label_weights(np.asarray(train["labels"]), data_args.category_balance, data_args.safety_balance)
    mixture = with_loss_weights(mixture, weights)
    if data_args.safe_file:
        files = [load_safe(path, categories) for path in data_args.safe_file]
        held_out = [cut(match_lengths(rows, pairs, split_seed))[1] for rows in files]
        safe_validation = sample_evenly(held_out, len(validation), split_seed)
        if len(safe_validation):  # of small files, none may be held out
            evaluation["safe"] = safe_validation
        wanted = round(len(train) * data_args.safe_share / (1 - data_args.safe_share))
        safe = sample_evenly([cut(match_lengths(rows, pairs, seed))[0] for rows in files], wanted, seed)
        if len(safe) < wanted:
            logger.warning(f"--safe_file: {len(safe)} harmless rows to train on; --safe_share asks for {wanted}.")
        safe = with_loss_weights(safe, np.ones((len(safe), len(categories)), dtype=np.float32))
        exchanged = [
            exchange_prompts(mixture, safe, data_args.exchange_share, seed),
            exchange_prompts(safe, train, data_args.exchange_share, seed),
        ]
        mixture = splice_safe(concatenate_datasets(exchanged), safe, data_args.splice_share, seed)
    mixture = recast(mixture, data_args.register_share, seed).shuffle(seed=seed)
    if data_args.max_train_rows is not None:
        mixture = mixture.select(range(min(len(mixture), data_args.max_train_rows)))
    return mixture, evaluation


def encode(dataset: Dataset, model: PreTrainedModel, labels_column: str = "labels") -> Dataset:
    """The rows as the model's inputs, with their labels and loss weights; says how many did not fit whole.

    Args:
        dataset: with `prompt`, `response`, the labels, and `loss_weights` if any.
        model: encodes the pairs.
        labels_column: the labels to train on.
    """
    encodings, dropped = model.encode_pairs(dataset["prompt"], dataset["response"])
    if cut := sum(tokens > 0 for tokens in dropped):
        logger.warning(f"{cut} of {len(dropped)} pairs exceed {model.config.max_length} tokens and were cut.")
    columns = {name: [encoding[name] for encoding in encodings] for name in encodings[0]}
    columns["labels"] = dataset[labels_column]
    if "loss_weights" in dataset.column_names:
        columns["loss_weights"] = dataset["loss_weights"]
    return Dataset.from_dict(columns)


def make_compute_metrics(**cuts):
    """The project's metric module as the Trainer calls it.

    Args:
        cuts: the module's `threshold` and `category_thresholds`; without them 0.5.
    """
    metric = evaluate.load(str(ROOT / "metrics" / "risk_distribution"))

    def compute_metrics(prediction):
        results = metric.compute(predictions=prediction.predictions, references=prediction.label_ids, **cuts)
        category_f1 = results.pop("category_f1")
        return results | {f"f1_category_{index}": value for index, value in enumerate(category_f1)}

    return compute_metrics


def calibrate(
    model: PreTrainedModel, predict: Callable[[], Mapping[str, PredictionOutput]]
) -> Mapping[str, PredictionOutput]:
    """Make the highest risk a probability on all validation rows, then fix the cuts on the labelled pairs.

    Args:
        model: takes the calibration into its rejection head, and the cuts into its configuration.
        predict: gives the model's risks and the labels of each validation split, each of shape `(rows, categories)`.

    Returns:
        The predictions of the calibrated model.
    """
    predictions = predict()
    scores = {name: prediction.predictions.max(1) for name, prediction in predictions.items()}
    harmful = {name: prediction.label_ids.max(1) > 0.5 for name, prediction in predictions.items()}
    if model.config.beta_parameterization == "exp":
        origin = np.repeat([*scores], [len(rows) for rows in scores.values()])
        scale, shift = fit_platt(np.concatenate([*scores.values()]), np.concatenate([*harmful.values()]), origin)
        if scale > 0:
            model.rejection_head.calibrate(scale, shift)
            predictions = predict()  # anew: the head has bounds of its own
        else:
            logger.warning("Not calibrated: on validation, a higher risk does not go with more harm.")
    risk, labels = predictions["beavertails"].predictions, predictions["beavertails"].label_ids > 0.5  # (rows, 14)
    any_harm = labels.any(1)
    model.config.binary_threshold = best_balanced_threshold(risk.max(1), any_harm, any_harm)
    model.config.category_thresholds = [
        best_balanced_threshold(risk[:, category], labels[:, category], any_harm)
        if labels[:, category].any()
        else model.config.binary_threshold  # of a small split, a category may be missing
        for category in range(labels.shape[1])
    ]
    return predictions


def save(model: PreTrainedModel, model_args: ModelArguments, output_dir: str):
    """The plain checkpoint: LoRA merged, in half precision where asked, with its tokenizer and code."""
    if model_args.lora_r is not None:
        model.encoder = model.encoder.merge_and_unload()
    state = model.state_dict()
    if model_args.half_precision:
        state = {name: tensor.half() for name, tensor in state.items()}
    # The pipeline's own `save_pretrained` copies its file too, which the model's doesn't.
    pipeline_class()(model, model.tokenizer, device=model.device).save_pretrained(output_dir, state_dict=state)


def main(
    model_args: ModelArguments,
    loss_args: LossArguments,
    data_args: DataArguments,
    training_args: LanceTrainingArguments,
):
    """Train, calibrate on validation, save, and push where asked."""
    check_folders(training_args)
    set_seed(training_args.seed)
    model = average_checkpoints(model_args.average) if model_args.average else build_model(model_args, loss_args)
    mixture, evaluation = build_datasets(data_args, model.config.categories, training_args.seed)
    splits = {name: encode(rows, model) for name, rows in evaluation.items()}
    labels_column = "labels_mean" if data_args.soft_labels else "labels"
    early_stopping = EarlyStoppingCallback(model_args.early_stopping_patience)
    trainer = LanceTrainer(
        head_learning_rate=model_args.head_learning_rate,
        model=model,
        args=training_args,
        train_dataset=None if model_args.average else encode(mixture, model, labels_column),
        eval_dataset=splits["beavertails"],
        data_collator=DataCollatorWithPadding(model.tokenizer),
        processing_class=model.tokenizer,
        compute_metrics=make_compute_metrics(),
        callbacks=[early_stopping] if training_args.load_best_model_at_end else [],
    )
    if not model_args.average:
        trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    predictions = calibrate(model, lambda: {name: trainer.predict(rows) for name, rows in splits.items()})
    compute_metrics = make_compute_metrics(
        threshold=model.config.binary_threshold, category_thresholds=model.config.category_thresholds
    )
    metrics = {"binary_threshold": model.config.binary_threshold}
    for name, prediction in predictions.items():
        metrics |= {f"{name}_{figure}": value for figure, value in compute_metrics(prediction).items()}
    metrics = {name: None if np.isnan(value) else value for name, value in metrics.items()}  # JSON knows no NaN
    if trainer.is_world_process_zero():
        save(model, model_args, training_args.output_dir)
        Path(training_args.output_dir, "validation_metrics.json").write_text(
            json.dumps(metrics, indent=2) + "\n", encoding="utf-8"
        )
        push_folder(training_args, trainer.hub_model_id)


def make_parser() -> DataclassParser:
    """The command line: three groups of our own, and the Trainer's."""
    return DataclassParser((ModelArguments, LossArguments, DataArguments, LanceTrainingArguments), description=__doc__)


if __name__ == "__main__":
    run("train.py", lambda: main(*make_parser().parse()))
