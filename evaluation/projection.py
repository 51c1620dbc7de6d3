"""What a study would cost, before anything is spent: calls, tokens and dollars, engine by engine.

Calls and tokens written are upper bounds, but for Lance-nf's rewrites, whose length nothing limits; tokens read, and so
dollars, are estimates: chats grow as a loop goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.formats import Cell, Figure, markdown_table
from evaluation.judge import RUBRICS
from evaluation.study import Study
from refinement.candidates import IntentLimits
from refinement.loop import REWRITE_TOKENS, rewrite_room

CHARACTERS_PER_TOKEN = 4  # of English, roughly
FRAME_TOKENS = 600  # instructions and examples of a refiner or a judge, roughly


@dataclass
class Projection:
    """What one engine would be asked for.

    Args:
        engine: its spelling.
        calls: requests, at most.
        read: tokens read, about.
        written: tokens written, at most, but for Lance-nf's rewrites.
    """

    engine: str
    calls: int = 0
    read: int = 0
    written: int = 0

    def add(self, calls: int, read: int, written: int):
        """Count more calls, each with the tokens that it reads and writes."""
        self.calls += calls
        self.read += calls * read
        self.written += calls * written

    def dollars(self, prices: Mapping[str, tuple[float, float]]) -> float | None:
        """What that costs; `None` without a price for the engine."""
        if self.engine not in prices:
            return None
        per_read, per_written = prices[self.engine]
        return (self.read * per_read + self.written * per_written) / 1e6


def project(
    study: Study,
    prompts: Sequence[str],
    most_calls: Mapping[str, Mapping[str, int]],
) -> list[Projection]:
    """The cost by engine: every loop goes to its last step, every answer to its last token.

    Args:
        study: what would run.
        prompts: the sampled prompts.
        most_calls: by method, the most calls that a prompt can cost, by role.
    """
    totals: dict[str, Projection] = {}
    prompt_tokens = sum(map(len, prompts)) // (CHARACTERS_PER_TOKEN * len(prompts)) + 1
    read = FRAME_TOKENS + prompt_tokens + 2 * study.max_new_tokens  # SelfRefine reads an answer and its critique
    longest = round(IntentLimits().max_length_ratio * max(map(len, prompts)))  # that a prompt may grow to
    written = {"backbone": study.max_new_tokens, "refiner": rewrite_room(longest, REWRITE_TOKENS)}
    for backbone in study.backbones:
        methods = study.methods_of(backbone)
        for method in methods:
            for role, calls in most_calls[method].items():
                engine = study.engine_of(method, backbone, role)
                totals.setdefault(engine, Projection(engine)).add(calls * len(prompts), read, written[role])
        for judge in study.judges:
            scores = len(methods) * len(RUBRICS) * len(prompts)
            totals.setdefault(judge, Projection(judge)).add(scores, read, study.judge_max_new_tokens)
    return [*totals.values()]


def projection_table(rows: Sequence[Projection], prices: Mapping[str, tuple[float, float]]) -> str:
    """The cost as a Markdown table, with their sum where every engine has a price."""
    costs = [row.dollars(prices) for row in rows]
    known = [cost for cost in costs if cost is not None]
    cells: list[list[Cell]] = [
        [row.engine, row.calls, row.read, row.written, None if cost is None else Figure(cost)]
        for row, cost in zip(rows, costs, strict=True)
    ]
    total = Figure(sum(known)) if len(known) == len(rows) else None
    sums = [sum(row.calls for row in rows), sum(row.read for row in rows), sum(row.written for row in rows)]
    return markdown_table(
        ["engine", "calls, at most", "tokens read, about", "tokens written, at most", "dollars, about"],
        [*cells, ["all", *sums, total]],
    )
