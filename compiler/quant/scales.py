"""From calibration statistics to one scale per point."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from moesaic.compiler import ir
from moesaic.compiler.points import is_output, is_stream, mlps
from moesaic.compiler.quant.calibrate import Statistics
from moesaic.compiler.quant.given import OUTPUT_STEPS, GivenStep, given_steps
from moesaic.compiler.quant.hidden import HiddenPeaks
from moesaic.compiler.quant.hidden_codes import (
    INT8_MAX,
    UINT8_MAX,
    clip_of_step,
    hidden_codes,
    is_paired,
)
from moesaic.compiler.quant.moments import Moments
from moesaic.compiler.quant.share import Key, SharedPoints
from moesaic.spec import tables
from moesaic.spec.activations import (
    ACTIVATIONS,
    RANGE,
    REACH,
    Table,
    choose_step,
    tabulate,
)

INT16_MAX, INT24_MAX = (1 << 15) - 1, (1 << 23) - 1
RESIDUAL_HEADROOM = 1.5
OUTPUT_HEADROOM = 1.25
WIDE_HEADROOM = 2.0
"""Points in 16 bits have codes to spare, and an outlier of other inputs costs more."""
LOGIT_LIMIT = 1 << 21
"""The largest |logit| of the samples; logits have 24 bits, so four times that fits."""
SCORE_OCTAVES = math.log2(math.e) * (1 << tables.EXP2_FRACTION_BITS)
"""Steps of 2**-7 octave in a factor of e."""


class Scales:
    """Real value of one integer step at every point, shared points alike.

    Parameters
    ----------
    statistics, shared
        Of the calibration run on the folded graphs.
    clips
        Chosen magnitudes at which int8 points saturate; elsewhere that of least squared error.
    residual_headroom
        The residual reaches full scale at this multiple of its largest magnitude.
    graphs
        Task to float graph. What a quantised file gives comes before what was seen.
    """

    def __init__(
        self,
        statistics: Statistics,
        shared: SharedPoints,
        clips: Mapping[Key, float],
        graphs: Mapping[str, ir.Graph],
        residual_headroom: float = RESIDUAL_HEADROOM,
    ) -> None:
        self.statistics = statistics
        self.shared = shared
        self.residual_headroom = residual_headroom
        self._graphs = graphs
        self._chosen = clips
        self._clips: dict[Key, float] = {}
        self._given = {
            (task, point): step
            for task, graph in graphs.items()
            for point, step in given_steps(graph).items()
        }
        self._mlps = {
            (task, point): mlp for task, graph in graphs.items() for point, mlp in mlps(graph)
        }
        # Of tasks that share a point, one that has no step takes another's.
        self._shared_given = {shared.find(*key): step for key, step in self._given.items()}

    def clip(self, task: str, point: str) -> float:
        """Magnitude at which an int8 point saturates.

        An expert that no sample reached takes the largest clip of its layer's experts.
        """
        if (given := self.given(task, point)) is not None:
            return given.step * (INT8_MAX + abs(given.zero))
        key = self.shared.find(task, point)
        if key not in self._clips:
            clip = self._best(key) * self.statistics.growth(key)
            if not self.statistics.ranges[key].maximum:
                clip = max((self._best(other) for other in self._others(task, point)), default=clip)
            self._clips[key] = min(clip, self.limit(task, point))
        return self._clips[key]

    def _best(self, key: Key) -> float:
        chosen = self._chosen.get(key)
        return self.statistics.ranges[key].best_clip(INT8_MAX) if chosen is None else chosen

    def limit(self, task: str, point: str) -> float:
        """What a point cannot exceed: pre-activations saturate, so activations do."""
        mlp = self._mlps.get((task, point))
        if mlp is None or is_paired(mlp):
            return math.inf
        activation, step = ACTIVATIONS[mlp.activation], self.table(task, point).step
        reach = step * (RANGE if activation.linear else REACH)
        return float(activation.function(np.array(reach)))

    def table(self, task: str, point: str) -> Table:
        """The activation of a hidden point: its range is that of what the samples reached."""
        mlp = self._mlps[task, point]
        if is_paired(mlp):
            point = point.replace("hidden", "active")
        return tabulate(mlp.activation, choose_step(mlp.activation, self.maximum(task, point)))

    def factor(self, task: str, point: str, hidden: float) -> tuple[float, int]:
        """Of a hidden point of pairs whose codes have the step ``hidden``: the step of the int16
        factors, and the right shift that makes codes of their products."""
        peak = self.maximum(task, point.replace("hidden", "factor"))
        fine = self.table(task, point).fine
        least = peak * WIDE_HEADROOM / INT16_MAX
        shift = min(max(math.floor(math.log2(hidden / (least * fine))), 0), 63)
        return hidden * 2.0**-shift / fine, shift

    def _others(self, task: str, point: str) -> list[Key]:
        """The same point of the experts of its layer that samples reached; none of another
        layer's."""
        layer, expert, _ = point.partition(".expert")
        kind = point.rpartition(".")[2]
        keys = [
            self.shared.find(task, hidden.replace("hidden", kind))
            for owner, hidden in self._mlps
            if expert and owner == task and hidden.startswith(f"{layer}.expert")
        ]
        return [key for key in keys if self.statistics.ranges[key].maximum]

    def int8(self, task: str, point: str) -> float:
        """Step of an int8 point."""
        return self.clip(task, point) / INT8_MAX

    def input(self, task: str) -> tuple[float, int]:
        """Step and code of zero of the input: pixels that are never negative use all codes. An
        input that is the residual stream has its step."""
        if isinstance(self._graphs[task].embed, ir.Tokens):
            return self.residual(task), 0
        if (given := self.given(task, "input")) is not None:
            return given.step, given.zero
        key = self.shared.find(task, "input")
        lowest, highest = self.statistics.input_bounds[key]
        room = (self.statistics.growth(key) - 1) * (highest - lowest) / 2
        lowest, highest = min(lowest - room, 0.0), max(highest + room, 0.0)
        step = (highest - lowest) / UINT8_MAX
        return step, max(-128, min(127, math.floor(-128 - lowest / step + 0.5)))

    def moments(self, task: str, point: str) -> Moments:
        """Of the rows at a point; empty if there were none."""
        return self.statistics.moments.get(self.shared.find(task, point), Moments())

    def given(self, task: str, point: str) -> GivenStep | None:
        """The int8 step that a quantised file gives a point, if it gives one."""
        own = self._given.get((task, point))
        return self._shared_given.get(self.shared.find(task, point)) if own is None else own

    def hidden(self, task: str, point: str) -> tuple[float, int]:
        """Step and code of zero of uint8 hidden rows."""
        if (given := self.given(task, point)) is not None:
            return given.step, given.zero + INT8_MAX + 1  # of int8, where these are of uint8
        return self._hidden_codes(task, point, self.clip(task, point))

    def largest_first(self, task: str, point: str, count: int) -> NDArray[np.intp] | None:
        """Order of the channels of hidden rows: the ``count`` with the largest peaks come first;
        None where no sample came."""
        seen = self._hidden_peaks(task, point)
        if seen is None:
            return None
        largest = seen.largest(count)
        channels = np.arange(len(seen.frames[0]))
        return np.concatenate([largest, np.setdiff1d(channels, largest)])

    def hidden_without(self, task: str, point: str, count: int) -> tuple[float, int]:
        """:meth:`hidden` where the ``count`` channels with the largest peaks have 16 bits.

        Those have the same step: it is as coarse as they need, however small the others are.
        """
        seen = self._hidden_peaks(task, point)
        if seen is None or not count or self.given(task, point) is not None:
            return self.hidden(task, point)
        clip = min(self.clip(task, point), seen.reach_of_others(count))
        coarsest = clip_of_step(self._mlps[task, point], self.wide(task, point))
        return self._hidden_codes(task, point, max(clip, coarsest))

    def _hidden_codes(self, task: str, point: str, clip: float) -> tuple[float, int]:
        return hidden_codes(self._mlps[task, point], clip, self._finest(task, point))

    def _finest(self, task: str, point: str) -> float:
        """Activations come in these steps: a finer one says nothing more, and may have no integer
        scale."""
        mlp = self._mlps.get((task, point))
        return 0.0 if mlp is None or is_paired(mlp) else self.table(task, point).fine

    def _hidden_peaks(self, task: str, point: str) -> HiddenPeaks | None:
        seen = self.statistics.hidden.get(self.shared.find(task, point))
        return seen if seen is not None and seen.frames else None

    def wide(self, task: str, point: str) -> float:
        """Step of a point in 16 bits: what the samples reached fits, and more."""
        reached = max(self.clip(task, point), self.maximum(task, point))
        step = min(reached * WIDE_HEADROOM, self.limit(task, point)) / INT16_MAX
        return max(step, self._finest(task, point))

    def maximum(self, task: str, point: str) -> float:
        """Largest magnitude seen; 1.0 at a point that was always 0.

        For an expert that no sample reached it is the largest of its layer's experts.
        """
        ranges = self.statistics.ranges
        if seen := ranges[self.shared.find(task, point)].maximum:
            return seen
        return max((ranges[key].maximum for key in self._others(task, point)), default=1.0)

    def bits_and_clip(self, task: str, point: str, wide: bool = False) -> tuple[int, float]:
        """Width of a point's codes and the magnitude at which they saturate."""
        if wide:
            return 16, self.wide(task, point) * INT16_MAX
        if is_stream(point):
            return 16, self.residual(task, point) * INT16_MAX
        if is_output(point):
            return 16, self.output(task, point) * INT16_MAX
        if point.endswith(".logits"):
            return 24, self.logits(task, int(point.split(".")[0])) * INT24_MAX
        return 8, self.clip(task, point)

    def residual(self, task: str, point: str = "residual") -> float:
        """int16 step of a residual stream; of the first one, the same for all tasks.

        Addends have 24 bits of 1/256 step: the same range, so they count without headroom.
        """
        largest = max(
            self.maximum(task, point) * self.residual_headroom,
            self.statistics.addends[self.shared.find(task, point)] * 1.05,
        )
        return largest / INT16_MAX

    def logits(self, task: str, layer: int) -> float:
        """Step of a gate's 24-bit logits."""
        return self.maximum(task, f"{layer}.logits") / LOGIT_LIMIT

    def output(self, task: str, point: str = "output") -> float:
        """int16 step of an output of a task."""
        given = self.given(task, point)
        if given is not None:
            return given.step / OUTPUT_STEPS
        return self.maximum(task, point) * OUTPUT_HEADROOM / INT16_MAX
