"""Feed-throughs: every preset held to the list, and small designs with known ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from amaranth import Cat, Elaboratable, Instance, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.timing import feedthrough
from moesaic.hw.timing.allowed import ALLOWED, gone, unlisted
from moesaic.hw.timing.analysis import LoopError
from moesaic.hw.timing.chains import chains
from moesaic.hw.timing.elaborated import Elaborated
from moesaic.hw.timing.feedthrough import Report, main, ranges, report
from moesaic.hw.timing.units import Feedthrough, Units
from moesaic.spec.presets import PRESETS
from tests.hw.presets import ELABORATED


@pytest.mark.parametrize("preset", sorted(ELABORATED))
def test_presets_have_the_listed_feedthroughs_and_no_others(preset: str) -> None:
    names = [each.name for each in report(PRESETS[preset]).feedthroughs]
    assert unlisted(names, ALLOWED) == [], "a register belongs between them"
    assert gone(names, ALLOWED) == [], "to be taken out of hw/timing/allowed.py"


@pytest.mark.parametrize("preset", sorted(ELABORATED))
def test_no_path_is_through_five_units(preset: str) -> None:
    longest = max(len(chain) for chain in report(PRESETS[preset]).chains)
    assert longest <= 4  # where it begins, two feed-throughs, where it ends


class Unit(wiring.Component):
    """Two inputs and two outputs of eight bits, in registers unless ``body`` says otherwise."""

    def __init__(self, body: Callable[[Module, Unit], None] | None = None) -> None:
        self.body = body
        super().__init__({"a": In(8), "b": In(8), "x": Out(8), "y": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.body:
            self.body(m, self)
        else:
            m.d.sync += [self.x.eq(self.a), self.y.eq(self.b)]
        return m


class Row(wiring.Component):
    """Units one behind the other."""

    def __init__(self, *units: Unit) -> None:
        self.units = units
        super().__init__({"a": In(8), "b": In(8), "x": Out(8), "y": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        for number, unit in enumerate(self.units):
            m.submodules[f"u{number}"] = unit
            m.d.comb += [unit.a.eq(a), unit.b.eq(b)]
            a, b = unit.x, unit.y
        m.d.comb += [self.x.eq(a), self.y.eq(b)]
        return m


class Loop(Row):
    """What a unit gives comes back to it, by a wire outside."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        (unit,) = self.units
        m.submodules.u0 = unit
        m.d.comb += [unit.a.eq(unit.y), unit.b.eq(5), self.x.eq(unit.x)]
        return m


def units_of(*units: Unit) -> Units:
    design = Elaborated(Row(*units))
    return Units(design, {f"u{number}": f"u{number}" for number in range(len(units))})


def found(body: Callable[[Module, Unit], None]) -> dict[str, tuple[str, str]]:
    """Bits of the feed-throughs of a unit between two that have registers."""
    return {
        each.name: (ranges(each.input_bits), ranges(each.output_bits))
        for each in units_of(Unit(), Unit(body), Unit()).feedthroughs()
    }


def test_registers_end_paths() -> None:
    assert found(lambda m, u: m.d.sync.__iadd__([u.x.eq(u.a + u.b), u.y.eq(u.a)])) == {}


def test_wires_and_operators_feed_through() -> None:
    def body(m: Module, u: Unit) -> None:
        m.d.comb += [u.x.eq(u.a), u.y.eq(Cat(u.a[5] == u.b[:2], u.b[6] & 0))]

    assert found(body) == {
        "u1: a -> x": ("7:0", "7:0"),
        "u1: a -> y": ("5", "0"),
        "u1: b -> y": ("1:0", "0"),
    }


def test_choices_feed_through() -> None:
    def body(m: Module, u: Unit) -> None:
        held = Signal(8)
        m.d.sync += held.eq(u.b)
        m.d.comb += u.x.eq(Mux(u.a[2], held, 3))
        with m.Switch(u.a[4:6]):
            with m.Case(1):
                m.d.comb += u.y[7].eq(held[0])

    assert found(body) == {"u1: a -> x": ("2", "7:0"), "u1: a -> y": ("5:4", "7")}


@pytest.mark.parametrize("domain", ["comb", "sync"])
def test_only_asynchronous_reads_feed_through(domain: str) -> None:
    def body(m: Module, u: Unit) -> None:
        m.submodules.words = words = memory.Memory(shape=8, depth=16, init=[])
        write = words.write_port()
        transparent = () if domain == "comb" else (write,)
        read = words.read_port(domain=domain, transparent_for=transparent)
        m.d.comb += [write.addr.eq(u.b), write.data.eq(u.a), write.en.eq(u.b[7])]
        m.d.comb += [read.addr.eq(u.a), u.x.eq(read.data)]

    assert found(body) == ({"u1: a -> x": ("3:0", "7:0")} if domain == "comb" else {})


