"""The Lance detector: a shared encoder, a Gaussian semantic head, a Beta rejection head, and their two decoders (§3.4).

Copied to the Hub by `save_pretrained` with what it imports beside torch and transformers: `assessment_lance.py`,
`distribution_lance.py` and `configuration_lance.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import ModelOutput, logging

from .assessment_lance import RiskAssessor, hub_options, load_tokenizer
from .configuration_lance import LanceConfig

logger = logging.get_logger(__name__)


def gaussian_kl(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) || N(0, I)), in Eq. 11, of shape `(batch,)` for inputs of shape `(batch, latent)`."""
    return -0.5 * (1 + 2 * std.log() - mean.square() - std.square()).sum(-1)


def beta_kl(alpha: Tensor, beta: Tensor) -> Tensor:
    """KL(Beta(alpha, beta) || Beta(1, 1)), Eq. 12, of shape `(batch,)` for inputs of shape `(batch, categories)`."""
    total = alpha + beta
    log_beta_function = alpha.lgamma() + beta.lgamma() - total.lgamma()
    divergence = (
        -log_beta_function + (alpha - 1) * alpha.digamma() + (beta - 1) * beta.digamma() + (2 - total) * total.digamma()
    )
    return divergence.sum(-1)


def expected_cross_entropy(alpha: Tensor, beta: Tensor, labels: Tensor) -> Tensor:
    """The mean of BCE(d, y) over d ~ Beta(alpha, beta), of the inputs' shape: Eq. 15 without the draw's noise."""
    total = (alpha + beta).digamma()
    return labels * (total - alpha.digamma()) + (1 - labels) * (total - beta.digamma())


@dataclass
class LanceOutput(ModelOutput):
    """Output of [`LanceForRiskDistribution`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given): Eq. 16.
        label_loss, aux_loss, feature_loss, kl_loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Eqs. 8, 15, 10 and 11, each before its weight.
        risk (`torch.FloatTensor` of shape `(batch, categories)`): the posterior mean alpha / (alpha + beta).
        alpha, beta (`torch.FloatTensor` of shape `(batch, categories)`): Eq. 6.
        label_probabilities (`torch.FloatTensor` of shape `(batch, categories)`, *optional*): Eq. 7.
        semantic_mean, semantic_std (`torch.FloatTensor` of shape `(batch, latent)`): Eq. 5.
        context_feature (`torch.FloatTensor` of shape `(batch, hidden)`): h.
    """

    loss: Tensor | None = None
    label_loss: Tensor | None = None
    aux_loss: Tensor | None = None
    feature_loss: Tensor | None = None
    kl_loss: Tensor | None = None
    risk: Tensor | None = None
    alpha: Tensor | None = None
    beta: Tensor | None = None
    label_probabilities: Tensor | None = None
    semantic_mean: Tensor | None = None
    semantic_std: Tensor | None = None
    context_feature: Tensor | None = None


