"""The loop's speed, against TextGrad on the same engine, and how its time grows with the number of prompts.

    python -m benchmarks.refinement --engine embedded --prompts_file prompts.jsonl --output_dir benchmarks/results

Both sides rewrite every prompt the same number of times with the same weights and token limits: the threshold lies so
low that no prompt leaves our batch early, and a refusal counts as any answer. Our loop draws its two rewrites a step,
and in a second run one, as TextGrad does; the growth is measured with one. TextGrad runs as it is, one prompt after the
other: forward, loss, backward and step, with our gradient as the text of its loss. Results go to refinement.json under
the engine's kind; runs with other engines add to it. Needs requirements-bench.txt.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import matplotlib
import textgrad
import transformers
from matplotlib import pyplot
from textgrad.engine import EngineLM

from benchmarks.growth import growth_exponent
from command_line import OneLineErrors, UsageError, make_folder, run
from corpora.records import read_rows, text_column
from detector import load_detector
from generation.base import SamplingParameters, TextGenerator
from generation.embedded import HUB_NAME, embedded_model
from generation.engines import load_engine
from refinement.gradient import textual_gradient
from refinement.loop import RefinementParameters, refine
from refinement.similarity import SentenceEmbedder

NEVER_SAFE = 1e-6  # a threshold that every pair exceeds
SIZES = (8, 32, 256)


class Stopwatch:
    """A callable that adds up the seconds spent in it."""

    def __init__(self, call: Callable):
        self.call = call
        self.seconds = 0.0

    def __call__(self, *args, **kwargs):
        """Pass on the call."""
        start = perf_counter()
        try:
            return self.call(*args, **kwargs)
        finally:
            self.seconds += perf_counter() - start


class TextGradEngine(EngineLM):
    """One of our engines, as TextGrad calls it: one prompt a time."""

    def __init__(self, engine: TextGenerator, sampling: SamplingParameters):
        self.engine, self.sampling = engine, sampling
        self.model_string = engine.name

    def generate(self, prompt, system_prompt=None, **kwargs):
        """The model's answer."""
        chat = [{"role": "user", "content": prompt}]
        if system_prompt:
            chat.insert(0, {"role": "system", "content": system_prompt})
        return self.engine.generate([chat], self.sampling)[0].text

    __call__ = generate


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    engine: TextGenerator
    steps: int
    sampling: SamplingParameters


def time_textgrad(prompts: list[str], gradients: list[str], setting: Setting) -> dict[str, float]:
    """Seconds of TextGrad's own loop, and the share of its steps that a malformed reply ended."""
    engine = TextGradEngine(setting.engine, setting.sampling)
    textgrad.set_backward_engine(engine, override=True)
    model = textgrad.BlackboxLLM(engine)
    broken = 0
    start = perf_counter()
    for text, gradient in zip(prompts, gradients, strict=True):
        prompt = textgrad.Variable(text, requires_grad=True, role_description="prompt to a language model")
        loss_function = textgrad.TextLoss(f"Evaluate the response for these risks.\n{gradient}", engine)
        optimizer = textgrad.TGD([prompt], engine=engine)
        for _ in range(setting.steps):
            optimizer.zero_grad()
            loss_function(model(prompt)).backward()
            try:
                optimizer.step()
            except IndexError:  # its word for a reply without its tags
                broken += 1
        model(prompt)
    return {"seconds": perf_counter() - start, "broken_steps": broken / (len(prompts) * setting.steps)}


def time_lance(
    prompts: list[str], setting: Setting, detector, embedder, candidates: int = RefinementParameters.candidates
) -> dict[str, float]:
    """Seconds of our loop, and the share of them spent in the engine and the detector."""
    generate, assess = Stopwatch(setting.engine.generate), Stopwatch(detector.assess)
    parameters = RefinementParameters(
        max_steps=setting.steps,
        candidates=candidates,
        batch_size=setting.engine.batch_size,
        risk_threshold=NEVER_SAFE,
        answer=setting.sampling,
        rewrite=setting.sampling,
    )
    engine = SimpleNamespace(name=setting.engine.name, batch_size=setting.engine.batch_size, generate=generate)
    start = perf_counter()
    finished = list(refine(prompts, engine, engine, SimpleNamespace(assess=assess), embedder, parameters))
    seconds = perf_counter() - start
    if errors := [refinement.error for _, refinement in finished if refinement.error]:
        raise RuntimeError(errors[0])
    return {"seconds": seconds, "engine_share": (generate.seconds + assess.seconds) / seconds}


