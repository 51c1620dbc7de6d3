"""The Lance detector: a shared encoder, a Gaussian semantic head, a Beta rejection head, and their two decoders (§3.4).

Copied alone to the Hub by `save_pretrained`, so it imports only torch, transformers and its configuration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import log

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import ModelOutput, logging

from .configuration_lance import LanceConfig, check_threshold

_PROGRESS_BAR_FROM = 1_000


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


def beta_std(alpha: Tensor, beta: Tensor) -> Tensor:
    """Standard deviation of Beta(alpha, beta), elementwise: the detector's own uncertainty."""
    total = alpha + beta
    return (alpha * beta / (total + 1)).sqrt() / total


def beta_quantile(alpha: Tensor, beta: Tensor, probability: float, points: int = 4096) -> Tensor:
    """Quantile of Beta(alpha, beta), elementwise, by integrating its density over a grid in logit space.

    Torch has no inverse of the incomplete beta function; on this grid the error stays below 1e-4.

    Args:
        alpha: of any shape, positive.
        beta: of the same shape.
        probability: the level, in (0, 1).
        points: the grid's size.
    """
    alpha, beta = alpha.double().unsqueeze(-1), beta.double().unsqueeze(-1)
    # In u = logit(d) the density is d^alpha (1 - d)^beta, with exponential tails of slope alpha and beta. A grid spaced
    # as sinh is fine at the mode and still reaches to where e^-40 is left.
    mode, width = alpha.log() - beta.log(), (1 / alpha + 1 / beta).sqrt()
    reach = torch.asinh((40 / torch.minimum(alpha, beta) + 40 * width) / width)
    unit = torch.linspace(-1, 1, points, dtype=torch.float64, device=alpha.device) * reach  # (..., points)
    grid = mode + width * unit.sinh()
    log_density = alpha * functional.logsigmoid(grid) + beta * functional.logsigmoid(-grid) + unit.cosh().log()
    density = (log_density - log_density.amax(-1, keepdim=True)).exp()
    mass = torch.cumulative_trapezoid(density, dim=-1)  # (..., points - 1)
    target = probability * mass[..., -1:]
    index = torch.searchsorted(mass, target).clamp(1, points - 2)
    below, above = mass.gather(-1, index - 1), mass.gather(-1, index)
    share = ((target - below) / (above - below)).clamp(0, 1)
    logit = torch.lerp(grid.gather(-1, index), grid.gather(-1, index + 1), share)
    return logit.squeeze(-1).sigmoid().float()


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


@dataclass(frozen=True)
class RiskDistribution:
    """What the detector says of one prompt-response pair.

    Attributes:
        mean: d_j by category name, in (0, 1).
        std: the standard deviation of each category's Beta.
        alpha: the Beta's first parameter by category.
        beta: its second.
        effort: `"Minor"`, `"Mild"` or `"Severe"` for each category above its τ, the riskiest first.
        is_safe: whether no category is above its τ.
        truncated_tokens: how many tokens of the pair did not fit the encoder and went unread.
    """

    mean: dict[str, float]
    std: dict[str, float]
    alpha: dict[str, float]
    beta: dict[str, float]
    effort: dict[str, str]
    is_safe: bool
    truncated_tokens: int

    @property
    def max_risk(self) -> float:
        """max_j d_j over all categories, those switched off among them."""
        return max(self.mean.values())

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """The central interval that holds `level` of each category's Beta, as (lower, upper).

        Raises:
            ValueError: for a level outside (0, 1).
        """
        check_threshold("level", level)
        alpha, beta = torch.tensor(list(self.alpha.values())), torch.tensor(list(self.beta.values()))
        lower = beta_quantile(alpha, beta, (1 - level) / 2).tolist()
        upper = beta_quantile(alpha, beta, (1 + level) / 2).tolist()
        return dict(zip(self.mean, zip(lower, upper, strict=True), strict=True))


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