def test_feedthroughs_of_modules_inside_are_the_units() -> None:
    class Inner(Elaboratable):
        def __init__(self) -> None:
            self.i = Signal()
            self.o = Signal()

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.d.comb += self.o.eq(~self.i)
            return m

    def body(m: Module, u: Unit) -> None:
        m.submodules.inner = inner = Inner()
        m.d.comb += [inner.i.eq(u.b[3]), u.x[2].eq(inner.o)]

    assert found(body) == {"u1: b -> x": ("3", "2")}
    (each,) = units_of(Unit(), Unit(body), Unit()).feedthroughs()
    assert [step.split(" ")[0] for step in each.steps] == [
        "top.b[3]",
        "u1.i[0]",
        "u1.inner.o[0]",
        "u1.x[2]",
    ]
    assert "test_feedthrough.py" in each.steps[2]


def test_paths_are_followed_bit_by_bit() -> None:
    def body(m: Module, u: Unit) -> None:
        total = Signal(8)
        m.d.comb += [total.eq(u.a + u.b), u.y[1].eq((u.a >> 2)[1])]
        m.d.comb += [u.x[0].eq(total[2]), u.y[4].eq(u.b.word_select(u.a[7], 4)[3])]
        m.d.comb += [u.x[6].eq((u.b << u.a[:2])[2]), u.x[7].eq((u.a.as_signed() >> u.b[7])[6])]

    assert found(body) == {
        "u1: a -> x": ("7:6,2:0", "7:6,0"),
        "u1: b -> x": ("7,2:0", "7:6,0"),
        "u1: a -> y": ("7,3", "4,1"),
        "u1: b -> y": ("7,3", "4"),
    }


def test_foreign_modules_feed_through_unless_they_are_known() -> None:
    def body(kind: str) -> Callable[[Module, Unit], None]:
        def make(m: Module, u: Unit) -> None:
            m.submodules.foreign = Instance(kind, i_a=u.a[1], o_x=u.x[:2])

        return make

    assert found(body("unknown")) == {"u1: a -> x": ("1", "1:0")}
    assert found(body("moesaic_ram")) == {}


def test_constants_and_a_units_own_loop_back_are_no_feedthrough() -> None:
    def body(m: Module, u: Unit) -> None:
        m.d.comb += u.x.eq(u.a ^ u.b)
        m.d.sync += u.y.eq(u.x)

    units = Units(Elaborated(Loop(Unit(body))), {"u0": "u0"})
    assert [each.name for each in units.feedthroughs()] == ["u0: a -> x"]


def test_loops_are_refused() -> None:
    def body(m: Module, u: Unit) -> None:
        loop = Signal()
        m.d.comb += [loop.eq(u.a[0] & ~loop), u.x[0].eq(loop)]

    with pytest.raises(LoopError, match="loop through tests/hw/test_feedthrough.py:"):
        units_of(Unit(), Unit(body))
    wired = Unit(lambda m, u: m.d.comb.__iadd__(u.y.eq(u.a)))
    with pytest.raises(LoopError, match="from unit u0 to itself"):
        chains(Units(Elaborated(Loop(wired)), {"u0": "u0"}))


def test_the_design_is_a_unit_too() -> None:
    def body(m: Module, u: Unit) -> None:
        m.d.comb += [u.x.eq(u.a), u.y.eq(u.b[0])]

    names = [each.name for each in units_of(Unit(body), Unit(body)).feedthroughs()]
    assert names == [
        *("top: a -> x", "top: b -> y"),
        *("u0: a -> x", "u0: b -> y", "u1: a -> x", "u1: b -> y"),
    ]


def test_paths_through_three_units_and_more() -> None:
    def body(m: Module, u: Unit) -> None:
        m.d.comb += u.x.eq(u.a + 1)
        m.d.sync += u.y.eq(u.b)

    assert chains(units_of(Unit(), Unit(), Unit())) == []
    assert chains(units_of(Unit(), Unit(body), Unit())) == [("u0.x", "u1: a -> x", "u2.a")]
    assert chains(units_of(Unit(), Unit(body), Unit(body))) == [
        ("u0.x", "u1: a -> x", "u2: a -> x", "outside.x")
    ]


def test_the_command_fails_for_what_is_not_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = Feedthrough("store", "axi3__wready", "control__stalled", (0,), (0,), ("s",))
    other = Feedthrough("store", "axi3__wready", "axi3__wvalid", (3, 1, 2), (0,), ("step",))
    monkeypatch.setattr(feedthrough, "report", lambda arch: Report([listed], []))
    assert main(["--target", "nano"]) == 0
    monkeypatch.setattr(feedthrough, "report", lambda arch: Report([listed, other], []))
    assert main(["--target", "nano", "--paths"]) == 1
    out, err = capsys.readouterr()
    assert "store: axi3__wready[3:1] -> axi3__wvalid[0]\n    step\n" in out
    assert "error: store: axi3__wready -> axi3__wvalid is not allowed" in err
    assert main(["--target", "nothing"]) == 2


def test_entries_of_the_list_stand_for_numbers_only() -> None:
    assert unlisted(["u: axi12__a -> b", "u: axix__a -> b"], ["u: axi#__a -> b"]) == [
        "u: axix__a -> b"
    ]
    assert gone(["u: axi0__a -> b"], ["u: axi#__a -> b", "u: a -> c"]) == ["u: a -> c"]
