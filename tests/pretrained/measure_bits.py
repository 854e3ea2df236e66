"""What fewer bits of weights do to pretrained ones: ``python -m tests.pretrained.measure_bits``.

DINOv2 ViT-S/14 with all weights in 8, 6 and 4 bits: SQNR of the integers against float at the end
of the accelerator, on photographs that calibration has not seen. The format has no weights of six
bits: these are codes of -31 to 31 in bytes, which say what such a format would be worth. Needs the
extra ``real``, and minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from moesaic.compiler.float_reference import run_float
from moesaic.compiler.frontend import load_graph
from moesaic.compiler.quant import Calibrated, QuantOptions, linear
from moesaic.compiler.quant.weight_bits import WeightBits
from moesaic.spec.execute import Executor
from moesaic.spec.formats import WEIGHT_BITS
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.metrics import sqnr_db
from tests.outputs import only_output
from tests.pretrained import sources

TASK = "features"
FORMS = (8, 6, 4)


@contextmanager
def whole_weights_of(bits: int) -> Iterator[None]:
    """Meanwhile layers of eight bits get codes of so many; with eight nothing changes."""
    if bits == WEIGHT_BITS:
        yield
        return
    with mock.patch.object(linear, "largest_code", lambda _: (1 << bits - 1) - 1):
        yield


def decibels(calibrated: Calibrated, graph: IntGraph) -> list[float]:
    """Of each held-out image."""
    executor, found = Executor(graph), []
    for image in calibrated.measured[TASK]:
        exact = run_float(calibrated.graphs[TASK], image[None]).astype(np.float32)
        integers = only_output(graph, executor.run(quantise_input(graph, image[None])))
        found.append(sqnr_db(exact[0], integers[0]))
    return found


def main() -> None:
    graph = load_graph(sources.backbone(Path("build/cache/pretrained")), TASK, partition=True)
    samples, held_out = (
        {TASK: sources.photographs(names)} for names in (sources.CALIBRATION, sources.HELD_OUT)
    )
    calibrated = Calibrated({TASK: graph}, samples, QuantOptions(), held_out)
    print("| weights | SQNR, dB | the median image | each |\n|---|---|---|---|", flush=True)
    for bits in FORMS:
        calibrated._done.clear()  # what was rounded once is kept, by bits that are not these
        few = bits == 4
        calibrated.few = {TASK: WeightBits.of(weights=4 if few else 8).roles(graph)}
        with whole_weights_of(WEIGHT_BITS if few else bits):
            built, reports = calibrated.build()
        each = decibels(calibrated, built[TASK])
        shown = ", ".join(f"{one:.1f}" for one in each)
        whole, median = reports[TASK].sqnr_db, float(np.median(each))
        print(f"| {bits} bits | {whole:.1f} | {median:.1f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