class SemanticHead(nn.Module):
    """q(z|s) = N(μ, diag σ²), Eq. 5."""

    def __init__(self, config: LanceConfig):
        super().__init__()
        self.mean = nn.Linear(config.encoder_config.hidden_size, config.latent_size)
        self.std = nn.Linear(config.encoder_config.hidden_size, config.latent_size)
        self.floor = config.semantic_std_floor

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Map h of shape `(batch, hidden)` to (μ, σ), each of shape `(batch, latent)`."""
        return self.mean(feature), functional.softplus(self.std(feature)) + self.floor


class RejectionHead(nn.Module):
    """q(d|s) = ∏_j Beta(α_j, β_j), Eq. 6."""

    def __init__(self, config: LanceConfig):
        super().__init__()
        self.alpha = nn.Linear(config.encoder_config.hidden_size, config.num_labels)
        self.beta = nn.Linear(config.encoder_config.hidden_size, config.num_labels)
        self.parameterization = config.beta_parameterization
        self.floor = config.concentration_floor

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Map h of shape `(batch, hidden)` to (α, β), each of shape `(batch, categories)`."""
        return self._concentration(self.alpha(feature)), self._concentration(self.beta(feature))

    @torch.no_grad()
    def calibrate(self, scale: float, shift: float):
        """Fold the map logit → scale · logit + shift of every category's mean into the layers.

        The concentrations move with it: α and β become α^scale · e^(shift/2) and β^scale · e^(-shift/2).

        Raises:
            ValueError: for a scale that isn't positive, or the softplus parameterization, whose mean is no sigmoid of a
                linear map.
        """
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}.")
        if self.parameterization != "exp":
            raise ValueError("only beta_parameterization='exp' can be calibrated by its own layers.")
        for layer, part in ((self.alpha, shift / 2), (self.beta, -shift / 2)):
            layer.weight.mul_(scale)
            layer.bias.mul_(scale).add_(part)

    def _concentration(self, output: Tensor) -> Tensor:
        if self.parameterization == "exp":
            bound = -log(self.floor)
            return output.clamp(-bound, bound).exp()
        return functional.softplus(output) + self.floor


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _without_pooler(encoder_config) -> dict[str, bool]:
    """The option that leaves out the encoder's own pooler, where it has one: h is pooled here."""
    parameters = signature(MODEL_MAPPING[type(encoder_config)].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def _positions_taken(encoder: PreTrainedModel) -> int:
    """How many positions no token gets: RoBERTa's kind counts them from behind the padding token's number."""
    paddings = (
        module.padding_idx
        for name, module in encoder.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    )
    return max((padding + 1 for padding in paddings if padding is not None), default=0)


class LanceForRiskDistribution(RiskAssessor, PreTrainedModel):
    """Estimates a continuous risk distribution over the categories from a prompt and the response to it."""

    config_class = LanceConfig
    base_model_prefix = "lance"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    # lgamma, digamma and the Beta sampler need float32, and so do the small layers that feed them.
    _keep_in_fp32_modules_strict = {"semantic_head", "rejection_head", "label_decoder", "feature_decoder"}

    def __init__(self, config: LanceConfig):
        super().__init__(config)
        hidden_size, categories = config.encoder_config.hidden_size, config.num_labels
        self.encoder = AutoModel.from_config(config.encoder_config, **_without_pooler(config.encoder_config))
        self.dropout = nn.Dropout(config.head_dropout)
        self.semantic_head = SemanticHead(config)
        self.rejection_head = RejectionHead(config)
        self.label_decoder = _mlp(categories, config.label_decoder_size, categories)
        self.feature_decoder = _mlp(config.latent_size + categories, config.feature_decoder_size, hidden_size)
        self._tokenizer = None
        self._hub_options: dict[str, Any] = {}
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **options):
        """As any model's; what the Hub is asked with, such as `revision`, holds for the tokenizer too.

        Raises:
            ValueError: for a checkpoint that lacks some of the weights, whose place random ones would take.
        """
        wants_info = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **options)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{pretrained_model_name_or_path} lacks {len(missing)} weights, such as {missing[0]}. Of a run with "
                "--lora_r only the folder that it ends with is whole."
            )
        model._hub_options = hub_options(options)
        # It names the pipeline's file, which a save of the model alone doesn't copy; the pipeline's own sets it again.
        vars(model.config).pop("custom_pipelines", None)
        return (model, info) if wants_info else model

    def save_pretrained(self, save_directory, is_main_process: bool = True, **options):
        """As any model's, with the tokenizer, if it has one, beside the weights.

        Raises:
            ValueError: for `push_to_hub=True`, which would upload before the tokenizer is there.
        """
        if options.get("push_to_hub"):
            raise ValueError("push_to_hub=True would leave the tokenizer behind: call the model's push_to_hub().")
        super().save_pretrained(save_directory, is_main_process=is_main_process, **options)
        if not is_main_process or (self._tokenizer is None and not self.name_or_path):
            return
        try:
            tokenizer = self.tokenizer
        except OSError:
            logger.warning(f"Saved without a tokenizer: {self.name_or_path} has none.")
        else:
            tokenizer.save_pretrained(save_directory)

    def _apply(self, fn, recurse: bool = True):
        """As any module's, but a cast, such as `half()`, leaves the heads in float32."""

        def move(tensor: Tensor) -> Tensor:
            applied = fn(tensor)
            return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

        super()._apply(fn, recurse=False)
        for name, module in self.named_children() if recurse else ():
            # Of the class: an encoder adds patterns of its own to the instance's.
            module._apply(move if name in type(self)._keep_in_fp32_modules_strict else fn)
        return self

    @classmethod
    def from_encoder(cls, name_or_path: str, **config_fields) -> "LanceForRiskDistribution":
        """A detector with fresh heads on a pretrained encoder.

        Args:
            name_or_path: an encoder on the Hub or in a folder, with its tokenizer.
            config_fields: fields of [`LanceConfig`].

        Raises:
            OSError: when there is no such encoder.
            ValueError: for a bad field, a `max_length` that the encoder doesn't take, or an encoder that doesn't say
                what it takes.
        """
        encoder_config = AutoConfig.from_pretrained(name_or_path)
        try:
            positions = encoder_config.max_position_embeddings
        except AttributeError:
            raise ValueError(f"{name_or_path}: its configuration states no max_position_embeddings.") from None
        encoder_config.name_or_path = ""  # a local path would travel to the Hub in config.json
        model = cls(cls.config_class(encoder_config=encoder_config, **config_fields))
        model.encoder = AutoModel.from_pretrained(
            name_or_path, config=encoder_config, dtype=torch.float32, **_without_pooler(encoder_config)
        )
        model.tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        limit = min(model.tokenizer.model_max_length, positions - _positions_taken(model.encoder))
        if model.config.max_length > limit:
            raise ValueError(f"max_length must be at most {limit}, what {name_or_path} takes.")
        return model

    @property
    def tokenizer(self):
        """The encoder's tokenizer, read from the checkpoint's folder when first needed; another can be set."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.name_or_path, self.config, **self._hub_options)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer):
        self._tokenizer = tokenizer

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
    ) -> LanceOutput:
        r"""Score a batch of encoded pairs; with `labels`, also its losses.

        In training mode the losses see samples of z and, but for another `config.rejection_estimate`, of d; otherwise
        the posterior means.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, seq)`): the encoded pairs.
            attention_mask (`torch.LongTensor` of shape `(batch, seq)`, *optional*): 0 on padding.
            token_type_ids (`torch.LongTensor` of shape `(batch, seq)`, *optional*): where the encoder uses them.
            labels (`torch.FloatTensor` of shape `(batch, categories)`, *optional*): 0/1 or soft risk labels in [0, 1].
            loss_weights (`torch.FloatTensor` of shape `(batch, categories)`, *optional*):
                Weight of each label in Eqs. 8 and 15.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        with torch.autocast(device_type=states.device.type, enabled=False):
            feature = self._pool(states.float(), attention_mask)  # (B, H)
            head_input = self.dropout(feature)
            mean, std = self.semantic_head(head_input)  # (B, Z)
            alpha, beta = self.rejection_head(head_input)  # (B, 14)
            posterior = {
                "risk": alpha / (alpha + beta),
                "alpha": alpha,
                "beta": beta,
                "semantic_mean": mean,
                "semantic_std": std,
                "context_feature": feature,
            }
            losses = {} if labels is None else self._losses(**posterior, labels=labels.float(), weights=loss_weights)
        return LanceOutput(**losses, **posterior)

    def _pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        if self.config.pooling == "cls":
            return states[:, 0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)  # (B, S, 1)
        return (states * mask).sum(1) / mask.sum(1)

    def _losses(
        self,
        risk: Tensor,
        alpha: Tensor,
        beta: Tensor,
        semantic_mean: Tensor,
        semantic_std: Tensor,
        context_feature: Tensor,
        labels: Tensor,
        weights: Tensor | None,
    ) -> dict[str, Tensor]:
        """The losses as [`LanceOutput`] names them, and Eq. 7."""
        config = self.config
        semantic, rejection = semantic_mean, risk
        estimate = config.rejection_estimate if self.training else "mean"
        if self.training:
            semantic = semantic + semantic_std * torch.randn_like(semantic_std)
        if estimate != "mean":
            rejection = Beta(alpha, beta, validate_args=False).rsample()
        rejection = rejection.clamp(config.sample_margin, 1 - config.sample_margin)  # (B, 14)
        label_logits = self.label_decoder(rejection)
        label_loss = functional.binary_cross_entropy_with_logits(label_logits, labels, weights)  # Eq. 8

        reconstruction = self.feature_decoder(torch.cat([semantic, rejection], dim=-1))  # Eq. 9, (B, H)
        target = context_feature.detach() if config.detach_feature_target else context_feature
        feature_loss = functional.mse_loss(reconstruction, target)  # Eq. 10

        kl_loss = (gaussian_kl(semantic_mean, semantic_std) + beta_kl(alpha, beta)).mean()  # Eq. 11

        if estimate == "expectation":
            cross_entropy = expected_cross_entropy(alpha, beta, labels)
        else:
            cross_entropy = functional.binary_cross_entropy(rejection, labels, reduction="none")
        aux_loss = (cross_entropy if weights is None else weights * cross_entropy).mean()  # Eq. 15

        loss = (  # Eq. 16
            config.feature_loss_weight * feature_loss
            + config.label_loss_weight * label_loss
            + config.kl_loss_weight * kl_loss
            + config.aux_loss_weight * aux_loss
        )
        return {
            "loss": loss,
            "label_loss": label_loss,
            "aux_loss": aux_loss,
            "feature_loss": feature_loss,
            "kl_loss": kl_loss,
            "label_probabilities": label_logits.sigmoid(),  # Eq. 7
        }

    @torch.inference_mode()
    def concentrations(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """α and β of one batch, each of shape `(batch, categories)`, in float32 on the CPU; in evaluation mode.

        Args:
            batch: what the tokenizer gives for padded pairs, of shape `(batch, seq)` each, on the CPU.
        """
        if self.training:  # asked first: setting the mode walks all modules, half a millisecond a call
            self.eval()
            try:
                return self.concentrations(batch)
            finally:
                self.train()
        output = self(**{name: tensor.to(self.device) for name, tensor in batch.items()})
        return output.alpha.cpu(), output.beta.cpu()


# So `save_pretrained` copies the files and writes `auto_map`.
LanceConfig.register_for_auto_class()
LanceForRiskDistribution.register_for_auto_class("AutoModel")

__all__ = ["LanceForRiskDistribution"]
