"""The `risk-distribution` pipeline: transformers' manner of calling outside, the detector's own `assess` inside.

Copied alone to the Hub by `save_pretrained`, so it imports only torch and transformers.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import tee
from typing import Any

from torch.utils.data import Dataset
from transformers import AutoModel, Pipeline, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pipelines import PIPELINE_REGISTRY

_OPTIONS = ("risk_threshold", "uncertainty")


class RiskDistributionPipeline(Pipeline):
    """The risk of prompts, or of prompts with the responses to them, as plain dictionaries.

    ```python
    >>> from transformers import pipeline

    >>> detector = pipeline(model="org/lance", trust_remote_code=True)
    >>> detector({"prompt": "What is the capital of France?", "response": "Paris."})["is_safe"]
    True
    ```

    Unlike transformers' own pipelines this one makes no batches: the whole input goes to `assess`, which sorts it by
    length first, so that batches hold little padding.

    Args:
        model: a `LanceForRiskDistribution`.
        tokenizer: the one that the model then encodes with.
        batch_size: pairs to a forward pass.
        kwargs: what `Pipeline` takes, and the options of a call, as its defaults.

    Raises:
        ValueError: for an unknown option.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64, **kwargs):
        super().__init__(model=model, tokenizer=tokenizer, batch_size=batch_size, **kwargs)
        model.tokenizer = tokenizer  # the one of the revision that was asked for

    def _sanitize_parameters(self, **options):
        for name in options:
            if name not in _OPTIONS:
                raise ValueError(f"{name!r} is no option of this pipeline: use batch_size, {', '.join(_OPTIONS)}.")
        return {}, options, {}

    def __call__(self, inputs, batch_size: int | None = None, **options) -> Any:
        """Estimate the risk of each input; results keep the order given.

        Args:
            inputs: a pair `{"prompt": ..., "response": ...}`, or a prompt that is judged alone: a string, or a pair
                whose response is missing, `None` or blank. Or many of these: a list, or to be read as the results are,
                a generator, a data set such as `KeyDataset`, any other iterable.
            batch_size: pairs to a forward pass.
            options: `risk_threshold` and `uncertainty`, as `assess` takes them.

        Returns:
            For one input a dictionary, for a list a list of them, else an iterator over them. A dictionary holds
            `risk` and `std` by category name; `effort`, the level by name of each category above its threshold;
            `is_safe`, whether there is none; and `max_risk`.

        Raises:
            ValueError: for an input of another kind or without a prompt, an unknown option or one out of its range.
                An iterator raises what is wrong with an input when it comes to it.
        """
        if isinstance(inputs, str | Mapping):
            return self([inputs], batch_size, **options)[0]
        options = self._forward_params | self._sanitize_parameters(**options)[1]
        options["batch_size"] = self._batch_size if batch_size is None else batch_size
        pairs = (self.preprocess(item, index) for index, item in enumerate(_items(inputs)))
        if isinstance(inputs, list):
            return [self.postprocess(verdict) for verdict in self._forward(list(pairs), **options)]
        return map(self.postprocess, self._forward(pairs, **options))

    def preprocess(self, item: str | Mapping[str, str | None], index: int = 0) -> tuple[str, str | None]:
        """An input as (prompt, response).

        Args:
            item: a prompt, or a pair by name.
            index: the input's place, for messages.

        Raises:
            ValueError: for anything else.
        """
        if isinstance(item, str):
            return item, None
        if not isinstance(item, Mapping):
            kind = type(item).__name__
            raise ValueError(f"input {index} must be a prompt or a dict with 'prompt' and 'response', got a {kind}.")
        # A misspelt response would otherwise go unread, and its prompt be judged alone.
        if "prompt" not in item or item.keys() - {"prompt", "response"}:
            raise ValueError(f"input {index} must hold a 'prompt' and maybe a 'response', no more: got {list(item)}.")
        prompt, response = item["prompt"], item.get("response")
        if not isinstance(prompt, str):
            raise ValueError(f"input {index}: 'prompt' must be a string, got {prompt!r}.")
        if not isinstance(response, str | None):
            raise ValueError(f"input {index}: 'response' must be a string or None, got {response!r}.")
        return prompt, response

    def _forward(self, pairs: Iterable[tuple[str, str | None]], **options) -> Iterable:
        if isinstance(pairs, list):
            return self.model.assess([prompt for prompt, _ in pairs], [response for _, response in pairs], **options)
        one, other = tee(pairs)
        return self.model.assess((prompt for prompt, _ in one), (response for _, response in other), **options)

    def postprocess(self, verdict) -> dict[str, Any]:
        """A `RiskDistribution` as JSON can hold it."""
        return {
            "risk": verdict.mean,
            "std": verdict.std,
            "effort": verdict.effort,
            "is_safe": verdict.is_safe,
            "max_risk": verdict.max_risk,
        }


def _items(inputs) -> Iterator:
    """Many inputs, one after the other; a data set may have a length and places, but no iterator."""
    if isinstance(inputs, Iterable):
        return iter(inputs)
    if isinstance(inputs, Dataset):
        return (inputs[index] for index in range(len(inputs)))
    raise ValueError(f"inputs must be a prompt, a dict with 'prompt' and 'response', or many of them, got {inputs!r}.")


# So `save_pretrained` copies this file and writes `custom_pipelines`.
PIPELINE_REGISTRY.register_pipeline("risk-distribution", RiskDistributionPipeline, pt_model=AutoModel)

__all__ = ["RiskDistributionPipeline"]
