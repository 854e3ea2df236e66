"""What eight bits cost my model, by a measure of my own.

.venv/bin/python examples/accuracy_of_my_model.py BUNDLE TASK MODEL.onnx HELDOUT.npz
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

import moesaic
from moesaic.compiler.accuracy.bundle import measure_bundle
from moesaic.spec.heartbeat import say_nothing


def share_of_equal_maxima(outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Pixels, or frames, whose largest channel is the labelled one; any function of these two."""
    return float((outputs.argmax(1) == labels).mean())


def main(path: str, task: str, model: str, samples: str) -> None:
    bundle = moesaic.load(path)
    arrays = dict(np.load(samples))
    metrics = {task: {"equal": share_of_equal_maxima}}
    result = measure_bundle(bundle, arrays, {task: model}, arrays, metrics, say_nothing)[task]
    print(f"{task}: {result['output_db']:.1f} dB, in integers against float")
    for name, values in result["metrics"].items():
        print(f"{name}: {values['float']:.4f} in float, {values['integer']:.4f} in integers")
    worst = result["points"][0]
    print(f"the rounding that costs most is {worst['point']}, {worst['alone_db']:.1f} dB by itself")


if __name__ == "__main__":
    main(*sys.argv[1:])
