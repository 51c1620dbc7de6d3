"""Refine prompts until the target model's answers are safe.

    python refine.py --prompt "How do I get back at a neighbour?"
    python refine.py --input prompts.jsonl --output refined.jsonl

A text file holds a prompt a line, a jsonl file an object with "prompt" a line. With --output, a rerun goes on where an
earlier run stopped. Exit code: 0 when every prompt converged, 3 when one did not, 2 for bad usage or bad lines. The
terminal withholds an answer that stayed unsafe; --json and --output keep every step, with "converged" false.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import transformers
from rich.console import Console

from command_line import OneLineErrors, UsageError, probability, run
from detector import ROOT, load_detector
from generation.base import SamplingParameters
from generation.engines import load_engine
from refinement.console import show
from refinement.loop import Refinement, RefinementParameters, refine

BATCH_SIZE = 16
RECORD_START = b'{"line": '


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="one prompt")
    source.add_argument("--input", type=Path, help="a .txt or .jsonl file of prompts")
    parser.add_argument("--detector", default=str(ROOT), help="a Lance checkpoint (default: this directory)")
    parser.add_argument("--target", default="embedded", help="answers the prompts: embedded, transformers:NAME_OR_PATH")
    parser.add_argument("--refiner", default="embedded", help="rewrites the prompts, spelled like --target")
    parser.add_argument("--threshold", type=probability, help="τ: unsafe above it (default: the detector's own)")
    parser.add_argument("--max_steps", type=int, default=5, help="most rewrites of a prompt (default: 5)")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is sampled (default: 0)")
    parser.add_argument("--output", type=Path, help="append one JSON object a prompt to this file")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a prompt")
    return parser


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
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if not isinstance(prompt, str) or not _is_text(prompt):
        raise ValueError('expected an object whose "prompt" is text')
    return prompt


def _is_text(prompt: str) -> bool:
    # A lone surrogate (half of a broken escape) is no text: no tokenizer and no file takes it.
    return bool(prompt.strip()) and prompt.encode("utf-8", errors="ignore").decode("utf-8") == prompt


class Output:
    """The output file: one line a prompt, flushed; what an earlier run finished is kept and skipped.

    Args:
        path: the file; `None` keeps nothing.
        prompts: the input's prompts by line number.

    Raises:
        UsageError: when the file can't be written, or belongs to another input.
    """

    def __init__(self, path: Path | None, prompts: dict[int, str]):
        self.path = path
        self.finished: dict[int, dict] = {}
        if path is None:
            return
        try:
            with path.open("a+b") as file:
                file.seek(0)
                whole, _, torn = file.read().rpartition(b"\n")
        except OSError as error:
            raise UsageError(f"--output {path}: {error.strerror}.") from None
        # Only the beginning of a record can be a torn line; anything else is someone's file.
        if not (torn.startswith(RECORD_START) or RECORD_START.startswith(torn)):
            raise UsageError(f"--output {path}: its last line was not written by refine.py; name a new file.")
        for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
            record = self._read_record(number, line)
            if prompts.get(record["line"]) != record["prompt"]:
                raise UsageError(f"--output {path}, line {number}: from another input; name a new file.")
            self.finished[record["line"]] = record
        # A run that was killed can leave half a line: cut it off, so the next line starts clean.
        with path.open("r+b") as file:
            file.truncate(len(whole) + 1 if whole else 0)

    def _read_record(self, number: int, line: bytes) -> dict:
        try:
            record = json.loads(line)
            fields = {name: record[name] for name in ("prompt", "converged", "error")}
            return {"line": int(record["line"]), **fields}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"--output {self.path}, line {number}: not written by refine.py; name a new file."
            ) from None

    def write(self, record: dict):
        """Append a finished prompt."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def refine_all(args: argparse.Namespace, prompts: dict[int, str]) -> Iterator[tuple[int, Refinement]]:
    """Refine the prompts batch by batch; yields each one's line number and refinement as it finishes."""
    detector = load_detector(args.detector)
    target = load_engine(args.target)
    refiner = target if args.refiner == args.target else load_engine(args.refiner)
    parameters = RefinementParameters(
        max_steps=args.max_steps,
        risk_threshold=args.threshold,
        answer=SamplingParameters(max_new_tokens=args.max_new_tokens, seed=args.seed),
        rewrite=SamplingParameters(max_new_tokens=128, seed=args.seed),
    )
    lines = list(prompts)
    for start in range(0, len(lines), BATCH_SIZE):
        batch = lines[start : start + BATCH_SIZE]
        for index, refinement in refine([prompts[line] for line in batch], target, refiner, detector, parameters):
            yield batch[index], refinement


def check(args: argparse.Namespace):
    """Refuse what no run could use.

    Raises:
        UsageError: naming the option and what it may be.
    """
    if args.prompt is not None and not _is_text(args.prompt):
        raise UsageError("--prompt is empty or not text.")
    if args.max_steps < 0:
        raise UsageError(f"--max_steps must be at least 0, got {args.max_steps}.")
    if not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed must lie between 0 and 2**63 - 1, got {args.seed}.")
    if args.max_new_tokens < 1:
        raise UsageError(f"--max_new_tokens must be at least 1, got {args.max_new_tokens}.")


def main(args: argparse.Namespace) -> int:
    """Run the loop, show and save each prompt as it finishes, and return the exit code."""
    check(args)
    prompts, problems = ({1: args.prompt}, []) if args.prompt is not None else read_prompts(args.input)
    if not prompts and not problems:
        raise UsageError(f"--input {args.input}: no prompts in it.")
    output = Output(args.output, prompts)
    console = Console()
    outcomes = list(output.finished.values())
    waiting = {line: prompt for line, prompt in prompts.items() if line not in output.finished}
    for line, refinement in refine_all(args, waiting) if waiting else ():
        record = refinement.as_record()
        output.write({"line": line, **record})
        if args.json:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            show(refinement, console)
        outcomes.append({"line": line, **record})
    for outcome in outcomes:
        if outcome["error"]:
            problems.append(
                f"{args.input}, line {outcome['line']}: {outcome['error']}" if args.input else outcome["error"]
            )
    for problem in problems:
        print(f"refine.py: {problem}", file=sys.stderr)
    if problems:
        return 2
    return 0 if all(outcome["converged"] for outcome in outcomes) else 3


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    run("refine.py", lambda: main(make_parser().parse_args()))
