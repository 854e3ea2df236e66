"""Calibration samples that are far from all others.

One pixel of 1000 among pixels of 1 takes the range of all codes behind it, and every other sample
drowns in its steps. Such a sample is left out and named: whoever meant it gives more like it. Only
inputs are judged: what a network makes large inside, it means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FAR = 8.0
"""Times the median of all samples' largest magnitudes."""
FEWEST = 4
"""Of fewer samples none can be called the odd one."""
MOST = 0.1
"""Share of samples that may be odd, one at least; of more, none is: the data are so."""


def leave_out_outliers(
    samples: NDArray[np.float32],
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the other samples, and a note for each that is left out."""
    peaks = np.abs(samples.reshape(len(samples), -1)).max(1).astype(np.float64)
    typical = float(np.median(peaks))
    odd = np.flatnonzero(peaks > FAR * typical).tolist()
    fewest = len(samples) < FEWEST or not typical
    if fewest or not 0 < len(odd) <= max(1, MOST * len(samples)):
        return samples, []
    notes = [
        f"calibration sample {number} is left out: its input reaches {peaks[number]:.4g}, where"
        f" half of the samples stay within {typical:.4g}; if it is meant, give more like it"
        for number in odd
    ]
    return np.delete(samples, odd, 0), notes
