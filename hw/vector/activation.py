"""Activations as z, if it is positive, less a loaded table: ``relu(z) - correction(|z|)``."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.interfaces import TableWrite
from moesaic.hw.memory.ram import Ram
from moesaic.spec import tables

_INDEX_BITS = (tables.ACTIVATION_ENTRIES - 1).bit_length()
_FRACTION_BITS = tables.ACTIVATION_STEP_BITS


def entry_layout() -> data.StructLayout:
    """An entry of a table: its value, and what the next one has more (0 in the last entry)."""
    return data.StructLayout(
        {
            "value": signed(tables.ACTIVATION_VALUE_BITS),
            "slope": signed(tables.ACTIVATION_SLOPE_BITS),
        }
    )


def choice_layout() -> data.StructLayout:
    """Which function it is: fields of DRAIN."""
    return data.StructLayout({"table": 1, "negative_table": 1, "linear": 1})


class Activation(wiring.Component):
    """``semantics.activation_fine`` of every lane.

    Latency ``LATENCY`` cycles, one set of lanes per cycle. The multiplication by the output scale
    follows in the unit's second requantiser. Each lane has a copy of the tables in half a block
    RAM, and one small multiplier to interpolate.

    Attributes
    ----------
    z
        Signed ``ACTIVATION_INPUT_BITS`` bits.
    choice
        With z.
    value
        Signed ``ACTIVATION_RESULT_BITS`` bits.
    write
        New entries.
    """

    LATENCY = 5

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "z": In(data.ArrayLayout(signed(tables.ACTIVATION_INPUT_BITS), lanes)),
                "choice": In(choice_layout()),
                "value": Out(data.ArrayLayout(signed(tables.ACTIVATION_RESULT_BITS), lanes)),
                "write": In(TableWrite()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The port is far from some lanes.
        writes = delay(m, self.write.valid, 1, "writes", control=True)
        address = delay(m, self.write.address, 1, "write_address")
        written = delay(m, self.write.data, 1, "written")[: entry_layout().size]
        m.d.comb += self.write.ready.eq(1)
        linear = delay(m, self.choice.linear, self.LATENCY - 1, "linear")
        for i in range(self.lanes):
            z = self.z[i]
            magnitude = Signal(tables.ACTIVATION_INPUT_BITS, name=f"magnitude_{i}", reset_less=True)
            chosen = Signal(name=f"table_{i}", reset_less=True)
            # Beyond the last entry, it is the last one: its slope is 0, so any fraction will do.
            beyond = magnitude[_FRACTION_BITS + _INDEX_BITS :].any()
            index = magnitude[_FRACTION_BITS:][:_INDEX_BITS] | beyond.replicate(_INDEX_BITS)
            m.d.sync += [
                # The sign goes into the carry: a negation and a choice would be longer.
                magnitude.eq((z.as_unsigned() ^ z[-1].replicate(len(z))) + z[-1]),
                chosen.eq(Mux(z[-1], self.choice.negative_table, self.choice.table)),
            ]
            ram = Ram(entry_layout().size, tables.ACTIVATION_TABLES * tables.ACTIVATION_ENTRIES)
            m.submodules[f"table_{i}"] = ram
            m.d.comb += [
                ram.write_enable.eq(writes),
                ram.write_address.eq(address),
                ram.write_data.eq(written),
                ram.read_address.eq(Cat(index, chosen)),
            ]
            entry = data.View(entry_layout(), delay(m, ram.read_data, 1, f"entry_{i}"))
            fraction = delay(m, magnitude[:_FRACTION_BITS], 2, f"fraction_{i}")
            bits = tables.ACTIVATION_VALUE_BITS + _FRACTION_BITS + 2
            product = Signal(signed(bits), name=f"product_{i}", reset_less=True)
            rounded = Signal(signed(bits), name=f"rounded_{i}", reset_less=True)
            value = Signal(
                signed(tables.ACTIVATION_RESULT_BITS), name=f"value_{i}", reset_less=True
            )
            old = delay(m, z, self.LATENCY - 1, f"z_{i}")
            relu = Mux(linear & ~old[-1], old[:-1], 0)
            half = Const(1 << _FRACTION_BITS - 1, _FRACTION_BITS)
            m.d.sync += [
                product.eq(entry.slope * Cat(fraction, Const(0, 1)).as_signed()),
                rounded.eq(Cat(half, entry.value).as_signed()),
                value.eq(
                    (relu << tables.ACTIVATION_FINE_BITS) - (rounded + product >> _FRACTION_BITS)
                ),
            ]
            m.d.comb += self.value[i].eq(value)
        return m
