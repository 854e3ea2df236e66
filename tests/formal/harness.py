"""A component among assumptions: what is proven of it, and what must be reachable."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amaranth import Elaboratable, Module, Signal, Value
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Fragment, ShapeLike, ValueLike
from amaranth.lib import wiring


def implies(condition: ValueLike, conclusion: ValueLike) -> Value:
    """``conclusion`` holds wherever ``condition`` does; both are of one bit or taken as truth."""
    return ~Value.cast(condition).any() | Value.cast(conclusion).any()


class Opened(Elaboratable):
    """A component whose inner signals can be reached by name, for invariants.

    Nothing of it is changed: it is elaborated early, and the local variables of its ``elaborate``
    and of its submodules' are kept.
    """

    def __init__(self, component: wiring.Component) -> None:
        self.component = component
        self.variables: dict[int, dict[str, Any]] = {}
        # Names of a netlist would not do: a Signal that is made in a tuple has none.
        sys.setprofile(self._keep)
        try:
            self.fragment = Fragment.get(component, None)
        finally:
            sys.setprofile(None)

    def _keep(self, frame: types.FrameType, event: str, argument: object) -> None:
        if event == "return" and frame.f_code.co_name == "elaborate":
            self.variables[id(frame.f_locals["self"])] = dict(frame.f_locals)

    def __getitem__(self, path: str) -> Any:
        """A variable like ``busy``, or ``prepared.spare``: of the submodule in ``prepared``."""
        found: Any = self.component
        for name in path.split("."):
            found = self.variables[id(found)][name]
        return found

    def signals(self, name: str) -> list[Signal]:
        """The component's own signals whose name in the netlist begins with ``name``."""
        found = {
            signal.name: signal
            for statements in self.fragment.statements.values()
            for statement in statements
            for signal in statement._lhs_signals()
            if signal.name.startswith(name)
        }
        return [found[key] for key in sorted(found)]

    def elaborate(self, platform: object) -> Fragment:
        return self.fragment


class Harness(Elaboratable):
    """Environment of one component; subclasses describe it.

    Attributes
    ----------
    properties
        What is proven, by name: bits that must be 1 in every cycle.
    invariants
        Facts about inner signals that are proven with the properties and make them inductive.
    assumptions
        What the environment keeps to.
    covers
        What must be reachable, so that assumptions cannot make a proof vacuous.
    """

    size = ""
    """The parameters under proof, in words."""

    def __init__(self) -> None:
        self.properties: dict[str, Value] = {}
        self.invariants: list[Value] = []
        self.assumptions: list[Value] = []
        self.covers: dict[str, Value] = {}
        self.selected: Callable[[Harness], list[Value]] = Harness.everything

    def describe(self, m: Module) -> None:
        """Add the component, its environment and what is claimed to ``m``."""
        raise NotImplementedError

    def everything(self) -> list[Value]:
        """Properties and invariants, which are proven together."""
        return [*self.properties.values(), *self.invariants]

    def ensure(self, name: str, condition: ValueLike) -> None:
        """``condition`` is a property."""
        assert name not in self.properties, name
        self.properties[name] = Value.cast(condition).any()

    def invariant(self, condition: ValueLike) -> None:
        """``condition`` helps to prove the properties."""
        self.invariants.append(Value.cast(condition).any())

    def assume(self, condition: ValueLike) -> None:
        """The environment keeps to ``condition``."""
        self.assumptions.append(Value.cast(condition).any())

    def cover(self, name: str, condition: ValueLike) -> None:
        """``condition`` must be reachable."""
        assert name not in self.covers, name
        self.covers[name] = Value.cast(condition).any()

    def free(self, m: Module, shape: ShapeLike, name: str) -> Signal:
        """Any value in each cycle: an input of the environment."""
        signal = Signal(shape, name=name)
        m.d.comb += Value.cast(signal).eq(AnySeq(len(Value.cast(signal))))
        return signal

    def fixed(self, m: Module, shape: ShapeLike, name: str) -> Signal:
        """Any value, the same in all cycles."""
        signal = Signal(shape, name=name)
        m.d.comb += Value.cast(signal).eq(AnyConst(len(Value.cast(signal))))
        return signal

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self.describe(m)
        m.d.comb += [Assume(condition) for condition in self.assumptions]
        for number, condition in enumerate(self.selected(self)):
            # Named: counterexamples show which one is 0.
            holds = Signal(name=f"holds_{number}")
            m.d.comb += [holds.eq(condition), Assert(holds)]
        return m


@dataclass(frozen=True)
class Control:
    """A broken design, or a broken environment, that a property must notice.

    Attributes
    ----------
    name
        What is broken.
    property
        The property, by name, that has a counterexample.
    harness
        Makes the harness around what is broken.
    depth
        Cycles in which the counterexample is looked for.
    """

    name: str
    property: str
    harness: Callable[[], Harness]
    depth: int = 40


@dataclass(frozen=True)
class Proof:
    """What ``make formal`` runs of one component.

    Attributes
    ----------
    name
        As of ``--only``.
    harness
        Makes the harness.
    controls
        Each must fail.
    steps
        Prove by induction over so many cycles; 0: by property-directed reachability.
    bounded
        Properties that are not proven, and in how many cycles they have no counterexample.
    seconds
        Longest time for each answer.
    cover_depth
        Cycles in which covers must be reached.
    quick
        Takes seconds: part of ``make test``.
    """

    name: str
    harness: Callable[[], Harness]
    controls: tuple[Control, ...]
    steps: int = 0
    bounded: Mapping[str, int] = field(default_factory=dict)
    seconds: int = 540
    cover_depth: int = 40
    quick: bool = False


def mutant(module: types.ModuleType, old: str, new: str, times: int = 1) -> types.ModuleType:
    """The module with a piece of its source replaced, for a control.

    Raises
    ------
    ValueError
        ``old`` does not stand in it ``times`` times: the control is out of date.
    """
    source = inspect.getsource(module)
    if source.count(old) != times:
        count = source.count(old)
        raise ValueError(f"{module.__name__} has {count} times {old!r}, not {times}")
    changed = types.ModuleType(f"{module.__name__} with {new}")
    exec(
        compile(source.replace(old, new), f"<mutant of {module.__file__}>", "exec"),
        changed.__dict__,
    )
    return changed