class LanceForRiskDistribution(PreTrainedModel):
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
        self.post_init()

    @classmethod
    def from_encoder(cls, name_or_path: str, **config_fields) -> "LanceForRiskDistribution":
        """A detector with fresh heads on a pretrained encoder.

        Args:
            name_or_path: an encoder on the Hub or in a folder, with its tokenizer.
            config_fields: fields of [`LanceConfig`].

        Raises:
            OSError: when there is no such encoder.
            ValueError: for a bad field, or a `max_length` that the encoder doesn't take.
        """
        encoder_config = AutoConfig.from_pretrained(name_or_path)
        encoder_config.name_or_path = ""  # a local path would travel to the Hub in config.json
        model = cls(cls.config_class(encoder_config=encoder_config, **config_fields))
        model.encoder = AutoModel.from_pretrained(
            name_or_path, config=encoder_config, dtype=torch.float32, **_without_pooler(encoder_config)
        )
        model.tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        limit = min(model.tokenizer.model_max_length, encoder_config.max_position_embeddings)
        if model.config.max_length > limit:
            raise ValueError(f"max_length must be at most {limit}, what {name_or_path} takes.")
        return model

    @property
    def tokenizer(self):
        """The encoder's tokenizer, read from the checkpoint's folder when first needed; another can be set."""
        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, config=self.config.encoder_config)
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

        In training mode the losses see samples of z and d; otherwise the posterior means.

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
            output = LanceOutput(
                risk=alpha / (alpha + beta),
                alpha=alpha,
                beta=beta,
                semantic_mean=mean,
                semantic_std=std,
                context_feature=feature,
            )
            if labels is not None:
                self._add_losses(output, labels.float(), loss_weights)
        return output

    def _pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        if self.config.pooling == "cls":
            return states[:, 0]
        mask = attention_mask.unsqueeze(-1).to(states.dtype)  # (B, S, 1)
        return (states * mask).sum(1) / mask.sum(1)

    def _add_losses(self, output: LanceOutput, labels: Tensor, loss_weights: Tensor | None):
        if self.training:
            semantic = output.semantic_mean + output.semantic_std * torch.randn_like(output.semantic_std)
            rejection = Beta(output.alpha, output.beta, validate_args=False).rsample()
        else:
            semantic, rejection = output.semantic_mean, output.risk
        rejection = rejection.clamp(self.config.sample_margin, 1 - self.config.sample_margin)  # (B, 14)
        label_logits = self.label_decoder(rejection)
        output.label_probabilities = label_logits.sigmoid()  # Eq. 7
        output.label_loss = functional.binary_cross_entropy_with_logits(label_logits, labels, loss_weights)  # Eq. 8

        reconstruction = self.feature_decoder(torch.cat([semantic, rejection], dim=-1))  # Eq. 9, (B, H)
        target = output.context_feature
        if self.config.detach_feature_target:
            target = target.detach()
        output.feature_loss = functional.mse_loss(reconstruction, target)  # Eq. 10

        divergence = gaussian_kl(output.semantic_mean, output.semantic_std) + beta_kl(output.alpha, output.beta)
        output.kl_loss = divergence.mean()  # Eq. 11

        output.aux_loss = functional.binary_cross_entropy(rejection, labels, loss_weights)  # Eq. 15

        config = self.config
        output.loss = (  # Eq. 16
            config.feature_loss_weight * output.feature_loss
            + config.label_loss_weight * output.label_loss
            + config.kl_loss_weight * output.kl_loss
            + config.aux_loss_weight * output.aux_loss
        )

    def encode_pairs(
        self, prompts: Sequence[str], responses: Sequence[str | None] | None = None
    ) -> tuple[list[dict[str, list[int]]], list[int]]:
        """Tokenize pairs as the tokenizer's own sentence pairs; a prompt without a response stands alone.

        A pair longer than `config.max_length` loses the end of its longer side, so neither side ever vanishes.

        Args:
            prompts: the prompts, none of them blank.
            responses: a response (or `None`) for each; without it every prompt stands alone.

        Returns:
            The encodings in the order given, and how many tokens each lost.

        Raises:
            ValueError: for a blank prompt, or lists of unequal lengths.
        """
        responses = [None] * len(prompts) if responses is None else responses
        if len(prompts) != len(responses):
            raise ValueError(f"prompts and responses must pair up, got {len(prompts)} and {len(responses)}.")
        for index, prompt in enumerate(prompts):
            if not prompt.strip():
                raise ValueError(f"prompt {index} is empty: every pair needs a prompt.")
        texts = [
            (prompt,) if response is None or not response.strip() else (prompt, response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        encodings: list[dict[str, list[int]]] = [{} for _ in texts]
        dropped = [0] * len(texts)
        for sides in (1, 2):
            rows = [index for index, text in enumerate(texts) if len(text) == sides]
            if not rows:
                continue
            columns = [[texts[row][side] for row in rows] for side in range(sides)]
            whole = self.tokenizer(*columns, verbose=False)
            for place, row in enumerate(rows):
                encodings[row] = {name: whole[name][place] for name in whole}
                dropped[row] = max(0, len(whole["input_ids"][place]) - self.config.max_length)
                if dropped[row]:
                    encodings[row] = dict(
                        self.tokenizer(*texts[row], truncation=True, max_length=self.config.max_length)
                    )
        return encodings, dropped

    @torch.inference_mode()
    def assess(
        self,
        prompts: Sequence[str] | str,
        responses: Sequence[str | None] | str | None = None,
        batch_size: int = 64,
        risk_threshold: float | Mapping[str, float | None] | None = None,
        uncertainty: float | None = None,
    ) -> list[RiskDistribution]:
        """Estimate the risk of each pair; batches hold pairs of like length, and results keep the order given.

        Args:
            prompts: the prompts, or a single one.
            responses: a response (or `None`) for each; without it the prompts are judged alone.
            batch_size: pairs to a forward pass.
            risk_threshold: τ in place of the configuration's own, for all categories or by name; `None` for a name
                switches that category off.
            uncertainty: level of the Beta's central interval, in (0, 1), whose upper end is then held against τ where
                it lies above the mean: a risk that the detector isn't sure of counts as higher.

        Returns:
            One [`RiskDistribution`] a pair.

        Raises:
            ValueError: for a blank prompt, lists of unequal lengths, a threshold or level outside (0, 1), an unknown
                category, or a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        thresholds = self.config.thresholds(risk_threshold)
        if uncertainty is not None:
            check_threshold("uncertainty", uncertainty)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        responses = [responses] if isinstance(responses, str) else responses
        encodings, dropped = self.encode_pairs(prompts, responses)
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row]["input_ids"]))
        was_training = self.training
        self.eval()
        results: dict[int, RiskDistribution] = {}
        try:
            for start in logging.tqdm(
                range(0, len(order), batch_size), desc="assess", disable=len(order) < _PROGRESS_BAR_FROM
            ):
                rows = order[start : start + batch_size]
                batch = self.tokenizer.pad([encodings[row] for row in rows], return_tensors="pt").to(self.device)
                output = self(**batch)
                decided = output.risk
                if uncertainty is not None:
                    # The mean of a skewed Beta can lie above its interval; the risk counts as no lower for that.
                    decided = decided.maximum(beta_quantile(output.alpha, output.beta, (1 + uncertainty) / 2))
                columns = (output.risk, beta_std(output.alpha, output.beta), output.alpha, output.beta, decided)
                for row, *values in zip(rows, *(column.tolist() for column in columns), strict=True):
                    results[row] = self._risk_distribution(*values, thresholds, dropped[row])
        finally:
            self.train(was_training)
        return [results[row] for row in range(len(order))]

    def _risk_distribution(self, mean, std, alpha, beta, decided, thresholds, truncated_tokens) -> RiskDistribution:
        named = [dict(zip(self.config.categories, values, strict=True)) for values in (mean, std, alpha, beta, decided)]
        *described, decided = named
        efforts = {
            category: self.config.effort(decided[category], thresholds[category])
            for category in sorted(decided, key=lambda category: -decided[category])
            if thresholds[category] is not None
        }
        effort = {category: level for category, level in efforts.items() if level is not None}
        return RiskDistribution(*described, effort=effort, is_safe=not effort, truncated_tokens=truncated_tokens)


# So `save_pretrained` copies both files and writes `auto_map`.
LanceConfig.register_for_auto_class()
LanceForRiskDistribution.register_for_auto_class("AutoModel")

__all__ = ["LanceForRiskDistribution"]
