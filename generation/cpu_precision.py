"""A CPU without AVX-512 decodes few rows in bf16 twice as fast as in float32, and many at a quarter of the speed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

WIDE = 8  # rows, from which float32 is the faster one; measured on an AMD EPYC with AVX2
_MOST_PARAMETERS = 10**9  # in float32 they take 4 GB, beside 2 in bf16


def is_slow_in_bf16(model: PreTrainedModel) -> bool:
    """Whether wide batches should go through [`in_float32`]: a small model in bf16, on a CPU with AVX2 alone."""
    on_avx2 = model.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return on_avx2 and model.dtype == torch.bfloat16 and model.num_parameters() <= _MOST_PARAMETERS


@contextmanager
def in_float32(model: PreTrainedModel) -> Iterator[None]:
    """The model with its bf16 weights in float32; afterwards it has its own again."""
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    for parameter, own in weights:  # buffers, such as rotary frequencies, are in float32 anyhow
        parameter.data = own.float()
    try:
        yield
    finally:
        for parameter, own in weights:
            parameter.data = own
