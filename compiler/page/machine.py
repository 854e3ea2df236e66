"""The accelerator to scale, as boxes and lines: what is drawn where, for a wide and a narrow page.

Memories have areas in proportion to their bytes, array and lanes to their products per cycle, and
ports a width in proportion to their bytes per cycle. The drawing is made once, along a chain of
units, and once more with its axes exchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from moesaic.compiler.page.facts import Facts
from moesaic.compiler.page.memories import memories
from moesaic.compiler.page.words import lane_words
from moesaic.spec.arch import ArchConfig

CELL = 104.0
"""Side of the largest shape."""
LEAST = 3.0
"""Of a shape that would be smaller."""
MOST_PORTS = 64.0
"""Width of all weight ports together, where one byte per cycle would be wider than a pixel."""


@dataclass(frozen=True)
class Box:
    """A shape with its labels around it. ``fill`` is the share that is full, None for a unit."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str
    lines: list[str]
    label_x: float
    label_y: float
    fill: float | None = None
    cells: tuple[int, int] | None = None


@dataclass(frozen=True)
class Line:
    """A way of data from corner to corner, with an arrow at its end."""

    points: list[tuple[float, float]]
    width: float = 1.5
    style: str = "way"
    both: bool = False

    @property
    def path(self) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in self.points)


@dataclass
class Drawing:
    """A picture of so many units of width and height."""

    width: float
    height: float
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def draw(facts: Facts, *, wide: bool) -> Drawing:
    """The machine, along the page or down it."""
    return _Layout(facts, wide).draw()


def _size(count: int) -> str:
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.3g} {unit}"
    return f"{count} B"


