"""The architecture configuration: one frozen object sizes gateware, compiler and simulator."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from moesaic.spec.errors import UserError

ADDRESS_BITS = 40
"""Byte address width of every AXI4 master (the Zynq UltraScale+ physical address space)."""

ACCUMULATOR_BANKS = 2
"""Banks of accumulators: one is filled while the other one drains."""


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """Sizes of one accelerator. Everything derived (widths, depths, file formats) comes from here.

    Attributes
    ----------
    name
        Label for file names and messages; not part of the hash.
    depth
        Rows of the array: int8 products summed per column and cycle. Also the bytes of one
        activation word. Power of two, 8 to 128.
    width
        Columns of the array: outputs accumulated per cycle. ``depth`` times a power of two.
    packed
        Two products in one DSP48E2: ``((w1 << 18) + w2) * x`` with borrow correction.
    lanes
        Accumulators the vector unit drains per cycle. Power of two, at most ``depth``.
    accumulator_rows
        Rows of ``width`` int32 accumulators in each of the two banks. Power of two.
    activation_bytes
        int8 activation scratchpad, bytes; split into ``activation_banks``.
    activation_banks
        Separately ported banks of the activation scratchpad. Power of two.
    residual_bytes
        int16 residual-stream scratchpad, bytes.
    weight_ports
        AXI4 read masters of the weight stream. Power of two.
    weight_port_bytes
        Data bytes per beat of each weight port. Power of two, 4 to 64.
    ring_read_bytes
        Bytes per word of the weight ring: read per cycle. At least ``width`` and at least one
        line (``weight_ports * weight_port_bytes``).
    ring_bytes
        Capacity of the weight ring: how far weights can be prefetched.
    data_port_bytes
        Data bytes per beat of the data master (program, inputs, outputs). 16 by default.
    output_ports
        Ports that share the outputs, each an equal part of every chunk: the data master, and the
        write channels of weight ports 1, 2, ... Power of two, at most ``weight_ports``.
    max_tokens
        Rows the router's expert queues hold for each expert. Power of two.
    max_experts
        Experts the router can index. Power of two, at most 64.
    queue_depth
        Instructions waiting in front of each unit. Power of two.
    device
        FPGA part the preset is meant for (documentation and reports only).
    """

    name: str
    depth: int
    width: int
    packed: bool = False
    lanes: int
    accumulator_rows: int
    activation_bytes: int
    activation_banks: int = 2
    residual_bytes: int
    weight_ports: int
    weight_port_bytes: int = 16
    ring_read_bytes: int
    ring_bytes: int
    data_port_bytes: int = 16
    output_ports: int = 1
    max_tokens: int
    max_experts: int
    queue_depth: int = 16
    device: str = "any"

    def __post_init__(self) -> None:
        powers = (
            "depth lanes accumulator_rows activation_bytes activation_banks residual_bytes"
            " weight_ports weight_port_bytes ring_read_bytes ring_bytes data_port_bytes"
            " output_ports max_tokens max_experts queue_depth"
        ).split()
        for field in powers:
            value = getattr(self, field)
            if not isinstance(value, int) or not _is_power_of_two(value):
                raise UserError(f"ArchConfig {field} must be a power of two, not {value!r}")
        self._require(8 <= self.depth <= 128, "depth must be 8 to 128", self.depth)
        self._require(
            self.width % self.depth == 0 and _is_power_of_two(self.width // self.depth),
            f"width must be depth ({self.depth}) times a power of two",
            self.width,
        )
        self._require(
            4 <= self.lanes <= self.depth, f"lanes must be 4 to depth {self.depth}", self.lanes
        )
        self._require(
            self.ring_read_bytes >= self.width,
            f"ring_read_bytes must be at least width {self.width}",
            self.ring_read_bytes,
        )
        self._require(
            self.ring_read_bytes >= self.line_bytes,
            f"ring_read_bytes must be at least one line of {self.line_bytes}",
            self.ring_read_bytes,
        )
        self._require(
            self.ring_read_bytes <= self.depth * self.width,
            f"ring_read_bytes must be at most one tile of {self.depth * self.width}",
            self.ring_read_bytes,
        )
        self._require(
            self.ring_bytes >= 16 * self.ring_read_bytes,
            f"ring_bytes must be at least {16 * self.ring_read_bytes}",
            self.ring_bytes,
        )
        self._require(
            4 <= self.weight_port_bytes <= 64,
            "weight_port_bytes must be 4 to 64",
            self.weight_port_bytes,
        )
        widest = min(self.depth, 2 * self.lanes, 32)  # 32: an instruction has no less than a beat
        self._require(
            4 <= self.data_port_bytes <= widest,
            f"data_port_bytes must be 4 to {widest}",
            self.data_port_bytes,
        )
        most = min(self.weight_ports, 2 * self.lanes // self.data_port_bytes)
        self._require(
            self.output_ports <= most, f"output_ports must be at most {most}", self.output_ports
        )
        self._require(
            self.output_ports == 1 or self.weight_port_bytes == self.data_port_bytes,
            f"weight_port_bytes must be data_port_bytes {self.data_port_bytes} with output_ports",
            self.weight_port_bytes,
        )
        self._require(self.max_experts <= 64, "max_experts must be at most 64", self.max_experts)
        self._require(self.max_tokens <= 4096, "max_tokens must be at most 4096", self.max_tokens)
        self._require(
            self.activation_words <= 1 << 20, "activation_bytes too large", self.activation_bytes
        )

    def _require(self, condition: bool, rule: str, value: object) -> None:
        if not condition:
            raise UserError(f"ArchConfig {rule}, not {value!r}")

    # Derived sizes: computed here and nowhere else.

    @property
    def macs_per_cycle(self) -> int:
        return self.depth * self.width

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
        """Ring words of one stationary tile of ``depth`` rows of ``width`` bytes."""
        return self.depth * self.width // self.ring_read_bytes

    @property
    def parameter_ring_words(self) -> int:
        """Ring words of one parameter block: 8 bytes for each of ``width`` columns."""
        return -(-8 * self.width // self.ring_read_bytes)

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

    # Serialisation.

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, object]) -> ArchConfig:
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise UserError(f"ArchConfig has no field {unknown[0]!r}")
        try:
            return cls(**fields)  # type: ignore[arg-type]
        except TypeError as error:
            raise UserError(f"ArchConfig is incomplete: {error}") from error

    @property
    def hash(self) -> int:
        """32-bit identity of the architecture, readable in hardware as ARCH_HASH.

        Covers every field that changes the gateware or the file formats, not the labels, and
        the version of the instruction set: equal hashes mean that a bundle runs.
        """
        from moesaic.spec.isa import ISA_VERSION

        fields = {k: v for k, v in self.to_dict().items() if k not in ("name", "device")}
        text = json.dumps({"isa": ISA_VERSION, **fields}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


PRESETS: dict[str, ArchConfig] = {
    config.name: config
    for config in (
        ArchConfig(
            name="nano",
            depth=16,
            width=16,
            lanes=16,
            accumulator_rows=512,
            activation_bytes=64 << 10,
            residual_bytes=16 << 10,
            weight_ports=2,
            ring_read_bytes=32,
            ring_bytes=64 << 10,
            max_tokens=128,
            max_experts=16,
            device="tests and small parts",
        ),
        ArchConfig(
            name="zcu102-lite",
            depth=32,
            width=32,
            lanes=32,
            accumulator_rows=1024,
            activation_bytes=256 << 10,
            residual_bytes=64 << 10,
            weight_ports=4,
            ring_read_bytes=256,
            ring_bytes=512 << 10,
            max_tokens=256,
            max_experts=16,
            device="xczu9eg-ffvb1156-2-e",
        ),
        ArchConfig(
            name="zcu102",
            depth=64,
            width=64,
            packed=True,
            lanes=32,
            accumulator_rows=512,
            activation_bytes=256 << 10,
            residual_bytes=64 << 10,
            weight_ports=4,
            ring_read_bytes=256,
            ring_bytes=2 << 20,
            output_ports=4,
            max_tokens=256,
            max_experts=16,
            device="xczu9eg-ffvb1156-2-e",
        ),
    )
}


def load_arch(name_or_path: str) -> ArchConfig:
    """Return a preset by name or an ArchConfig from a JSON file.

    Raises
    ------
    UserError
        The name is no preset and no readable JSON file, or a field breaks its rule.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    if name_or_path.endswith(".json"):
        try:
            with open(name_or_path, encoding="utf-8") as file:
                fields = json.load(file)
        except (OSError, ValueError) as error:
            raise UserError(f"target file {name_or_path} cannot be read: {error}") from error
        if not isinstance(fields, dict):
            raise UserError(f"target file {name_or_path} must hold a JSON object")
        return ArchConfig.from_dict(fields)
    presets = ", ".join(sorted(PRESETS))
    raise UserError(
        f"unknown target {name_or_path!r}; use one of {presets}, or a .json file with the fields"
        " of ArchConfig"
    )
