"""Accumulator banks with read, add and write in flight for every row, and the rows' maxima."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from moesaic.hw.arithmetic.pipeline import delay
from moesaic.hw.interfaces import AccumulatorRead
from moesaic.hw.matrix.banks import BankedRows
from moesaic.hw.matrix.columns import sum_bits
from moesaic.hw.matrix.step import step_layout
from moesaic.spec.arch import ArchConfig
from moesaic.spec.formats import ACCUMULATOR_BITS
from moesaic.spec.isa import UNIT_COUNT

PLANE_BITS = 8
"""Left shift of the products of the high plane."""
STEP_TO_SUMS_CYCLES = 2
_LOWEST = Const(-(1 << ACCUMULATOR_BITS - 1), signed(ACCUMULATOR_BITS))


class Accumulators(wiring.Component):
    """Adds the array's sums to accumulator rows, one row per cycle, and hands over banks.

    Two steps that visit the same row must be at least ``PASS_DISTANCE`` cycles apart.

    Parameters
    ----------
    arch
        Sizes.

    Attributes
    ----------
    step
        What to do with the sums that arrive ``STEP_TO_SUMS_CYCLES`` cycles later; every cycle.
    sums
        From the array, ``width`` fields of ``sum_bits``.
    port
        The vector unit's side.
    bank_free
        Which banks are empty and not being filled.
    claim
        Starts a group in a free bank; it is not free from the next cycle on.
    done, signal
        The last step of an instruction is through: all its rows are in place.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self.arch = arch
        super().__init__(
            {
                "step": In(step_layout(arch)),
                "sums": In(arch.width * sum_bits(arch)),
                "port": In(AccumulatorRead(arch)),
                "bank_free": Out(2),
                "claim": In(2),
                "done": Out(1),
                "signal": Out(UNIT_COUNT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.arch.width
        levels = (width - 1).bit_length()
        steps: list[data.View] = [self.step]
        for i in range(1, STEP_TO_SUMS_CYCLES + levels + 3):
            following = Signal(step_layout(self.arch), name=f"step{i}")
            m.d.sync += following.eq(steps[-1])
            steps.append(following)

        full, owned, drain_bank = Signal(2), Signal(2), Signal()
        # `drain_bank` bit by bit, and the same turned over: the release comes late in its cycle,
        # and what hangs on it must not share a gate.
        draining, resting = Signal(2, init=0b01), Signal(2, init=0b10)
        m.submodules.rows = rows = BankedRows(ACCUMULATOR_BITS * width, self.arch.accumulator_rows)
        m.submodules.maxima = maxima = BankedRows(ACCUMULATOR_BITS, self.arch.accumulator_rows)
        for banks in (rows, maxima):
            m.d.comb += [banks.full.eq(full), banks.drain_bank.eq(drain_bank)]
        m.d.comb += [
            rows.drain_address.eq(self.port.address),
            maxima.drain_address.eq(self.port.maximum_address),
            self.port.data.eq(rows.drain_data),
            self.port.maximum.eq(maxima.drain_data),
        ]

        # Rows: read in step 0, add in step 2, write in step 3.
        adding, written = steps[2], steps[3]
        results = self._add(m, rows.fill_data, adding)
        m.d.comb += [
            rows.fill_address.eq(steps[0].address),
            rows.fill_bank.eq(steps[0].bank),
            rows.fill_enable.eq(steps[1].word & ~steps[1].overwrite),
            rows.write_enable.eq(written.word),
            rows.write_bank.eq(written.bank),
            rows.write_address.eq(written.address),
            rows.write_data.eq(Cat(results)),
        ]

        # Maxima: the tree takes one cycle per level; the kept maximum is read meanwhile.
        best = self._largest(m, results, steps[2:])
        compared, end = steps[3 + levels], steps[4 + levels]
        kept = Signal(signed(ACCUMULATOR_BITS), reset_less=True)
        old = Signal(signed(ACCUMULATOR_BITS))
        m.d.comb += old.eq(maxima.fill_data)
        with m.If(compared.track):
            m.d.sync += kept.eq(Mux(compared.first | (best > old), best, old))
        m.d.comb += [
            maxima.fill_address.eq(steps[1 + levels].row),
            maxima.fill_bank.eq(steps[1 + levels].bank),
            maxima.fill_enable.eq(steps[2 + levels].track),
            maxima.write_enable.eq(end.track),
            maxima.write_bank.eq(end.bank),
            maxima.write_address.eq(end.row),
            maxima.write_data.eq(kept),
            self.done.eq(end.last),
            self.signal.eq(end.signal),
        ]

        # A bank is owned from the first request of a group, full from its last write.
        landed, claimed, here = Signal(2), Signal(2), Signal(2)
        m.d.comb += [
            landed.eq(Mux(end.group_last, 1 << end.bank, 0)),
            self.bank_free.eq(~(owned | claimed)),
        ]
        m.d.comb += here.eq(full | landed)
        m.d.sync += [
            self.port.full.eq(
                Mux(
                    self.port.release,
                    here.bit_select(~drain_bank, 1),
                    here.bit_select(drain_bank, 1),
                )
            ),
            claimed.eq(self.claim),
            owned.eq((owned | claimed) & (~self.port.release.replicate(2) | resting)),
            full.eq(here & ~Mux(self.port.release, draining, 0)),
        ]
        with m.If(self.port.release):
            m.d.sync += [
                drain_bank.eq(~drain_bank),
                draining.eq(draining.rotate_left(1)),
                resting.eq(resting.rotate_left(1)),
            ]
        return m

    def _add(self, m: Module, old_row: Value, step: data.View) -> list[Signal]:
        bits = sum_bits(self.arch)
        results = []
        with m.If(step.word):
            for w in range(self.arch.width):
                total = self.sums[w * bits : (w + 1) * bits].as_signed()
                addend = Mux(step.high, total << PLANE_BITS, total)
                old = old_row.word_select(w, ACCUMULATOR_BITS).as_signed()
                result = Signal(signed(ACCUMULATOR_BITS), name=f"result_{w}", reset_less=True)
                m.d.sync += result.eq(Mux(step.overwrite, 0, old) + addend)
                results.append(result)
        return results

    def _largest(self, m: Module, results: list[Signal], steps: list[data.View]) -> Value:
        """Maximum over the first ``columns`` results, one registered level of pairs per cycle.

        There may be none: tiles behind the last existing column have no column.
        """
        in_use = Signal(len(results), reset_less=True)
        m.d.sync += in_use.eq(Cat(w < steps[0].columns for w in range(len(results))))
        terms: list[Value] = list(results)
        steps = steps[1:]
        level = 0
        while len(terms) > 1:
            following: list[Value] = []
            with m.If(steps[level].track):
                for i in range(0, len(terms), 2):
                    left, right = terms[i], terms[i + 1]
                    larger = Signal(
                        signed(ACCUMULATOR_BITS), name=f"larger{level}_{i // 2}", reset_less=True
                    )
                    # Columns in use come first: the right one counts if the first of its is. The
                    # sign of a difference comes out of the carry chain; tools put gates behind a
                    # comparison of signed values.
                    counts, less = in_use[(i + 1) << level], (left - right)[-1]
                    largest = Mux(counts & less, right, left)
                    if len(terms) == 2:  # and of none it is the lowest there is
                        largest = Mux(in_use[0], largest, _LOWEST)
                    m.d.sync += larger.eq(largest)
                    following.append(larger)
            in_use = delay(m, in_use, 1, f"in_use{level}")
            terms, level = following, level + 1
        return terms[0]
