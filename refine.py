"""Refine prompts until the target model's answers are safe.

    python refine.py --prompt "How do I get back at a neighbour?"
    python refine.py --input prompts.jsonl --output refined.jsonl --target vllm:Qwen/Qwen2.5-7B-Instruct

A text file holds a prompt a line, a jsonl file an object with "prompt" a line. With --output, a rerun goes on where an
earlier run stopped, and tries again what had failed; what is finished stays, even if other engines are named now, but
thresholds and detector can't change between the two. A prompt for which no safe answer was found gets a constructive
reply in its place, and "converged" false; --json and --output keep every step.

Exit code: 0 when every prompt converged, 3 when one did not, 4 when one failed (as when a server gave no answer), 2 for
bad usage or bad lines.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import transformers
from rich.console import Console

from command_line import OneLineErrors, UsageError, probability, run
from corpora.records import is_text
from detector import ROOT, load_detector, weights_digest
from generation.base import SamplingParameters, TextGenerator
from generation.cache import CachedEngine, CacheError
from generation.engines import EMBEDDED_ADAPTER, SPELLINGS, is_embedded, load_engine
from refinement.console import show
from refinement.frame import default_shots
from refinement.loop import REWRITE_TOKENS, RefinementParameters, refine
from refinement.output import OutputFile
from refinement.refusals import RefusalDetector
from refinement.similarity import SentenceEmbedder
from refinement.trace import Refinement


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(
        description=__doc__, epilog=f"engines:\n{SPELLINGS}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="one prompt")
    source.add_argument("--input", type=Path, help="a .txt or .jsonl file of prompts")
    parser.add_argument(
        "--detector", default=str(ROOT), help="a Lance checkpoint or its export (default: this directory)"
    )
    parser.add_argument("--target", default="embedded", help="the engine that answers (default: embedded); see below")
    parser.add_argument(
        "--refiner", default="embedded", help="the engine that rewrites (default: embedded, fine-tuned)"
    )
    parser.add_argument("--threshold", type=probability, help="τ: unsafe above it (default: the detector's own)")
    parser.add_argument(
        "--category_threshold",
        type=category_threshold,
        action="append",
        default=[],
        metavar="CATEGORY=τ",
        help="τ of one category, or CATEGORY=off; can be repeated",
    )
    parser.add_argument(
        "--uncertainty",
        type=probability,
        metavar="LEVEL",
        help="hold the upper end of the risk's interval of this level against τ, such as 0.8",
    )
    parser.add_argument("--max_steps", type=int, default=5, help="most rewrites of a prompt (default: 5)")
    parser.add_argument("--candidates", type=int, default=2, help="rewrites drawn at each step (default: 2)")
    parser.add_argument("--shots", type=int, help="examples for the refiner (default: 0 if fine-tuned, else 2)")
    parser.add_argument("--batch_size", type=int, help="prompts under way at once (default: what suits the target)")
    parser.add_argument("--cache", type=Path, help="folder that keeps greedy completions, so that none is asked twice")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    parser.add_argument(
        "--rewrite_tokens",
        type=int,
        default=REWRITE_TOKENS,
        help=f"longest rewrite, in tokens, a thought before it included (default: {REWRITE_TOKENS})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of whatever is sampled (default: 0)")
    parser.add_argument("--output", type=Path, help="append one JSON object a prompt to this file")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a prompt")
    return parser


def category_threshold(text: str) -> tuple[str, float | None]:
    """An argument CATEGORY=τ, or CATEGORY=off for `None`."""
    category, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"must read CATEGORY=τ or CATEGORY=off, got {text!r}")
    return category, None if value == "off" else probability(value)


def read_prompts(path: Path) -> tuple[dict[int, str], list[str]]:
    """The prompts of a file by line number, and what is wrong with the lines that hold none.

    Raises:
        UsageError: when the file can't be read at all.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise UsageError(f"--input {path}: expected a .txt or .jsonl file.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--input {path}: {error.strerror if isinstance(error, OSError) else error}.") from None
    prompts, problems = {}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompts[number] = line if path.suffix == ".txt" else _read_json_prompt(line)
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
    return prompts, problems