class _Layout:
    """Places units at 0 to 3 of a chain (``u``), memories beside them (``v``)."""

    def __init__(self, facts: Facts, wide: bool) -> None:
        self.facts, self.arch, self.wide = facts, facts.arch, wide
        self.memory = memories(facts)
        self.scale = CELL / math.sqrt(max(one.size_bytes for one in self.memory.values()))
        self.cell = min(CELL / self.arch.width, CELL / self.arch.depth)
        # Along the chain, and across it.
        self.u0, self.du, self.dv = (118.0, 204.0, 214.0) if wide else (106.0, 190.0, 170.0)
        self.bar = 78.0 if wide else 58.0
        length = self.u0 + 4 * self.du - (40 if wide else 8)
        self.halves: dict[tuple[int, int], float] = {}
        self.drawing = Drawing(*self._xy(length, 2 * self.dv if wide else 2 * self.dv - 8))

    def _xy(self, u: float, v: float) -> tuple[float, float]:
        return (u, v) if self.wide else (v, u)

    def centre(self, place: int, side: int) -> tuple[float, float]:
        """Middle of the shape at a place: 0 to 3 along, 0 or 1 across."""
        shape = CELL / 2
        if self.wide:
            return self.u0 + place * self.du + shape + 20, side * self.dv + 30 + shape
        return side * self.dv + shape + 34, self.u0 + place * self.du + 30 + shape

    def draw(self) -> Drawing:
        self._memory_bar()
        self._chain()
        self._sides()
        self._ways()
        return self.drawing

    def _box(
        self, place: int, side: int, width: float, height: float, style: str, title: str,
        lines: list[str], fill: float | None = None, cells: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        x, y = self.centre(place, side)
        width, height = max(width, LEAST), max(height, LEAST)
        self.halves[place, side] = width / 2
        self.drawing.boxes.append(
            Box(
                x - width / 2, y - height / 2, width, height, style, title, lines,
                x, y - CELL / 2 - 12, fill, cells,
            )
        )  # fmt: skip

    def _store(self, name: str, place: int, side: int, title: str) -> None:
        memory = self.memory[name]
        length = self.scale * math.sqrt(memory.size_bytes)
        lines = [_size(memory.size_bytes), f"{memory.most:.0%} full at most"]
        self._box(place, side, length, length, "memory", title, lines, min(memory.most, 1.0))

    def _memory_bar(self) -> None:
        """The DRAM at the beginning of the chain."""
        across = self.drawing.height if self.wide else self.drawing.width
        x, y = self._xy(6, 6)
        width, height = self._xy(self.bar - 6, across - 12)
        heaviest = max(self.facts.tasks.values(), key=lambda task: task.dram_bytes)
        lines = [f"{heaviest.dram_bytes / 1e6:.3g} MB", "a frame"]
        if not self.wide:
            lines = [" ".join(lines)]
        middle = y + height / 2 - (10 if self.wide else 3)
        self.drawing.boxes.append(
            Box(x, y, width, height, "dram", "DRAM", lines, x + width / 2, middle)
        )

    def _chain(self) -> None:
        arch = self.arch
        self._store("ring", 0, 0, "Weight ring")
        cells = (arch.width, arch.depth)
        width, height = arch.width * self.cell, arch.depth * self.cell
        packed = "two per DSP, " if arch.packed else ""
        self._box(1, 0, width, height, "unit", "Matrix array",
                  [f"{arch.depth} x {arch.width} products", packed + self._busy("matrix")],
                  cells=cells)  # fmt: skip
        self._store("accumulator", 2, 0, "Accumulators")
        self._box(3, 0, self.cell, arch.lanes * self.cell, "unit", "Vector lanes",
                  [f"{lane_words(arch)} a cycle", self._busy("vector")],
                  cells=(1, arch.lanes))  # fmt: skip

    def _busy(self, unit: str) -> str:
        shares = [task.estimate.busy[unit] / task.estimate.cycles
                  for task in self.facts.tasks.values()]  # fmt: skip
        return f"{max(shares):.0%} busy"

    def _sides(self) -> None:
        arch = self.arch
        port = f"{arch.data_port_bytes} B a cycle"
        outputs = f"{arch.output_ports} x {arch.data_port_bytes} B out"
        self._box(0, 1, 44, 30, "unit plain", "Load, store", [port + " in", outputs])
        self._store("activation", 1, 1, "Activations")
        self._store("queues", 2, 1, "Router, queues")
        self._store("residual", 3, 1, "Residual, twice")

    def _edge(self, place: int, side: int, towards: str) -> tuple[float, float]:
        """A point at the rim of a place, beyond its labels, which are above and below it."""
        x, y = self.centre(place, side)
        half = CELL / 2 + 6
        labels = half + 32
        near = self.halves[place, side] + 6
        return {
            "right": (x + near, y), "left": (x - near, y),
            "up": (x, y - half - 20), "down": (x, y + labels),
        }[towards]  # fmt: skip

    def _ways(self) -> None:
        self._ports()
        on, back = ("right", "left") if self.wide else ("down", "up")
        for place in range(3):
            self._way([self._edge(place, 0, on), self._edge(place + 1, 0, back)])
        self._way([self._edge(0, 1, on), self._edge(1, 1, back)])
        aside, home = ("down", "up") if self.wide else ("right", "left")
        # Activations to the array; the residual to the lanes and back.
        self._way([self._edge(1, 1, home), self._edge(1, 0, aside)])
        self._way([self._edge(3, 0, aside), self._edge(3, 1, home)], both=True)
        self._results(aside, home)

    def _way(self, points: list[tuple[float, float]], both: bool = False) -> None:
        self.drawing.lines.append(Line(points, both=both))

    def _results(self, aside: str, home: str) -> None:
        """What the vector unit makes: to router, activations and outputs, along the middle."""
        shift = 26.0

        def moved(point: tuple[float, float], by: float) -> tuple[float, float]:
            return (point[0] + by, point[1]) if self.wide else (point[0], point[1] + by)

        start = moved(self._edge(3, 0, aside), -shift)
        for place in (2, 1, 0):
            end = moved(self._edge(place, 1, home), shift if place == 1 else 0)
            if self.wide:
                middle = (self._edge(1, 0, "down")[1] + self._edge(1, 1, "up")[1]) / 2
                corners = [(start[0], middle), (end[0], middle)]
            else:
                middle = (self.centre(1, 0)[0] + self.centre(1, 1)[0]) / 2
                corners = [(middle, start[1]), (middle, end[1])]
            self._way([start, *corners, end])

    def _ports(self) -> None:
        """Weight ports into the ring, the data port into the load unit; widths to scale."""
        arch = self.arch
        unit = min(1.0, MOST_PORTS / arch.line_bytes)
        width = max(arch.weight_port_bytes * unit * 0.8, 1.0)
        for port in range(arch.weight_ports):
            by = (port - (arch.weight_ports - 1) / 2) * arch.weight_port_bytes * unit
            self._port(0, by, width, "port")
        self._port(1, 0, max(arch.data_port_bytes * unit * 0.8, 1.0), "port data")

    def _port(self, side: int, by: float, width: float, style: str) -> None:
        back = "left" if self.wide else "up"
        x, y = self._edge(0, side, back)
        end = (x, y + by) if self.wide else (x + by, y)
        begin = (self.bar, end[1]) if self.wide else (end[0], self.bar)
        self.drawing.lines.append(Line([begin, end], width, style))


def legend(arch: ArchConfig) -> str:
    """What the sizes of the drawing mean."""
    return (
        "Areas of memories are in proportion to their bytes, the array and the lanes to their"
        f" values per cycle, ports to their bytes per cycle ({arch.weight_ports} x"
        f" {arch.weight_port_bytes} for weights, {arch.data_port_bytes} for data). The filled part"
        " is the most that a task needs."
    )
