"""Timing in rounds of all sides, each in an order of its own, so that a machine's drift meets all sides alike."""

import random
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np

Timer = Callable[[], float]


def stopwatch(call: Callable[[], object]) -> Timer:
    """A timer of `call`: it runs it once, and returns the seconds."""

    def timer() -> float:
        start = perf_counter()
        call()
        return perf_counter() - start

    return timer


def interleave(timers: Mapping[str, Timer], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """The seconds of each timer, one for each round; warming up is left to the caller.

    Args:
        timers: by name.
        rounds: how many.
        seed: of the orders in which they take turns, drawn anew for each round.
    """
    generator = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name in generator.sample([*timers], len(timers)):
            seconds[name].append(timers[name]())
    return seconds


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict:
    """The median of the rounds' ratios, and their quartiles.

    Args:
        numerators: a figure for each round.
        denominators: the other side's, of the same rounds.
    """
    low, median, high = np.quantile(np.divide(numerators, denominators), (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "quartiles": (low, high), "rounds": len(numerators)}


def per_second(count: int, seconds: Sequence[float]) -> float:
    """How many a second in the median round."""
    return count / float(np.median(seconds))
