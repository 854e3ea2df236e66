"""A block's netlist as arrays: what paths go through, where they begin and where they end."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
CONSTANT = -1
"""In place of a net: a pin tied to 0, 1 or nothing."""


class Kind(enum.IntEnum):
    """What a cell is."""

    LUT = 0
    CARRY = 1
    MUX = 2
    FLIP_FLOP = 3
    DSP = 4
    BLOCK_RAM = 5
    LUT_RAM = 6
    PORT = 7


@dataclass(frozen=True)
class Arcs:
    """Paths through cells from an input to an output, one element each.

    Attributes
    ----------
    source, target
        Nets.
    delay
        Of the cell, ns, float32.
    routed
        Whether the pin is reached through the fabric, bool: not so along a carry chain.
    cell
        Kinds, of :class:`Kind`.
    """

    source: Ints
    target: Ints
    delay: NDArray[np.float32]
    routed: NDArray[np.bool_]
    cell: Ints


@dataclass(frozen=True)
class Ends:
    """Where paths begin (clock to output) or end (setup), one element each; as :class:`Arcs`.

    Attributes
    ----------
    register
        An output of the cell, whose name is the register's; :data:`CONSTANT` where it has none.
    """

    net: Ints
    delay: NDArray[np.float32]
    routed: NDArray[np.bool_]
    cell: Ints
    register: Ints


@dataclass(frozen=True)
class Instance:
    """Another block inside this one: its module, and the nets at its ports."""

    name: str
    module: str
    ports: dict[str, Ints]


@dataclass(frozen=True)
class Netlist:
    """A synthesised block.

    Attributes
    ----------
    names
        Of each net as the gateware calls it, or empty where synthesis made it.
    inputs, outputs
        Nets of each port, bit 0 first.
    """

    names: list[str]
    inputs: dict[str, Ints]
    outputs: dict[str, Ints]
    arcs: Arcs
    launches: Ends
    captures: Ends
    instances: list[Instance] = field(default_factory=list)


def save(netlist: Netlist, path: Path) -> None:
    """Write a ``.npz``."""
    arrays: dict[str, NDArray[Any]] = {}
    for group in ("arcs", "launches", "captures"):
        for name, value in vars(getattr(netlist, group)).items():
            arrays[f"{group}.{name}"] = value
    header = {
        "names": netlist.names,
        "inputs": {name: nets.tolist() for name, nets in netlist.inputs.items()},
        "outputs": {name: nets.tolist() for name, nets in netlist.outputs.items()},
        "instances": [
            [i.name, i.module, {port: nets.tolist() for port, nets in i.ports.items()}]
            for i in netlist.instances
        ],
    }
    text = json.dumps(header).encode()
    np.savez_compressed(path, header=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Netlist:
    """Read what :func:`save` wrote."""

    def nets(ports: dict[str, list[int]]) -> dict[str, Ints]:
        return {name: np.array(bits, np.int32) for name, bits in ports.items()}

    with np.load(path) as file:
        header = json.loads(file["header"].tobytes())
        groups: dict[str, dict[str, Any]] = {"arcs": {}, "launches": {}, "captures": {}}
        for name in file.files:
            group, _, member = name.partition(".")
            if member:
                groups[group][member] = file[name]
    return Netlist(
        header["names"],
        nets(header["inputs"]),
        nets(header["outputs"]),
        Arcs(**groups["arcs"]),
        Ends(**groups["launches"]),
        Ends(**groups["captures"]),
        [Instance(name, module, nets(ports)) for name, module, ports in header["instances"]],
    )
