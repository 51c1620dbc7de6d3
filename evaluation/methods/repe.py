"""RepE: a refusal direction is added to the backbone's hidden states while it answers (Zou et al., 2023)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import ClassVar, get_args

from torch import Tensor
from torch.nn import Module

from errors import UserError
from evaluation.methods.base import Answer
from evaluation.methods.direction_cache import load_direction
from evaluation.methods.drafts import answer_once, plain_chat
from evaluation.methods.refusal_direction import Kind, RefusalDirection, decoder_layers, hidden_states
from generation.base import Chat, Completion, SamplingParameters
from generation.transformers_engine import TransformersEngine


class RepEError(UserError):
    """A backbone that can't be steered, or a setting that makes no sense for it."""


@dataclass(frozen=True)
class RepE:
    """The backbone's answer with `coefficient` × the layer's mean hidden-state norm × the unit direction added.

    It is added at each of the layers and at every token, those of the prompt too. The direction is computed, or read
    from the cache, at the first answer.

    Args:
        backbone: answers; its hidden states must be at hand.
        sampling: its decoding.
        harmful: prompts that should be refused; with the next, they tell the direction.
        harmless: prompts that should not; for `"pca"` as many, each the other half of a pair.
        cache: the folder that keeps the direction.
        direction: `"mean"` or `"pca"`; see [`find_direction`].
        layers: places of the decoder layers; the middle third when not given.
        coefficient: strength, in mean norms of a layer's hidden state; it adds up over the layers, and from about two
            norms in all the embedded model babbles.

    Raises:
        RepEError: for another kind of engine, or a setting out of bounds.
    """

    backbone: TransformersEngine
    sampling: SamplingParameters
    harmful: Sequence[str]
    harmless: Sequence[str]
    cache: Path
    direction: Kind = "mean"
    layers: Sequence[int] | None = None
    coefficient: float = 0.05
    name: ClassVar[str] = "repe"
    most_calls: ClassVar[Mapping[str, int]] = {"backbone": 1}

    def __post_init__(self):
        if not isinstance(self.backbone, TransformersEngine):
            # A cache is one, too: it would give the answers of the model that was not steered.
            raise RepEError(
                f"repe: steers a transformers engine from within and can't steer {self.backbone.name} "
                f"({type(self.backbone).__name__}): name a backbone as transformers:MODEL."
            )
        if self.direction not in get_args(Kind):
            raise RepEError(f"repe: direction must be one of {', '.join(get_args(Kind))}, got {self.direction!r}.")
        count = len(decoder_layers(self.backbone))
        if not self.chosen_layers or not set(self.chosen_layers) <= set(range(count)):
            raise RepEError(f"repe: layers must be some of 0 to {count - 1}, got {self.layers}.")
        if not isfinite(self.coefficient):
            raise RepEError(f"repe: coefficient must be finite, got {self.coefficient}.")

    @property
    def chosen_layers(self) -> Sequence[int]:
        """The layers that the direction is added at."""
        if self.layers is not None:
            return self.layers
        count = len(decoder_layers(self.backbone))
        return range(count // 3, count - count // 3)

    @cached_property
    def refusal(self) -> RefusalDirection:
        """The direction at the chosen layers."""
        return load_direction(
            self.backbone, self.harmful, self.harmless, self.direction, self.chosen_layers, self.cache
        )

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """See [`Method.answer`]; between two answers the model is as it was."""
        additions = self.coefficient * self.refusal.norms.unsqueeze(-1) * self.refusal.vectors  # (L, H)
        additions = additions.to(self.backbone.device, self.backbone.model.dtype)
        modules = [decoder_layers(self.backbone)[layer] for layer in self.chosen_layers]
        steered = SteeredEngine(self.backbone, list(zip(modules, additions, strict=True)))
        return answer_once(steered, prompts, plain_chat, self.sampling)


class SteeredEngine:
    """An engine whose model is steered while it answers, and only then.

    Args:
        engine: holds the model.
        additions: layers of it, each with what is added to its output, of shape `(hidden,)`.
    """

    def __init__(self, engine: TransformersEngine, additions: Sequence[tuple[Module, Tensor]]):
        self.engine, self.additions = engine, additions
        self.name = f"{engine.name}, steered"
        self.batch_size, self.follows_schema = engine.batch_size, engine.follows_schema

    def generate(self, chats: Sequence[Chat], sampling: SamplingParameters) -> list[Completion]:
        """See [`TextGenerator.generate`]."""
        with steering(self.additions):
            return self.engine.generate(chats, sampling)


@contextmanager
def steering(additions: Sequence[tuple[Module, Tensor]]) -> Iterator[None]:
    """Add to the layers' outputs; on the way out, by an error too, the layers are as they were.

    Args:
        additions: layers, each with a tensor of shape `(hidden,)`.
    """
    with ExitStack() as hooks:
        for layer, addition in additions:
            hooks.enter_context(layer.register_forward_hook(_add(addition)))
        yield


def _add(addition: Tensor):
    def hook(module: Module, inputs, output: Tensor | tuple):
        states = hidden_states(output)  # (B, S, H)
        steered = states + addition
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    return hook
