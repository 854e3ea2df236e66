"""What a session answers: arrays by name, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesaic.host.pool import DeviceResult
from moesaic.spec.notebook import shape_text

Inputs = Mapping[str, NDArray[Any]]
"""Input name to array, the batch axis first."""


@dataclass(frozen=True, eq=False)
class DeviceCall:
    """What went to a device in one go; the answers of all that it was for share the object.

    Attributes
    ----------
    requests
        How many calls of a session it was for.
    frames
        Of all of them; of several tasks on the same frames, they count once.
    """

    requests: int
    frames: int


class Outputs(dict[str, NDArray[np.float32]]):
    """Output arrays by name, and where they come from.

    Attributes
    ----------
    device
        Name of the device that ran the frames.
    latency_seconds
        From the first attempt to the answer, other devices' failures and the host's parts included.
        It is that of all frames that the device was given in one go.
    result
        The integer codes and the counters behind the outputs.
    call
        What the device was given in one go.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[np.float32]],
        device: str,
        latency_seconds: float,
        result: DeviceResult,
        call: DeviceCall | None = None,
    ) -> None:
        super().__init__(arrays)
        self.device, self.latency_seconds, self.result = device, latency_seconds, result
        self.call = call or DeviceCall(1, len(result.codes))

    def __repr__(self) -> str:
        arrays = ", ".join(f"{k} {shape_text(v.shape)} {v.dtype}" for k, v in self.items())
        return f"<Outputs of {self.device} in {1000 * self.latency_seconds:.1f} ms: {arrays}>"
