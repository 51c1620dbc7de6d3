"""Instruct: an officially aligned model in the backbone's place."""

from typing import ClassVar

from evaluation.methods.vanilla import Vanilla


class Instruct(Vanilla):
    """The aligned model's own answer.

    Args:
        backbone: the aligned model.
        sampling: its decoding.
    """

    name: ClassVar[str] = "instruct"
