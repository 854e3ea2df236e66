"""Full float32 products in torch while an exact computation runs, whatever the program chose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Settings:
    """torch's settings of float32 products, older and newer ones, as they are now."""

    def __init__(self) -> None:
        self._backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
        self._values = [backend.fp32_precision for backend in self._backends]
        try:
            self._precision = torch.get_float32_matmul_precision()
        except RuntimeError:  # torch does not tell once a program has used both kinds
            self._precision = "highest"

    def restore(self) -> None:
        torch.set_float32_matmul_precision(self._precision)
        for backend, value in zip(self._backends, self._values, strict=True):
            backend.fp32_precision = value


_lock = threading.Lock()
_inside = 0
_before: _Settings | None = None


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 products are float32: no TF32, no bfloat16, no autocast, no gradients.

    The settings belong to the whole process. The first thread that enters saves them and the last
    one that leaves restores them, so that no thread lowers the precision under another's
    computation.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = _Settings()
            torch.set_float32_matmul_precision("highest")
        _inside += 1
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _before is not None:
                _before.restore()
