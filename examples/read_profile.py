"""Where the cycles of a frame go: simulate one, read what the units did.

.venv/bin/python examples/read_profile.py BUNDLE [TASK]
"""

from __future__ import annotations

import sys
from typing import Any

import moesaic
from moesaic.sim.statistics import frame_statistics


def main(path: str, task: str | None = None) -> None:
    bundle = moesaic.load(path)
    name = bundle.task(task)
    frame = bundle.sample(name, "input")[:1]
    with moesaic.Session(bundle, ["sim"], {"sim": {"profile": True}}) as session:
        answer = session.run({next(iter(bundle.inputs(name))): frame}, name)
        device: Any = session.device
        figures = frame_statistics(
            bundle, name, answer.result.counters, device.dram, device.profiles, device.seconds
        )
    (cycles,) = figures["cycles"]
    print(f"{name} on {bundle.arch.name}: {cycles:,} cycles,")
    print(f"the array does products in {figures['utilisation']:.0%} of what bounds the frame\n")
    print("layer                     cycles  of which products")
    for layer in sorted(figures["layers"], key=lambda layer: -layer["cycles"])[:5]:
        share = layer["array_cycles"] / layer["cycles"]
        print(f"{layer['label']:<22} {layer['cycles']:>9,.0f}  {share:>17.0%}")
    print("\nunit        busy  waits for another")
    for unit, seen in figures["units"].items():
        waits = seen["wait_token_cycles"] / cycles
        print(f"{unit:<8} {seen['busy_share']:>7.0%}  {waits:>17.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
