"""What the host does around the accelerator: quantise and lay out inputs, scale outputs.

Float arithmetic happens here only, in float64 numpy, the same for every device.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moesaic.spec.intgraph import IntGraph


def quantise_input(graph: IntGraph, x: NDArray[np.float32]) -> NDArray[np.int8]:
    """Host-side input layout and quantisation: [frames, ...] float to [frames, patches, inputs]."""
    codes = np.floor(np.asarray(x, np.float64) / graph.input_scale + 0.5)
    codes = np.clip(codes, -128, 127).astype(np.int8)
    return codes.reshape(len(codes), -1)[:, graph.gather]


def dequantise_output(graph: IntGraph, codes: NDArray[np.int16]) -> NDArray[np.float32]:
    """Host-side output scaling and layout: [frames, rows, outputs] codes to float32."""
    flat = codes.reshape(len(codes), -1)[:, graph.permutation.reshape(-1)]
    scaled = flat.astype(np.float64) * graph.output_scale
    return scaled.astype(np.float32).reshape(len(codes), *graph.output_shape[1:])