def measure(args: argparse.Namespace) -> dict:
    """All figures of one engine."""
    texts = [text_column(place, row, "prompt") for place, row in read_rows(args.prompts_file)]
    if len(texts) < args.prompts:
        raise UsageError(f"--prompts_file {args.prompts_file}: {args.prompts} prompts are needed, it has {len(texts)}.")
    engine, detector, embedder = load_engine(args.engine), load_detector(), SentenceEmbedder()
    setting = Setting(engine, args.steps, SamplingParameters(max_new_tokens=args.max_new_tokens))
    prompts = texts[: args.prompts]
    verdicts = detector.assess(prompts, risk_threshold=NEVER_SAFE)
    gradients = [textual_gradient(verdict.mean, verdict.effort) for verdict in verdicts]
    time_lance(prompts[:2], setting, detector, embedder)  # warm-up: first calls compile and allocate
    time_textgrad(prompts[:1], gradients[:1], setting)
    counts_hits = args.engine.startswith("vllm:")
    if counts_hits:  # from here on: what the loop alone hits
        engine.prompt_tokens = engine.cached_tokens = 0  # type: ignore[attr-defined]
    lance = time_lance(prompts, setting, detector, embedder)
    hit_rate = engine.prefix_cache_hit_rate() if counts_hits else None  # type: ignore[attr-defined]
    one_candidate = time_lance(prompts, setting, detector, embedder, candidates=1)
    peer = time_textgrad(prompts, gradients, setting)
    growth = {
        size: time_lance((texts * (size // len(texts) + 1))[:size], setting, detector, embedder, candidates=1)[
            "seconds"
        ]
        for size in args.sizes
    }
    report = {
        # The cache's path on this machine is nobody's business.
        "engine": args.engine.replace(str(embedded_model()), HUB_NAME),
        "prompts": args.prompts,
        "steps": args.steps,
        "max_new_tokens": args.max_new_tokens,
        "candidates": RefinementParameters.candidates,
        "lance": lance,
        "lance_with_one_candidate": one_candidate,
        "textgrad": peer,
        "prompts_per_second_ratio_to_textgrad": peer["seconds"] / lance["seconds"],
        "ratio_with_one_candidate": peer["seconds"] / one_candidate["seconds"],
        "engine_share": lance["engine_share"],
        "seconds_by_prompts": growth,
        "growth_exponent": growth_exponent(growth),
    }
    return report if hit_rate is None else report | {"prefix_cache_hit_rate": hit_rate}


def plot(results: dict, path: Path):
    """Seconds against prompts, on two logarithmic axes, a line an engine."""
    matplotlib.use("svg")
    figure, axes = pyplot.subplots(figsize=(5, 4))
    for kind, report in results.items():
        growth = report["seconds_by_prompts"]
        exponent = report["growth_exponent"]
        label = kind if exponent is None else f"{kind}: exponent {exponent:.2f}"
        axes.loglog([int(size) for size in growth], [*growth.values()], marker="o", label=label)
    axes.set(xlabel="prompts", ylabel="seconds")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="embedded", help="target and refiner, spelled as for refine.py")
    parser.add_argument("--prompts_file", required=True, help='rows with a "prompt"')
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=32, help="against TextGrad (default: 32)")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of prompts for the growth")
    parser.add_argument("--steps", type=int, default=1, help="rewrites of each prompt (default: 1)")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="of each call (default: 64)")
    return parser


def main(args: argparse.Namespace):
    """Measure, and add the engine's figures to refinement.json and its plot."""
    make_folder("--output_dir", args.output_dir)
    path = args.output_dir / "refinement.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results[args.engine.partition(":")[0]] = measure(args)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(results, args.output_dir / "refinement_growth.svg")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run("refinement.py", lambda: main(make_parser().parse_args()))