def _read_json_prompt(line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not _is_prompt(prompt):
        raise ValueError('expected an object whose "prompt" is text')
    return prompt


def _is_prompt(text: str) -> bool:
    return bool(text.strip()) and is_text(text)


def load_engines(args: argparse.Namespace) -> tuple[TextGenerator, TextGenerator]:
    """Target and refiner, behind the cache where one is named.

    Raises:
        EngineError: when one can't be loaded.
        UsageError: when the cache's folder can't be written.
    """
    target = load_engine(args.target)
    # The embedded refiner has an adapter, the embedded target none.
    same = args.refiner == args.target and not is_embedded(args.target)
    refiner = target if same else load_engine(args.refiner, embedded_adapter=str(EMBEDDED_ADAPTER))
    if args.cache is None:
        return target, refiner
    try:
        return CachedEngine(target, args.cache), CachedEngine(refiner, args.cache)
    except CacheError as error:
        raise UsageError(f"--cache {error}") from None


def refine_all(args: argparse.Namespace, prompts: dict[int, str]) -> Iterator[tuple[int, Refinement]]:
    """Refine the prompts; yields each one's line number and refinement as it finishes."""
    detector = load_detector(args.detector)
    risk_threshold = find_threshold(args, detector.config)
    target, refiner = load_engines(args)
    parameters = RefinementParameters(
        max_steps=args.max_steps,
        batch_size=args.batch_size or target.batch_size,
        risk_threshold=risk_threshold,
        uncertainty=args.uncertainty,
        candidates=args.candidates,
        shots=default_shots(args.refiner) if args.shots is None else args.shots,
        answer=SamplingParameters(max_new_tokens=args.max_new_tokens, seed=args.seed),
        rewrite=SamplingParameters(max_new_tokens=args.rewrite_tokens, seed=args.seed),
    )
    lines = list(prompts)
    embedder = SentenceEmbedder()
    refusals = RefusalDetector.load()
    for place, refinement in refine(prompts.values(), target, refiner, detector, embedder, parameters, refusals):
        yield lines[place], refinement


def find_threshold(args: argparse.Namespace, config) -> float | dict[str, float | None] | None:
    """τ as the options have it: one, or one by category.

    Raises:
        UsageError: for a category that the detector doesn't know.
    """
    if not args.category_threshold:
        return args.threshold
    own = dict(args.category_threshold)
    try:
        config.thresholds(own)  # knows the categories
        return config.thresholds(args.threshold) | own
    except ValueError as error:
        raise UsageError(f"--category_threshold: {error}") from None


def check(args: argparse.Namespace):
    """Refuse what no run could use.

    Raises:
        UsageError: naming the option and what it may be.
    """
    if args.prompt is not None and not _is_prompt(args.prompt):
        raise UsageError("--prompt is empty or not text.")
    bounds = {"max_steps": 0, "shots": 0, "max_new_tokens": 1, "rewrite_tokens": 1, "candidates": 1, "batch_size": 1}
    for name, least in bounds.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} must be at least {least}, got {value}.")
    if not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed must lie between 0 and 2**63 - 1, got {args.seed}.")


def refine_waiting(args: argparse.Namespace, prompts: dict[int, str], output: OutputFile) -> Iterator[dict]:
    """Refine what `output` doesn't hold; shows and keeps each prompt's record as it finishes, and yields it."""
    console = Console()
    waiting = {line: prompt for line, prompt in prompts.items() if line not in output.finished}
    for line, refinement in refine_all(args, waiting) if waiting else ():
        record = {"line": line, **refinement.as_record()}
        output.write(record)
        if args.json:
            print(json.dumps(refinement.as_record(), ensure_ascii=False), flush=True)
        else:
            show(refinement, console)
        yield record


def describe_decision(args: argparse.Namespace) -> dict:
    """What says when a pair is safe, as an output file keeps it."""
    thresholds = {name: "off" if value is None else value for name, value in args.category_threshold}
    detector = weights_digest(args.detector) or args.detector
    return {"detector": detector, "threshold": args.threshold, "uncertainty": args.uncertainty, **thresholds}


def main(args: argparse.Namespace) -> int:
    """Run the loop, show and save each prompt as it finishes, and return the exit code."""
    check(args)
    prompts, problems = ({1: args.prompt}, []) if args.prompt is not None else read_prompts(args.input)
    if not prompts and not problems:
        raise UsageError(f"--input {args.input}: no prompts in it.")
    decision = describe_decision(args) if args.output else {}  # which nothing keeps without a file
    with OutputFile(args.output, prompts, decision) as output:
        outcomes = [*output.finished.values(), *refine_waiting(args, prompts, output)]
    failures = [
        f"{args.input}, line {outcome['line']}: {outcome['error']}" if args.input else outcome["error"]
        for outcome in outcomes
        if outcome["error"]
    ]
    for problem in (*problems, *failures):
        print(f"refine.py: {problem}", file=sys.stderr)
    if problems:
        return 2
    if failures:
        return 4
    return 0 if all(outcome["converged"] for outcome in outcomes) else 3


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run("refine.py", lambda: main(make_parser().parse_args()))
