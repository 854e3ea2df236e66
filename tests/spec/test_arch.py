"""Every rule of the architecture from both sides: the last value taken, the next one refused."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from moesaic.spec import arch as arch_module
from moesaic.spec import isa, registers
from moesaic.spec.arch import LATER, MAX_EXPERTS, MAX_TOKENS, MULTIPLES, ArchConfig
from moesaic.spec.errors import UserError
from moesaic.spec.isa import Opcode
from moesaic.spec.presets import PRESETS

NUMBERS = [field.name for field in dataclasses.fields(ArchConfig) if field.type == "int"]
SMALL = dict(
    name="small",
    depth=8,
    width=8,
    lanes=4,
    accumulator_rows=1,
    activation_bytes=16,
    residual_bytes=8,
    weight_ports=1,
    weight_port_bytes=4,
    ring_read_bytes=8,
    ring_bytes=128,
    data_port_bytes=4,
    max_tokens=1,
    max_experts=1,
    queue_depth=1,
    max_burst=2,
)
"""Nothing in it can be halved."""
LARGE = dict(
    name="large",
    depth=128,
    width=256,
    lanes=128,
    accumulator_rows=1 << 14,
    activation_bytes=1 << 26,
    activation_banks=16,
    residual_bytes=1 << 26,
    weight_ports=8,
    weight_port_bytes=64,
    ring_read_bytes=1 << 15,
    ring_bytes=1 << 26,
    data_port_bytes=32,
    max_tokens=4096,
    max_experts=64,
    queue_depth=1024,
    max_burst=64,
)
"""Nothing in it can be doubled."""


def refusal(**fields: Any) -> str:
    """The one sentence with which an architecture is refused."""
    with pytest.raises(UserError) as caught:
        ArchConfig(**fields)
    message = str(caught.value)
    assert message.startswith("ArchConfig ") and "\n" not in message and len(message) < 250
    return message


def test_the_smallest_and_the_largest_architecture_are_taken() -> None:
    assert ArchConfig(**SMALL).activation_words == 2
    assert ArchConfig(**LARGE).macs_per_cycle == 1 << 15


# Beyond some limits another field is in the way first: what must change along with it.
ALONG: dict[str, dict[str, Any]] = {
    "output_ports": {"weight_port_bytes": 16, "data_port_bytes": 16, "output_ports": 8},
}


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - {"activation_banks", "output_ports"}))
def test_half_of_the_smallest_is_refused(name: str) -> None:
    value = SMALL[name] // 2
    message = refusal(**{**SMALL, name: value})
    assert message.startswith(f"ArchConfig {name} must be ") and message.endswith(f"not {value}")


@pytest.mark.parametrize("name", NUMBERS)
def test_twice_the_largest_is_refused(name: str) -> None:
    start = {**LARGE, **ALONG.get(name, {})}
    ArchConfig(**start)
    value = 2 * start.get(name, 1)
    message = refusal(**{**start, name: value})
    assert message.startswith(f"ArchConfig {name} must be ") and message.endswith(f"not {value}")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [24, 0, -8, 16.0, True, False, "16", None, [16], float("nan")])
def test_what_is_no_power_of_two_is_refused(name: str, value: object) -> None:
    message = refusal(**{**LARGE, name: value})
    if name not in MULTIPLES:
        assert message == f"ArchConfig {name} must be a power of two, not {value!r}"
    elif value != 24:
        assert message == f"ArchConfig {name} must be a positive integer, not {value!r}"


def test_a_huge_value_is_refused_in_few_words() -> None:
    for value in (1 << 200, 1 << 100_000, -(1 << 100_000), "1" * 100_000, list(range(100_000))):
        assert "ring_bytes" in refusal(**{**SMALL, "ring_bytes": value})
    assert refusal(**{**SMALL, "ring_bytes": 1 << 128}).endswith("not a number of 129 bits")


PAIRS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # accepted, change that is refused, what the refusal says
    ({"lanes": 8, "residual_bytes": 32}, {"lanes": 16}, "lanes must be at most depth 8, not 16"),
    ({"depth": 16, "width": 16, "activation_bytes": 32, "ring_read_bytes": 16, "ring_bytes": 256},
     {"width": 8}, "width must be 16 to 2048 with depth 16, not 8"),
    ({"depth": 32, "width": 1024, "activation_bytes": 64, "ring_read_bytes": 1024,
      "ring_bytes": 1 << 14}, {"width": 2048}, "width must be 8 to 1024, not 2048"),
    ({"depth": 64, "width": 512, "activation_bytes": 128, "ring_read_bytes": 1024,
      "ring_bytes": 1 << 14}, {"width": 1024}, "width must be 64 to 512 with depth 64, not 1024"),
    ({"width": 16, "ring_read_bytes": 16, "ring_bytes": 256},
     {"ring_read_bytes": 8}, r"ring_read_bytes must be 16 to 128: .* not 8"),
    ({"weight_ports": 4, "ring_read_bytes": 16, "ring_bytes": 256},
     {"ring_read_bytes": 8}, r"ring_read_bytes must be 16 to 64: .* not 8"),
    ({"ring_read_bytes": 64, "ring_bytes": 1024},
     {"ring_read_bytes": 128, "ring_bytes": 2048}, r"ring_read_bytes must be 8 to 64: .* not 128"),
    ({"chunk_pairs": True}, {"lanes": 8, "residual_bytes": 16},
     "lanes must be at most 4 with chunk_pairs, half of depth, not 8"),
    ({"ring_read_bytes": 32, "ring_bytes": 1024, "four_bit_weights": True},
     {"ring_read_bytes": 64},
     "ring_read_bytes must be 8 to 32 with four_bit_weights: at most half a tile, not 64"),
    ({"ring_read_bytes": 64, "ring_bytes": 1024}, {"ring_bytes": 512},
     "ring_bytes must be at least 1024, 16 times ring_read_bytes, not 512"),
    ({"activation_bytes": 8 << 20}, {"activation_bytes": 16 << 20},
     r"activation_bytes must be 16 to 8388608 with depth 8 .* not 16777216"),
    ({"activation_banks": 4, "activation_bytes": 32}, {"activation_bytes": 16},
     r"activation_bytes must be 32 to 8388608 with depth 8 and activation_banks 4, not 16"),
    ({"activation_banks": 3, "activation_bytes": 48}, {"activation_bytes": 64},
     "activation_bytes must be a power of two for each of 3 activation_banks, not 64"),
    ({"activation_banks": 3, "activation_bytes": 48}, {"activation_bytes": 72},
     "activation_bytes must be a power of two for each of 3 activation_banks, not 72"),
    ({"residual_bytes": 40}, {"residual_bytes": 44},
     "residual_bytes must be a multiple of 8 with lanes 4, not 44"),
    ({"residual_bytes": 8 << 20}, {"residual_bytes": 16 << 20},
     "residual_bytes must be 8 to 8388608 with lanes 4, not 16777216"),
    ({"lanes": 8, "residual_bytes": 16}, {"residual_bytes": 8},
     r"residual_bytes must be 16 to 16777216 with lanes 8, not 8"),
    ({"data_port_bytes": 8}, {"data_port_bytes": 16},
     "data_port_bytes must be at most 8, .* not 16"),
    ({"lanes": 8, "data_port_bytes": 8, "residual_bytes": 16}, {"data_port_bytes": 16},
     "data_port_bytes must be at most 8, a word of either scratchpad, not 16"),
    ({"weight_ports": 2, "output_ports": 2}, {"output_ports": 4},
     "output_ports must be at most 2: there are 2 weight_ports, .* not 4"),
    ({"weight_ports": 4, "output_ports": 2, "ring_read_bytes": 16, "ring_bytes": 256},
     {"output_ports": 4}, "output_ports must be at most 2: there are 4 weight_ports, .* not 4"),
    ({"weight_ports": 2, "output_ports": 2},
     {"weight_port_bytes": 8, "ring_read_bytes": 16, "ring_bytes": 256},
     "weight_port_bytes must be data_port_bytes 4 with output_ports, not 8"),
    ({"max_burst": 256, "weight_port_bytes": 8, "data_port_bytes": 8}, {"max_burst": 512},
     "max_burst must be 2 to 256, not 512"),
    ({"max_burst": 256, "weight_port_bytes": 16, "ring_read_bytes": 16, "ring_bytes": 256},
     {"weight_port_bytes": 32, "ring_read_bytes": 32, "ring_bytes": 512},
     "max_burst must be at most 128: with weight_port_bytes 32 a longer one exceeds 4096 bytes,"
     " not 256"),
    ({"max_burst": 256, "depth": 32, "width": 32, "lanes": 32, "activation_bytes": 64,
      "residual_bytes": 64, "ring_read_bytes": 32, "ring_bytes": 512, "data_port_bytes": 16},
     {"data_port_bytes": 32},
     "max_burst must be at most 128: with data_port_bytes 32 a longer one exceeds 4096 bytes,"
     " not 256"),
    ({"weight_port_bytes": 8}, {"weight_ports": 2, "weight_port_bytes": 8},
     "ring_read_bytes must be 16 to 64: .* not 8"),
]  # fmt: skip


@pytest.mark.parametrize("good, change, rule", PAIRS)
def test_rules_between_fields(good: dict[str, Any], change: dict[str, Any], rule: str) -> None:
    ArchConfig(**{**SMALL, **good})
    assert re.fullmatch(f"ArchConfig {rule}", refusal(**{**SMALL, **good, **change}))


@pytest.mark.parametrize("name", ["a", "x" * 64, "zcu102-lite", "A.b_c-1"])
def test_names_that_make_file_names_are_taken(name: str) -> None:
    assert ArchConfig(**{**SMALL, "name": name}).name == name


@pytest.mark.parametrize("name", ["", "x" * 65, "../x", "a/b", ".x", "a b", "a\n", "ü", 3, None])
def test_other_names_are_refused(name: object) -> None:
    assert "name must be 1 to 64 letters" in refusal(**{**SMALL, "name": name})


@pytest.mark.parametrize(
    "field, value, rule",
    [
        ("packed", 1, "packed must be true or false, not 1"),
        ("packed", "yes", "packed must be true or false, not 'yes'"),
        ("coherent", 0, "coherent must be true or false, not 0"),
        ("secure", None, "secure must be true or false, not None"),
        ("device", None, "device must be a string, not None"),
        ("device", 7, "device must be a string, not 7"),
    ],
)
def test_labels_and_flags_have_their_types(field: str, value: object, rule: str) -> None:
    assert refusal(**{**SMALL, field: value}) == f"ArchConfig {rule}"


def test_limits_are_those_of_the_instruction_set_and_the_register_map() -> None:
    assert isa.width(Opcode.ROUTE, "rows") == MAX_TOKENS.bit_length() - 1
    for opcode, name in ((Opcode.MATMUL, "rows"), (Opcode.DRAIN, "rows"), (Opcode.NORM, "rows")):
        assert MAX_TOKENS <= 1 << isa.width(opcode, name)
    for opcode in (Opcode.STREAM, Opcode.MATMUL, Opcode.DRAIN):
        assert 1 << isa.width(opcode, "expert") == MAX_EXPERTS
    assert MAX_EXPERTS < 1 << isa.width(Opcode.ROUTE, "experts")
    words = {
        Opcode.MATMUL: ("stream_base", "stationary_base"),
        Opcode.DRAIN: ("base",),
        Opcode.NORM: ("base", "source_base"),
        Opcode.LOAD: ("base",),
    }
    most = max(ArchConfig(**{**SMALL, "activation_bytes": 8 << 20}).activation_words, 1 << 20)
    for opcode, names in words.items():
        for name in names:
            assert most <= 1 << isa.width(opcode, name)
    limits = arch_module.LIMITS
    assert limits["weight_ports"][1] == registers.MAX_WEIGHT_PORTS
    assert limits["output_ports"][1] == registers.MAX_OUTPUT_PORTS
    assert set(limits) == set(NUMBERS)


@pytest.mark.parametrize("arch", PRESETS.values(), ids=PRESETS)
def test_derived_sizes_fill_what_they_divide(arch: ArchConfig) -> None:
    assert arch.macs_per_cycle == arch.depth * arch.width
    assert arch.line_bytes == arch.weight_ports * arch.weight_port_bytes
    assert arch.activation_words * arch.depth == arch.activation_bytes
    assert arch.residual_words * arch.lanes * 2 == arch.residual_bytes
    assert arch.ring_words * arch.ring_read_bytes == arch.ring_bytes
    assert arch.tile_ring_words * arch.ring_read_bytes == arch.depth * arch.width
    assert 8 * arch.width <= arch.parameter_ring_words * arch.ring_read_bytes
    assert (arch.parameter_ring_words - 1) * arch.ring_read_bytes < 8 * arch.width
    assert arch.output_line_bytes == arch.output_ports * arch.data_port_bytes
    assert arch.chunks * arch.lanes == arch.width


def test_parameter_block_of_more_columns_takes_more_ring_words() -> None:
    def ring_words(width: int, ring_read_bytes: int) -> int:
        sizes = {"width": width, "ring_read_bytes": ring_read_bytes, "ring_bytes": 1 << 15}
        return ArchConfig(**{**SMALL, **sizes}).parameter_ring_words

    assert [ring_words(8, read) for read in (8, 32, 64)] == [8, 2, 1]
    assert [ring_words(16, read) for read in (16, 64, 128)] == [8, 2, 1]


def test_what_a_target_leaves_out_of_later_features_is_not_in_its_hash() -> None:
    """Bitstreams and bundles from before there was the feature are those of the target."""
    assert ArchConfig(**SMALL).hash == 0xD41ACFB5
    for name in LATER:
        assert dataclasses.replace(ArchConfig(**SMALL), **{name: True}).hash != 0xD41ACFB5


def test_hash_covers_every_field_but_the_labels() -> None:
    base = ArchConfig(
        **{**LARGE, "output_ports": 2, "weight_port_bytes": 32, "ring_read_bytes": 1 << 14}
    )
    assert dataclasses.replace(base, name="other", device="other").hash == base.hash
    halved = {n: getattr(base, n) // 2 for n in NUMBERS}
    halved |= {"depth": 64, "width": 128, "packed": True, "lanes": 64, "data_port_bytes": 16}
    halved |= {"coherent": True, "secure": True, "four_bit_weights": True}
    seen = {base.hash}
    assert all(0 < arch.hash < 1 << 32 for arch in (base, *PRESETS.values()))
    for name, value in halved.items():
        change = {name: value}
        if name in ("depth", "data_port_bytes", "weight_port_bytes"):  # they go together
            change |= {"lanes": 64} if name == "depth" else {"output_ports": 1}
        seen.add(dataclasses.replace(base, **change).hash)
    assert len(seen) == 1 + len(halved)
