"""What a target is worth: its share of the part first, then the cycles of the model on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.estimate.cycles.frame import ProgramHangs
from moesaic.compiler.estimate.cycles.timing import Memory
from moesaic.compiler.estimate.shapes import ShapeImage
from moesaic.compiler.estimate.targets import refusal_reason
from moesaic.compiler.estimate.task import estimate
from moesaic.compiler.estimate.tuning import fitting_schedule
from moesaic.compiler.schedule.capacity import check_capacity
from moesaic.compiler.schedule.options import first_schedule
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntGraph
from moesaic.spec.memories import ram_kind
from moesaic.spec.parts import FAMILIES, Part
from moesaic.spec.resource_model import shares, target_resources


@dataclass(frozen=True)
class Limits:
    """The most that a target may take of the part, as shares; a design needs room to be routed.

    Flip-flops have the limit of the LUTs, whose slices they share, UltraRAM that of block RAM.
    """

    lut: float = 0.75
    ram: float = 0.85
    dsp: float = 1.0

    def of(self, family: str) -> dict[str, float]:
        """By kind of resource."""
        limits = {"lut": self.lut, "ff": self.lut, "dsp": self.dsp, ram_kind(family): self.ram}
        return limits | ({"uram": self.ram} if "uram" in FAMILIES[family] else {})


@dataclass
class Verdict:
    """What became of a target."""

    arch: ArchConfig
    resources: dict[str, float]
    share: dict[str, float]
    """Of the part, by kind."""
    excess: float
    """The largest share over its limit: above 1 it does not fit the part."""
    worst: str
    """The kind of resource that it is."""
    cycles: dict[str, int] = field(default_factory=dict)
    """Of a frame of each task; empty if the target was refused."""
    refused: str = ""
    """Why the model does not fit the target."""

    @property
    def area(self) -> float:
        """The largest of the shares of the part."""
        return max(self.share.values())

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "arch": self.arch.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Verdict:
        arch = ArchConfig.from_dict(fields["arch"])  # type: ignore[arg-type]
        return cls(**{**fields, "arch": arch})  # type: ignore[arg-type]


class Judge:
    """Judges targets for one model, part and memory; equal ones once.

    Cycles are those of the schedule that `compile` begins its search with, or of the first one
    that needs less memory: they are an upper bound of what `compile` finds.
    """

    def __init__(
        self, graphs: Mapping[str, IntGraph], part: Part, limits: Limits, memory: Memory
    ) -> None:
        self.graphs, self.part, self.memory = graphs, part, memory
        self.limits = limits.of(part.family)
        self._known: dict[int, Verdict] = {}

    def __call__(self, arch: ArchConfig) -> Verdict:
        if arch.hash not in self._known:
            self._known[arch.hash] = self._judge(arch)
        return self._known[arch.hash]

    def knows(self, arch: ArchConfig) -> bool:
        """Whether this one, whatever its name, was judged before."""
        return arch.hash in self._known

    def _judge(self, arch: ArchConfig) -> Verdict:
        resources = target_resources(arch, self.part.family)
        share = shares(resources, self.part)
        over = {kind: share[kind] / limit for kind, limit in self.limits.items()}
        worst = max(over, key=lambda kind: over[kind])
        verdict = Verdict(arch, resources, share, over[worst], worst)
        if verdict.excess <= 1:
            try:
                verdict.cycles = {
                    task: self._cycles(graph, arch) for task, graph in self.graphs.items()
                }
            except UserError as error:
                verdict.refused = refusal_reason(error, arch)
        return verdict

    def _cycles(self, graph: IntGraph, arch: ArchConfig) -> int:
        check_capacity(graph, arch)
        schedule, cycles = fitting_schedule(graph, arch, first_schedule(arch))
        if self.memory == Memory():
            return cycles
        steps = compile_task(graph, arch, ShapeImage(arch), schedule).steps
        try:
            return estimate(steps, arch, graph.macs, memory=self.memory).cycles
        except ProgramHangs as error:
            raise UserError(f"the model does not fit target {arch.name}: {error}") from error
