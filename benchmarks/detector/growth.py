"""How cost grows: pairs a second and peak memory by the number of pairs that `assess` is given as an iterator.

Each number is measured in a fresh process, which warms up and prints its figures: memory that one took would hide the
next one's. Linux only: the peak is read in /proc. (`getrusage`'s includes the parent's, from before the new process
began.)
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

import transformers

from benchmarks.detector.encoder import BATCH_SIZE
from benchmarks.detector.pairs import LabelledPairs
from benchmarks.growth import growth_exponent
from command_line import OneLineErrors
from detector import load_detector

MEMORY_SIZES = (1_000, 100_000)  # pairs


def measure(detector: str, test_file: str, sizes: Sequence[int]) -> dict:
    """The figures by size, how the seconds grow with it, and how the peak memory does.

    Args:
        detector: a checkpoint's name.
        test_file: its pairs are repeated as often as a size needs.
        sizes: numbers of pairs.
    """
    by_size = {size: measure_in_process(detector, test_file, size) for size in sizes}
    return {
        "sizes": by_size,
        "seconds_growth_exponent": growth_exponent({n: row["seconds"] for n, row in by_size.items()}),
        "peak_memory_ratio": peak_memory_ratio(by_size),
    }


def peak_memory_ratio(by_size: Mapping[int, Mapping]) -> float | None:
    """The peak of 100,000 pairs over that of 1,000; `None` where one of them wasn't measured.

    Args:
        by_size: the figures by the number of pairs.
    """
    if not by_size.keys() >= set(MEMORY_SIZES):
        return None
    small, large = (by_size[size]["peak_megabytes"] for size in MEMORY_SIZES)
    return large / small


def measure_in_process(detector: str, test_file: str, size: int) -> dict:
    """The figures of one size, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.detector.growth", "--detector", detector]
    command += ["--test_file", test_file, "--size", str(size)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(outcome.stdout)


def assess_repeated(detector, pairs: LabelledPairs, size: int) -> dict:
    """Assess so many pairs, repeated from `pairs`, keeping none of the verdicts, after a batch that doesn't count."""
    detector.assess(pairs.prompts[:BATCH_SIZE], pairs.responses[:BATCH_SIZE])
    before = memory_megabytes("VmRSS")
    start = perf_counter()
    for _ in detector.assess(islice(cycle(pairs.prompts), size), islice(cycle(pairs.responses), size)):
        pass
    seconds = perf_counter() - start
    return {
        "seconds": seconds,
        "pairs_per_second": size / seconds,
        "megabytes_before": before,
        "peak_megabytes": memory_megabytes("VmHWM"),
    }


def memory_megabytes(field: str) -> float:
    """One of the kernel's figures of this process, such as VmHWM, its peak of resident memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(fields[field].split()[0]) / 1024


def main(args: argparse.Namespace):
    """Print the figures of one size."""
    detector = load_detector(args.detector)
    pairs = LabelledPairs.read_test(args.test_file, detector.config.categories)
    print(json.dumps(assess_repeated(detector, pairs, args.size)))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    parser = OneLineErrors(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--size", type=int, required=True, help="pairs")
    main(parser.parse_args())
