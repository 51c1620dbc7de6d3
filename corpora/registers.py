"""The same pairs in other registers: prompts framed as role play, answers laid out as an assistant would.

BeaverTails holds short blunt questions and plain answers. Labelled and harmless rows are both recast, so that a
register tells nothing of the harm.
"""

import random
import re
import tomllib
from pathlib import Path

from datasets import Dataset

from corpora.safe import SENTENCE_END

_TEXTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
FRAMES, NAMES, OPENINGS, CLOSINGS = (tuple(_TEXTS[kind]) for kind in ("frames", "names", "openings", "closings"))
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+", re.MULTILINE)


def recast(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Frame the prompt in a share of the rows, and lay out the response anew in as many, each drawn alone; labels kept.

    Args:
        dataset: with `prompt` and `response`.
        share: in [0, 1].
        seed: of the draw.
    """
    draw = random.Random(seed)

    def recast_row(row: dict) -> dict:
        prompt, response = row["prompt"], row["response"]
        if draw.random() < share:
            prompt = draw.choice(FRAMES).format(prompt=prompt, name=draw.choice(NAMES))
        if draw.random() < share and response and response.strip():
            response = lay_out(response, draw)
        return {"prompt": prompt, "response": response}

    return dataset.map(recast_row, load_from_cache_file=False)


def lay_out(response: str, draw: random.Random) -> str:
    """The response's own sentences with an assistant's opening or closing, or as a list."""
    sentences = [sentence for sentence in SENTENCE_END.split(_LIST_MARK.sub("", response).strip()) if sentence]
    layout = draw.choice(("plain", "numbers", "bullets", "paragraphs"))
    if layout == "numbers":
        body = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, start=1))
    elif layout == "bullets":
        body = "\n".join(f"- {sentence}" for sentence in sentences)
    else:
        body = ("\n\n" if layout == "paragraphs" else " ").join(sentences)
    parts = [draw.choice(OPENINGS)] if draw.random() < 0.6 else []
    parts.append(body)
    if draw.random() < 0.4:
        parts.append(draw.choice(CLOSINGS))
    return ("\n" if layout != "plain" else " ").join(parts)
