"""The figures that have a goal, gathered from the parts."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """What a figure should be.

    Args:
        part: where it is measured.
        bound: the goal.
        at_least: whether the figure should lie above the bound, not below.
    """

    part: str
    bound: float
    at_least: bool = True

    def is_reached(self, value: float) -> bool:
        """Whether the figure is as it should be."""
        return value >= self.bound if self.at_least else value <= self.bound


GOALS = {
    "ratio_to_encoder_limit": Goal("throughput", 0.95),
    "ratio_to_hf_pipeline": Goal("throughput", 2.5),
    "ratio_int8": Goal("exported", 2.5),
    "f1_loss_int8": Goal("exported", 0.003, at_least=False),
    "score_difference_fp32": Goal("exported", 1e-3, at_least=False),
    "single_pair_ms_ratio": Goal("latency", 1.15, at_least=False),
    "training_step_ratio": Goal("training", 0.97),
}


def gather(parts: Mapping[str, Mapping]) -> dict[str, dict]:
    """Each figure of the parts that are there, of a ratio its median, beside its goal."""
    gathered = {}
    for name, goal in GOALS.items():
        if goal.part in parts:
            figure = parts[goal.part][name]
            value = figure["median"] if isinstance(figure, Mapping) else figure
            bound = f"{'>=' if goal.at_least else '<='} {goal.bound}"
            gathered[name] = {"value": value, "goal": bound, "reached": goal.is_reached(value)}
    return gathered
