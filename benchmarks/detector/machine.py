"""What a figure was measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


def describe_machine() -> dict:
    """The processor, the threads, and the versions of Python and the libraries. Linux only."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def cpu_model(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo, or the architecture where it gives none."""
    fields = (line.partition(":") for line in cpuinfo.splitlines())
    names = (value.strip() for field, _, value in fields if field.strip() == "model name")
    return next(names, platform.machine())
