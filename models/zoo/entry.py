"""What an architecture of the zoo is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

Twin = tuple[nn.Module, tuple[int, ...]]
"""A module, and the shape of its input."""


def load_torchvision() -> None:
    """Import torchvision, so that libraries that want it do not fail on it.

    PyPI's is built for CUDA's torch, and its operators do not load with the CPU's. Libraries take
    nothing of it here but transforms in Python.
    """
    with mock.patch("torch.library.register_fake", lambda *_, **__: lambda function: function):
        importlib.import_module("torchvision")


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes
    ----------
    name
        Unique; letters, digits, dots, dashes and underscores.
    family
        What its rows are counted under.
    source
        Where the code is from: ``timm``, ``transformers``, or ``here``.
    build
        Makes the module, with random weights and two layers where the library can.
    shape
        Of its input, the batch axis first; of a function where only the library knows it.
    blocks
        Gives the blocks of the module that is built, and of the architecture; None where the
        module is the whole.
    small
        Makes a module of the same structure that fits a small target, and its input's shape; None
        where the library has none. What is from here is small itself.
    rewrite
        Changes the exported file in its place, given calibration samples [n, ...].
    """

    name: str
    family: str
    source: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] | Callable[[], tuple[int, ...]] = (1, 3, 224, 224)
    blocks: Callable[[], tuple[int, int] | None] = lambda: None
    small: Callable[[], Twin | None] | None = None
    rewrite: Callable[[Path, np.ndarray], None] | None = None

    def input_shape(self) -> tuple[int, ...]:
        """Of its input, the batch axis first."""
        return self.shape() if callable(self.shape) else self.shape

    def twin(self) -> Twin | None:
        """A module of the same structure that fits a small target, and its input's shape."""
        if self.small is not None:
            return self.small()
        return (self.build(), self.input_shape()) if self.source == "here" else None


class FirstTensor(nn.Module):
    """A module of a library as one with one output: its logits, else its last hidden state."""

    def __init__(self, inner: nn.Module, name: str = "") -> None:
        super().__init__()
        self.inner, self.name = inner, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run it."""
        found = self.inner(x)
        if self.name:
            return getattr(found, self.name)  # type: ignore[no-any-return]
        # Outputs of transformers are dictionaries that can be counted, too.
        return found if isinstance(found, torch.Tensor) else found[0]  # type: ignore[no-any-return]
