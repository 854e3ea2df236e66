"""The architecture configuration: one frozen object sizes gateware, compiler and simulator."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import reprlib
from dataclasses import dataclass

from moesaic.spec import isa
from moesaic.spec.errors import UserError
from moesaic.spec.formats import PARAMETER_BYTES
from moesaic.spec.isa import Opcode
from moesaic.spec.registers import MAX_OUTPUT_PORTS, MAX_WEIGHT_PORTS, WINDOW_ALIGNMENT

ADDRESS_BITS = 40
"""Byte address width of every AXI4 master (the Zynq UltraScale+ physical address space)."""
MIN_DEPTH, MAX_DEPTH = 8, 128
"""Bounds of ``ArchConfig.depth``."""
ROUTER_LANES = 8
"""Exponentials per cycle for the sum over all experts: 16 experts take two cycles."""
MIN_LANES = 4
"""Lower bound of ``ArchConfig.lanes``; the upper one is ``depth``."""

MAX_TOKENS = 1 << isa.width(Opcode.ROUTE, "rows")
MAX_EXPERTS = 1 << isa.width(Opcode.ROUTE, "experts") - 1
"""The largest power of two that ROUTE can count; ``expert`` fields number them from 0."""
MAX_MEMORY_BYTES = 1 << 26
"""64 MiB: more memory than any FPGA has on its chip."""
MAX_PRODUCTS = 1 << 15
"""Products per cycle. The largest parts have 12,288 multipliers, which take two int8 each."""

# What bounds each size by itself: the instruction set, the register map, or good sense. A file
# that asks for more is refused here, before anything is allocated or generated for it.
LIMITS: dict[str, tuple[int, int]] = {
    "depth": (MIN_DEPTH, MAX_DEPTH),
    "width": (8, 1024),
    "lanes": (MIN_LANES, MAX_DEPTH),
    "accumulator_rows": (1, 1 << 14),  # four n-tiles of MAX_TOKENS
    "activation_bytes": (8, MAX_MEMORY_BYTES),
    "activation_banks": (1, 16),  # four ports share them
    "residual_bytes": (8, MAX_MEMORY_BYTES),
    "weight_ports": (1, MAX_WEIGHT_PORTS),
    "weight_port_bytes": (4, 64),
    "ring_read_bytes": (8, MAX_PRODUCTS),  # one tile of the largest array
    "ring_bytes": (128, MAX_MEMORY_BYTES),
    "data_port_bytes": (4, isa.INSTRUCTION_BYTES),  # an instruction has no less than a beat
    "output_ports": (1, MAX_OUTPUT_PORTS),
    "max_tokens": (1, MAX_TOKENS),
    "max_experts": (1, MAX_EXPERTS),
    "queue_depth": (1, 1024),
    "max_burst": (2, 256),  # AXI4's longest
}
MULTIPLES = frozenset({"activation_bytes", "activation_banks", "residual_bytes"})
"""Sizes that need not be powers of two: what a part has of block RAM is none either."""
LATER = ("four_bit_weights", "ultra_ring", "ultra_activations", "chunk_pairs")
"""Features that there were none of once: without them a target is what it was, and its bundles
run on it."""
BURST_BYTES = WINDOW_ALIGNMENT
"""No AXI4 burst may cross a multiple of this; windows begin at one."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

ACCUMULATOR_BANKS = 2
"""Banks of accumulators: one is filled while the other one drains."""


