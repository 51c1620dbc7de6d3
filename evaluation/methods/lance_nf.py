"""Lance-nf (Table 2): no detector; the refiner judges and rewrites a prompt by a system prompt alone."""

from collections.abc import Sequence

from generation.base import SamplingParameters, TextGenerator
from refinement.frame import coarse_chat, read_refined


def coarse_refine(
    prompts: Sequence[str], refiner: TextGenerator, rewrite: SamplingParameters, max_steps: int
) -> list[str]:
    """Each prompt as the refiner leaves it: rewritten until it gives the same prompt back, or the steps end.

    Args:
        prompts: the users' prompts.
        refiner: judges and rewrites them.
        rewrite: its decoding.
        max_steps: most rewrites of a prompt.
    """
    current = list(prompts)
    live = list(range(len(prompts)))
    for _ in range(max_steps):
        if not live:
            break
        replies = refiner.generate([coarse_chat(current[index]) for index in live], rewrite)
        still = []
        for index, reply in zip(live, replies, strict=True):
            refined = read_refined(reply.text)
            if refined is not None and refined.split() != current[index].split():
                current[index] = refined
                still.append(index)
        live = still
    return current
