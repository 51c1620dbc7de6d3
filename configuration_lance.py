"""Configuration of Lance: the taxonomy, the heads, the loss weights, and the thresholds behind an effort (Eq. 1)."""

from collections.abc import Mapping
from numbers import Real

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, RobertaConfig

BEAVERTAILS_CATEGORIES = (
    "animal_abuse",
    "child_abuse",
    "controversial_topics,politics",
    "discrimination,stereotype,injustice",
    "drug_abuse,weapons,banned_substance",
    "financial_crime,property_crime,theft",
    "hate_speech,offensive_language",
    "misinformation_regarding_ethics,laws_and_safety",
    "non_violent_unethical_behavior",
    "privacy_violation",
    "self_harm",
    "sexually_explicit,adult_content",
    "terrorism,organized_crime",
    "violence,aiding_and_abetting,incitement",
)

EFFORTS = ("Minor", "Mild", "Severe")


class LanceConfig(PreTrainedConfig):
    r"""Configuration of a [`LanceForRiskDistribution`].

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*, defaults to roberta-base's):
            The shared encoder: any encoder that `AutoModel` knows (RoBERTa, BERT, MPNet, ModernBERT, ...).
        id2label (`dict[int, str]`, *optional*, defaults to the 14 BeaverTails categories):
            The risk taxonomy, in label order.
        pooling (`str`, *optional*, defaults to `"mean"`):
            How token states become the context feature h: `"mean"` over the tokens, or `"cls"` for the first one.
        latent_size (`int`, *optional*, defaults to 64):
            Size of the semantic latent z.
        label_decoder_size (`int`, *optional*, defaults to 64):
            Hidden size of the label decoder's MLP (Eq. 7).
        feature_decoder_size (`int`, *optional*, defaults to 256):
            Hidden size of the feature decoder's MLP (Eq. 9).
        head_dropout (`float`, *optional*, defaults to 0.1):
            Dropout on h before both heads.
        beta_parameterization (`str`, *optional*, defaults to `"exp"`):
            How the rejection head's output becomes (alpha, beta): `"exp"` of a clamped linear map, whose mean is
            exactly sigmoid(log alpha - log beta), or `"softplus"`.
        concentration_floor (`float`, *optional*, defaults to 0.001):
            Least alpha and beta: added to the softplus; for `"exp"` it also caps them at its inverse.
        sample_margin (`float`, *optional*, defaults to 1e-06):
            Least distance of a sample of d from 0 and 1: in float32 it can round to them, where the cross-entropy
            has no gradient.
        semantic_std_floor (`float`, *optional*, defaults to 1e-06):
            Added to the softplus that gives the semantic latent's standard deviation (Eq. 5).
        rejection_estimate (`str`, *optional*, defaults to `"sample"`):
            What the training losses see of q(d|s): `"sample"`, a draw; `"expectation"`, a draw too, but L_aux (Eq. 15)
            as its mean over all draws, in closed form; or `"mean"`, a point estimate in the Beta's place.
        detach_feature_target (`bool`, *optional*, defaults to `True`):
            Whether the feature loss (Eq. 10) leaves its target h alone. If not, the encoder can lower the loss by
            shrinking h.
        feature_loss_weight (`float`, *optional*, defaults to 0.01):
            Weight of L_feature in Eq. 16.
        label_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of L_label in Eq. 16.
        kl_loss_weight (`float`, *optional*, defaults to 0.01):
            Weight of L_KL in Eq. 16.
        aux_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of L_aux in Eq. 16.
        risk_threshold (`float`, *optional*, defaults to 0.3):
            τ: a pair is unsafe on category j when d_j > τ.
        mild_threshold (`float`, *optional*, defaults to 0.5):
            Above it the effort is Mild.
        severe_threshold (`float`, *optional*, defaults to 0.7):
            Above it the effort is Severe.
        binary_threshold (`float`, *optional*, defaults to 0.5):
            The cut on max_j d_j with the best F1 on the validation split, safe and harmful pairs weighing alike.
            Training sets it, reports use it.
        category_thresholds (`list[float]`, *optional*):
            The cut on each d_j with the best F1 on the validation split, under the same weights. Training sets them,
            reports use them for the categories' F1; `binary_threshold` where there are none.
        max_length (`int`, *optional*, defaults to 512):
            Longest encoded pair in tokens, at least 16. Of a longer one the longer side is cut, at its end.
        window_length (`int`, *optional*, defaults to 256):
            Longest window, in tokens, at least 16, in which `assess` reads a pair longer than `max_length`; no longer
            than that. A harmful sentence shows in a short window, and is lost in the mean over a long one.

    Raises:
        ValueError: for a field out of its range; the message names the field and what it may be.
    """

    model_type = "lance"
    sub_configs = {"encoder_config": AutoConfig}
    # What is left is `risk`: the logits that a plain `Trainer` gathers at evaluation.
    keys_to_ignore_at_inference = [
        "label_loss",
        "aux_loss",
        "feature_loss",
        "kl_loss",
        "alpha",
        "beta",
        "label_probabilities",
        "semantic_mean",
        "semantic_std",
        "context_feature",
    ]

    encoder_config: dict | PreTrainedConfig | None = None
    pooling: str = "mean"
    latent_size: int = 64
    label_decoder_size: int = 64
    feature_decoder_size: int = 256
    head_dropout: float = 0.1
    beta_parameterization: str = "exp"
    concentration_floor: float = 1e-3
    sample_margin: float = 1e-6
    semantic_std_floor: float = 1e-6
    rejection_estimate: str = "sample"
    detach_feature_target: bool = True
    feature_loss_weight: float = 0.01
    label_loss_weight: float = 1.0
    kl_loss_weight: float = 0.01
    aux_loss_weight: float = 1.0
    risk_threshold: float = 0.3
    mild_threshold: float = 0.5
    severe_threshold: float = 0.7
    binary_threshold: float = 0.5
    category_thresholds: list[float] | None = None
    max_length: int = 512
    window_length: int = 256

    def __post_init__(self, **kwargs):
        if self.encoder_config is None:
            self.encoder_config = RobertaConfig(max_position_embeddings=514)  # as roberta-base: 512 tokens
        elif isinstance(self.encoder_config, dict):
            self.encoder_config = self._read_encoder_config(self.encoder_config)
        if self.id2label is None:  # type: ignore[has-type]
            self.id2label = dict(enumerate(BEAVERTAILS_CATEGORIES))
        super().__post_init__(**kwargs)
        self.label2id = {label: index for index, label in self.id2label.items()}
        self._check_fields()

    @staticmethod
    def _read_encoder_config(fields):
        fields = dict(fields)
        model_type = fields.pop("model_type", None)
        if model_type not in CONFIG_MAPPING:
            raise ValueError(
                f"encoder_config['model_type'] must be a model type that transformers knows, such as 'roberta' or "
                f"'bert', got {model_type!r}."
            )
        return CONFIG_MAPPING[model_type](**fields)

    def _check_fields(self):
        if sorted(self.id2label) != list(range(len(self.id2label))) or len(self.label2id) != len(self.id2label):
            raise ValueError("id2label must map 0, 1, 2, ... to distinct category names.")
        choices = {
            "pooling": ("mean", "cls"),
            "beta_parameterization": ("exp", "softplus"),
            "rejection_estimate": ("sample", "expectation", "mean"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
        for name in ("latent_size", "label_decoder_size", "feature_decoder_size", "max_length", "window_length"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}.")
        for name in ("max_length", "window_length"):
            value = getattr(self, name)
            if value < 16:
                raise ValueError(f"{name} must be at least 16, so that both sides of a pair keep some, got {value}.")
        for name in ("concentration_floor", "sample_margin", "semantic_std_floor"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value!r}.")
        for name in ("feature_loss_weight", "label_loss_weight", "kl_loss_weight", "aux_loss_weight"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}.")
        for name in ("risk_threshold", "mild_threshold", "severe_threshold", "binary_threshold"):
            check_threshold(name, getattr(self, name))
        if self.category_thresholds is not None:
            if len(self.category_thresholds) != len(self.id2label):
                raise ValueError(
                    f"category_thresholds must hold one for each of the {len(self.id2label)} categories, got "
                    f"{len(self.category_thresholds)}."
                )
            for cut in self.category_thresholds:
                check_threshold("category_thresholds", cut)
        if self.mild_threshold > self.severe_threshold:
            raise ValueError(
                f"mild_threshold ({self.mild_threshold}) must not exceed severe_threshold ({self.severe_threshold})."
            )
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must lie in [0, 1), got {self.head_dropout!r}.")

    @property
    def categories(self) -> list[str]:
        """The category names in label order."""
        return [self.id2label[index] for index in range(len(self.id2label))]

    def thresholds(self, risk_threshold: float | Mapping[str, float | None] | None = None) -> dict[str, float | None]:
        """τ by category.

        Args:
            risk_threshold: in place of the configuration's own: one for all categories, or some by name. `None` for a
                name switches the category off.

        Raises:
            ValueError: for a threshold outside (0, 1), or a category that isn't in the taxonomy.
        """
        if not isinstance(risk_threshold, Mapping):
            value = self.risk_threshold if risk_threshold is None else risk_threshold
            return dict.fromkeys(self.categories, check_threshold("risk_threshold", value))
        for category, own in risk_threshold.items():
            if category not in self.label2id:
                raise ValueError(f"risk_threshold names {category!r}: use one of {', '.join(self.categories)}.")
            if own is not None:
                check_threshold(f"risk_threshold[{category!r}]", own)
        return dict.fromkeys(self.categories, self.risk_threshold) | dict(risk_threshold)

    def effort(self, risk: float, risk_threshold: float | None = None) -> str | None:
        """Eq. 1: how hard a prompt has to be rewritten for one category.

        Args:
            risk: d_j, in (0, 1).
            risk_threshold: τ in place of the configuration's own.

        Returns:
            `"Minor"`, `"Mild"` or `"Severe"`; `None` when the category is safe (d_j <= τ).
        """
        if risk <= (self.risk_threshold if risk_threshold is None else risk_threshold):
            return None
        return EFFORTS[(risk > self.mild_threshold) + (risk > self.severe_threshold)]


def check_threshold(name: str, value: float) -> float:
    """Return `value` if it lies strictly between 0 and 1, else raise a `ValueError` that names it."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}.")
    return value


__all__ = ["LanceConfig"]