def _shown(value: object) -> str:
    """``value`` for a message: short whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return reprlib.repr(value)


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """Sizes of one accelerator. Everything derived (widths, depths, file formats) comes from here.

    All sizes are powers of two but those of the two scratchpads, and no memory is larger than
    ``MAX_MEMORY_BYTES``.

    Attributes
    ----------
    name
        Label for file names and messages; not part of the hash.
    depth
        Rows of the array: int8 products summed per column and cycle. Also the bytes of one
        activation word. 8 to 128.
    width
        Columns of the array: outputs accumulated per cycle. At least ``depth``, at most 1024, and
        at most ``MAX_PRODUCTS`` products in all.
    packed
        Two products in one DSP48E2: ``((w1 << 18) + w2) * x`` with borrow correction.
    lanes
        Accumulators the vector unit drains per cycle: a chunk. 4 to ``depth``.
    chunk_pairs
        Two chunks at a time where the vector unit would be slower than the array, for a second,
        smaller set of lanes: scores of the softmax and results of attention are drained so, and
        normalised rows written. Needs a ``depth`` of two chunks.
    accumulator_rows
        Rows of ``width`` int32 accumulators in each of the two banks. Up to 16384.
    activation_bytes
        int8 activation scratchpad, bytes: ``activation_banks`` times a power of two. At most
        ``2**20`` words.
    activation_banks
        Separately ported banks of the activation scratchpad, any number up to 16.
    residual_bytes
        int16 residual-stream scratchpad, bytes: any number of words of ``2 * lanes``, at most
        ``2**20``.
    weight_ports
        AXI4 read masters of the weight stream. Up to ``registers.MAX_WEIGHT_PORTS``.
    weight_port_bytes
        Data bytes per beat of each weight port. 4 to 64.
    ring_read_bytes
        Bytes per word of the weight ring: read per cycle. At least ``width`` and at least one
        line (``weight_ports * weight_port_bytes``).
    ring_bytes
        Capacity of the weight ring: how far weights can be prefetched. At least 16 words.
    four_bit_weights
        Layers may have weights of four bits: half the bytes in external memory, on the way and in
        the ring, from which they come as int8 codes. A ring word is at most half a tile then.
    ultra_ring
        The weight ring lies in UltraRAM, which some parts have beside their block RAM.
    ultra_activations
        So does the activation scratchpad.
    data_port_bytes
        Data bytes per beat of the data master (program, inputs, outputs). 4 to 32, and at most
        a word of either scratchpad.
    output_ports
        Ports that share the outputs, each an equal part of every chunk: the data master, and the
        write channels of weight ports 1, 2, ... At most ``weight_ports``.
    max_tokens
        Rows the router's expert queues hold for each expert. Up to ``MAX_TOKENS``.
    max_experts
        Experts the router can index. Up to ``MAX_EXPERTS``.
    queue_depth
        Instructions waiting in front of each unit. Up to 1024.
    max_burst
        Longest burst of the masters in beats. 2 to 256, and at most 4 KiB with the wider kind of
        port; 16 for ports that speak AXI3, as those of Zynq-7000.
    coherent
        The masters go to ports that snoop the processor's caches (``S_AXI_HPC*`` of Zynq
        UltraScale+), and say with AxCACHE that they want it. Without it their transfers pass by
        the caches on every port.
    secure
        Transfers are secure ones (AxPROT), as memory of Zynq-7000 wants them; those of Zynq
        UltraScale+ are non-secure, as Linux there is.
    device
        FPGA part the preset is meant for. Reports use it, and the gateware cuts wide products for
        its multipliers; what it computes, and in how many cycles, is the same.
    """

    name: str
    depth: int
    width: int
    packed: bool = False
    lanes: int
    chunk_pairs: bool = False
    accumulator_rows: int
    activation_bytes: int
    activation_banks: int = 2
    residual_bytes: int
    weight_ports: int
    weight_port_bytes: int = 16
    ring_read_bytes: int
    ring_bytes: int
    four_bit_weights: bool = False
    ultra_ring: bool = False
    ultra_activations: bool = False
    data_port_bytes: int = 16
    output_ports: int = 1
    max_tokens: int
    max_experts: int
    queue_depth: int = 16
    max_burst: int = 64
    coherent: bool = False
    secure: bool = False
    device: str = "any"

    def __post_init__(self) -> None:
        self._require(
            isinstance(self.name, str) and NAME.fullmatch(self.name) is not None,
            "name must be 1 to 64 letters, digits, dots, dashes and underscores",
            self.name,
        )
        self._require(isinstance(self.device, str), "device must be a string", self.device)
        for flag in ("packed", *LATER, "coherent", "secure"):
            value = getattr(self, flag)
            self._require(isinstance(value, bool), f"{flag} must be true or false", value)
        for field, (low, high) in LIMITS.items():
            value = getattr(self, field)
            # A bool is an int to Python, but no number to whoever writes a target file.
            number = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if field in MULTIPLES:
                self._require(number, f"{field} must be a positive integer", value)
            elif not number or value & value - 1:
                raise UserError(f"ArchConfig {field} must be a power of two, not {_shown(value)}")
            self._require(low <= value <= high, f"{field} must be {low} to {high}", value)
        most = MAX_PRODUCTS // self.depth
        self._require(
            self.depth <= self.width <= most,
            f"width must be {self.depth} to {most} with depth {self.depth}",
            self.width,
        )
        self._require(
            self.lanes <= self.depth, f"lanes must be at most depth {self.depth}", self.lanes
        )
        self._require(
            not self.chunk_pairs or 2 * self.lanes <= self.depth,
            f"lanes must be at most {self.depth // 2} with chunk_pairs, half of depth",
            self.lanes,
        )
        self._check_memories()
        self._check_ports()

    def _check_memories(self) -> None:
        words = 1 << isa.width(Opcode.LOAD, "base")
        banks, line = self.activation_banks, 2 * self.lanes
        low, high = self.depth * banks, min(self.depth * words, MAX_MEMORY_BYTES)
        self._require(
            low <= self.activation_bytes <= high,
            f"activation_bytes must be {low} to {high} with depth {self.depth} and"
            f" activation_banks {banks}",
            self.activation_bytes,
        )
        bank = self.activation_bytes // banks
        self._require(
            bank * banks == self.activation_bytes and not bank & bank - 1,
            f"activation_bytes must be a power of two for each of {banks} activation_banks",
            self.activation_bytes,
        )
        high = min(line * words, MAX_MEMORY_BYTES)
        self._require(
            line <= self.residual_bytes <= high,
            f"residual_bytes must be {line} to {high} with lanes {self.lanes}",
            self.residual_bytes,
        )
        self._require(
            self.residual_bytes % line == 0,
            f"residual_bytes must be a multiple of {line} with lanes {self.lanes}",
            self.residual_bytes,
        )
        low = max(self.width, self.line_bytes)
        high = self.depth * self.width
        self._require(
            low <= self.ring_read_bytes <= high,
            f"ring_read_bytes must be {low} to {high}: at least width and one line of all weight"
            " ports, at most one tile",
            self.ring_read_bytes,
        )
        self._require(
            not self.four_bit_weights or 2 * self.ring_read_bytes <= high,
            f"ring_read_bytes must be {low} to {high // 2} with four_bit_weights: at most half a"
            " tile",
            self.ring_read_bytes,
        )
        self._require(
            self.ring_bytes >= 16 * self.ring_read_bytes,
            f"ring_bytes must be at least {16 * self.ring_read_bytes}, 16 times ring_read_bytes",
            self.ring_bytes,
        )

    def _check_ports(self) -> None:
        widest = min(self.depth, 2 * self.lanes)
        self._require(
            self.data_port_bytes <= widest,
            f"data_port_bytes must be at most {widest}, a word of either scratchpad",
            self.data_port_bytes,
        )
        most = min(self.weight_ports, 2 * self.lanes // self.data_port_bytes)
        self._require(
            self.output_ports <= most,
            f"output_ports must be at most {most}: there are {self.weight_ports} weight_ports, and"
            " each takes a beat of a chunk or more",
            self.output_ports,
        )
        self._require(
            self.output_ports == 1 or self.weight_port_bytes == self.data_port_bytes,
            f"weight_port_bytes must be data_port_bytes {self.data_port_bytes} with output_ports",
            self.weight_port_bytes,
        )
        port = "weight" if self.weight_port_bytes >= self.data_port_bytes else "data"
        port_bytes = getattr(self, f"{port}_port_bytes")
        most = BURST_BYTES // port_bytes
        self._require(
            self.max_burst <= most,
            f"max_burst must be at most {most}: with {port}_port_bytes {port_bytes} a longer one"
            f" exceeds {BURST_BYTES} bytes",
            self.max_burst,
        )

    def _require(self, condition: bool, rule: str, value: object) -> None:
        if not condition:
            raise UserError(f"ArchConfig {rule}, not {_shown(value)}")

    # Derived sizes: computed here and nowhere else.

    @property
    def macs_per_cycle(self) -> int:
        return self.depth * self.width

    @property
    def most_lanes(self) -> int:
        """Accumulators that are drained per cycle at most."""
        return 2 * self.lanes if self.chunk_pairs else self.lanes

    @property
    def line_bytes(self) -> int:
        """Bytes that all weight ports deliver per cycle at peak (one DRAM line)."""
        return self.weight_ports * self.weight_port_bytes

    @property
    def activation_words(self) -> int:
        """Words of ``depth`` bytes in the activation scratchpad."""
        return self.activation_bytes // self.depth

    @property
    def residual_words(self) -> int:
        """Words of ``lanes`` int16 in the residual scratchpad."""
        return self.residual_bytes // (2 * self.lanes)

    @property
    def ring_words(self) -> int:
        return self.ring_bytes // self.ring_read_bytes

    @property
    def tile_ring_words(self) -> int:
        """Words of ``ring_read_bytes`` codes in one stationary tile of ``depth`` rows of ``width``
        codes: of the ring, if these have eight bits."""
        return self.depth * self.width // self.ring_read_bytes

    def segment_tile_words(self, source: int) -> int:
        """Ring words of one tile of a MATMUL whose stationary operand is ``source``."""
        halves = source == isa.Stationary.RING4
        return self.tile_ring_words // 2 if halves else self.tile_ring_words

    @property
    def parameter_ring_words(self) -> int:
        """Ring words of one parameter block: an entry for each of ``width`` columns."""
        return -(-PARAMETER_BYTES * self.width // self.ring_read_bytes)

    @property
    def parameter_blocks(self) -> int:
        """Parameter blocks that the vector unit buffers, the most n-tiles of a group that uses
        them: enough for the logits of ``max_experts`` experts."""
        return max(4, -(-self.max_experts // self.width))

    @property
    def output_line_bytes(self) -> int:
        """Bytes that all output ports take per cycle at peak."""
        return self.output_ports * self.data_port_bytes

    @property
    def chunks(self) -> int:
        """Lane groups in one accumulator row."""
        return self.width // self.lanes

    @property
    def router_slots(self) -> int:
        """Logits of a token that the router has room for, padded so that its lanes are full."""
        return max(ROUTER_LANES, self.max_experts)

    @property
    def rank_distances(self) -> int:
        """Logits that the router compares each logit of a token with, per cycle.

        More where more logits arrive per cycle; comparators and their wires grow with it.
        """
        return min(4, max(1, self.lanes // 8))

    @property
    def rank_cycles(self) -> int:
        """Cycles in which the router compares all logits of a token with each other."""
        return self.router_slots // 2 // self.rank_distances

    @property
    def axi_cache(self) -> int:
        """AxCACHE of every transfer.

        Normal, non-cacheable, bufferable: the interconnect may merge and hold transfers. Or
        write-back with allocation: ports that can snoop do so if one of the upper two bits is set
        (UG1085, "APU Coherent Interfaces"), and this is one of the two pairs that AMD has tested
        (answer record 69446).
        """
        return 0b1111 if self.coherent else 0b0011

    @property
    def axi_prot(self) -> int:
        """AxPROT of every transfer: data, unprivileged, and non-secure unless ``secure``.

        Linux on Zynq UltraScale+ is non-secure. A snoop finds a line only if its security is that
        of the transfer (answer record 69446), and protection units refuse nobody non-secure
        memory. On Zynq-7000 all memory is secure after reset (register TZ_DDR_RAM of UG585), and
        a non-secure transfer gets an error.
        """
        return 0b000 if self.secure else 0b010

    # Serialisation.

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, object]) -> ArchConfig:
        """Inverse of :meth:`to_dict`; fields that have a default may be left out.

        Raises
        ------
        UserError
            ``fields`` is no dictionary, a field is unknown or missing or breaks its rule.
        """
        if not isinstance(fields, dict):
            raise UserError(f"ArchConfig must be an object with fields, not {_shown(fields)}")
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        if unknown := [name for name in fields if name not in known]:
            near = difflib.get_close_matches(str(unknown[0]), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"ArchConfig has no field {_shown(unknown[0])}{hint}")
        needed = [name for name, default in known.items() if default is dataclasses.MISSING]
        if missing := [name for name in needed if name not in fields]:
            raise UserError(
                f"ArchConfig is incomplete: it has no {', '.join(missing)}; begin with what"
                " `moesaic targets --show nano` prints"
            )
        return cls(**fields)  # type: ignore[arg-type]

    @property
    def hash(self) -> int:
        """32-bit identity of the architecture, readable in hardware as ARCH_HASH.

        Covers every field that changes what the gateware does or the file formats, not the labels
        (nor with ``device`` how products are cut), and the version of the instruction set: equal
        hashes mean that a bundle runs. What a target leaves out of :data:`LATER` is not in it.
        """
        fields = {k: v for k, v in self.to_dict().items() if k not in ("name", "device")}
        for name in LATER:
            if not fields[name]:
                del fields[name]
        text = json.dumps({"isa": isa.ISA_VERSION, **fields}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
