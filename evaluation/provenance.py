"""Where a run's figures come from: the study, its prompts, the code and the libraries."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from corpora.evaluation_prompts import EvaluationPrompt
from evaluation.judge import load_rubrics
from evaluation.study import Study

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "peft", "vllm", "openai", "scikit-learn", "numpy")


def describe_session(study: Study) -> dict[str, Any]:
    """One opening of a run, as its manifest keeps it."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": study.as_config(),
        "commit": _commit(),
        "versions": {"python": python_version()} | {name: _version(name) for name in LIBRARIES},
    }


def describe_fixed(
    study: Study, samples: Sequence[EvaluationPrompt], detector: str, weights: Mapping[str, str | None]
) -> dict[str, Any]:
    """What may not change within a run.

    Args:
        study: says how answers come about.
        samples: the prompts, in their order.
        detector: the checkpoint's name or folder.
        weights: the digests of what answers and figures hang on: the detector, the embedded refiner's adapter, the
            refusal detector, the independent classifier.
    """
    content = json.dumps([sample._asdict() for sample in samples], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    rubrics = {rubric.name: rubric.version for rubric in load_rubrics()}
    fixed = {"detector": detector, "weights": dict(weights), "prompts_sha256": digest, "rubrics": rubrics}
    return study.fixed() | fixed


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # an extra
        return None


def _commit() -> str | None:
    """The code's git commit, with "-dirty" where files differ from it; `None` where it is no clone."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
