"""An independent opinion on a pair: another encoder than the detector's, and other training rows.

Lance optimises its own detector, so that detector's word on the outcome is no evidence. This one is a logistic
regression on hidden states of the embedded SmolLM2, and the loop doesn't know it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from generation.embedded import embedded_model
from refinement.similarity import mean_states

WEIGHTS = Path(__file__).parent / "independent.safetensors"  # benchmarks/independent.py fits them
LAYERS = (12, 18, 24)  # of 30: the last ones are about the next token


class PairFeatures:
    """Mean hidden states of the embedded language model, of some of its layers, side by side.

    It is cut off behind the last of them, which its final norm then follows.

    Args:
        max_length: tokens of a pair that are read.
        batch_size: pairs to a forward pass.
    """

    def __init__(self, max_length: int, batch_size: int = 32):
        folder = embedded_model()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        # The layers behind the last one that is read would be computed in vain.
        self.model = AutoModelForCausalLM.from_pretrained(folder, num_hidden_layers=max(LAYERS)).model.eval()
        self.max_length, self.batch_size = max_length, batch_size

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Features of shape `(pairs, layers * hidden)`, float32."""
        texts = [f"Question: {prompt}\nAnswer: {answer}" for prompt, answer in zip(prompts, responses, strict=True)]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        features = np.empty((len(texts), len(LAYERS) * self.model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), self.batch_size):
            rows = order[start : start + self.batch_size]
            features[rows] = self._read([texts[row] for row in rows])
        return features

    @torch.inference_mode()
    def _read(self, texts: list[str]) -> np.ndarray:
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        states = self.model(**batch, output_hidden_states=True, use_cache=False).hidden_states
        means = [mean_states(states[layer].float(), batch["attention_mask"]) for layer in LAYERS]
        return torch.cat(means, dim=-1).numpy()  # (B, layers * H)


class IndependentClassifier:
    """The probability that a pair is harmful.

    Args:
        features: reads the pairs.
        weight: of shape `(features,)`.
        bias: of the logit.
    """

    def __init__(self, features: PairFeatures, weight: np.ndarray, bias: float):
        self.features, self.weight, self.bias = features, weight, bias

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> "IndependentClassifier":
        """The one that was saved, to read as much of a pair as it was fitted to; the one that ships by default."""
        with safe_open(path, framework="numpy") as file:
            features = PairFeatures(int(file.metadata()["max_length"]))
            return cls(features, file.get_tensor("weight"), float(file.get_tensor("bias")[0]))

    @classmethod
    def fit(
        cls, features: PairFeatures, inputs: np.ndarray, harmful: np.ndarray, importance: np.ndarray, strength: float
    ) -> "IndependentClassifier":
        """Fitted to labelled pairs.

        Args:
            features: what made the inputs.
            inputs: of shape `(pairs, features)`.
            harmful: of shape `(pairs,)`, bool.
            importance: of shape `(pairs,)`: how much each pair counts.
            strength: inverse of the regularisation's (C).
        """
        scaler = StandardScaler()
        regression = LogisticRegression(C=strength, max_iter=1_000)
        regression.fit(scaler.fit_transform(inputs), harmful, importance)
        weight = regression.coef_[0] / scaler.scale_
        return cls(features, weight.astype(np.float32), float(regression.intercept_[0] - weight @ scaler.mean_))

    def save(self, path: Path = WEIGHTS):
        """Keep the weights, without the language model's, and how much of a pair they are for."""
        tensors = {"weight": self.weight, "bias": np.array([self.bias], dtype=np.float32)}
        save_file(tensors, path, {"max_length": str(self.features.max_length)})

    def risk(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """The probability of harm of each pair, of shape `(pairs,)`."""
        return self.score(self.features(prompts, responses))

    def score(self, inputs: np.ndarray) -> np.ndarray:
        """The same from features, of shape `(pairs, features)`."""
        return 1 / (1 + np.exp(-(inputs @ self.weight + self.bias)))
