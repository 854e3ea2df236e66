"""The float kernels and their tables against the integer semantics, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moesaic.spec import kernels, prepared, semantics, tables
from moesaic.spec.activations import ACTIVATIONS, choose_step, tabulate
from moesaic.spec.formats import INT16_LARGEST
from moesaic.spec.intgraph import IntActivation, IntAttention, IntLinear, IntMlp, IntNorm, Scale
from moesaic.spec.precision import exact_float32
from tests.compiler.random_intgraph import Shape, random_intgraph

CPU = torch.device("cpu")
ALL_Z = torch.arange(
    -(1 << tables.ACTIVATION_INPUT_BITS - 1), 1 << tables.ACTIVATION_INPUT_BITS - 1
)
scales = st.builds(Scale, st.integers(0, 65535), st.integers(0, 63))


def equal(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and bool((got.long() == want).all())


def exact_linear(x: Tensor, linear: IntLinear, bits: int) -> Tensor:
    bias, multiplier, shift = (
        torch.tensor(part.astype(np.int64))
        for part in (linear.bias, linear.multiplier, linear.shift)
    )
    sums = x @ torch.tensor(linear.weight.astype(np.int64)).T + bias
    return semantics.requantise(sums, multiplier, shift, bits)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([8, 16, 18, 24]))
def test_linear_equals_semantics(seed: int, inputs: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    linear = IntLinear(
        rng.integers(-128, 128, (9, inputs)).astype(np.int8),
        rng.integers(-(1 << 31), 1 << 31, 9).astype(np.int32),
        rng.integers(0, 65536, 9).astype(np.uint16),
        rng.integers(0, 64, 9).astype(np.uint8),
    )
    x = torch.tensor(rng.integers(-128, 128, (2, 3, inputs)))
    got = prepared.Linear([linear], bits, CPU)(x.float())
    assert equal(got, exact_linear(x, linear, bits))


@pytest.mark.parametrize("shift", [1, 2, 20, 46, 47, 48, 51, 52, 53, 54, 63])
def test_linear_rounds_halves_up_at_every_shift(shift: int) -> None:
    """Products on, just below and just above a half: where a rounded float would go wrong."""
    half = 1 << min(shift - 1, 46)
    bias = np.array([half >> 15, -(half >> 15), (half >> 15) - 1, (1 << 31) - 1], np.int64)
    linear = IntLinear(
        np.ones((4, 1), np.int8),
        bias.clip(-(1 << 31), (1 << 31) - 1).astype(np.int32),
        np.array([32768, 32768, 32769, 65535], np.uint16),
        np.full(4, shift, np.uint8),
    )
    x = torch.tensor([[0], [1], [-1]])
    assert equal(prepared.Linear([linear], 24, CPU)(x.float()), exact_linear(x, linear, 24))


@pytest.mark.parametrize(("inputs", "dtype"), [(1032, torch.float32), (1041, torch.float64)])
def test_sums_beyond_24_bits_are_added_in_float64(inputs: int, dtype: torch.dtype) -> None:
    """127 * 128 * 1032 is just below 2**24, 127 * 127 * 1041 is odd and above."""
    one, zero = np.ones(1, np.uint16), np.zeros(1, np.uint8)
    bias = np.array([-(1 << 24)], np.int32)
    linear = IntLinear(np.full((1, inputs), 127, np.int8), bias, one, zero)
    x = torch.full((1, inputs), 127)
    layer = prepared.Linear([linear], 24, CPU)
    assert layer.dtype == dtype
    assert layer(x.float()).item() == 127 * 127 * inputs - (1 << 24)
    if dtype == torch.float64:
        single = x.float() @ torch.full((inputs, 1), 127.0)
        assert single.item() != 127 * 127 * inputs, "float32 would have been exact here"


def activation(name: str) -> IntActivation:
    """For the finest step that holds its function."""
    return IntActivation.of(tabulate(name, choose_step(name, 4.0)))


def fine(function: IntActivation) -> Tensor:
    above, below = (
        torch.tensor(p, dtype=torch.int64) for p in (function.positive, function.negative)
    )
    return semantics.activation_fine(ALL_Z, above, below, function.linear)


@settings(max_examples=15, deadline=None)
@given(scales, st.integers(0, 255), st.sampled_from(sorted(ACTIVATIONS)))
def test_code_table_equals_semantics_everywhere(scale: Scale, offset: int, name: str) -> None:
    first, table = prepared.code_table(activation(name), scale, offset)
    got = table[(ALL_Z - first).clamp(0, len(table) - 1)]
    want = semantics.hidden_code(fine(activation(name)), scale.multiplier, scale.shift, offset)
    assert equal(got, want)


@pytest.mark.parametrize("factor", [0.0, 2.0**-14, 0.004, 0.9, 5.0, 40000.0])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", ["gelu", "silu", "squared_relu"])
def test_hidden_rows_equal_semantics_everywhere(factor: float, wide: bool, name: str) -> None:
    """Every pre-activation, through a layer up that passes it on."""
    scale, one = Scale.of(factor), np.ones(1, np.uint16)
    up = IntLinear(np.ones((1, 1), np.int8), np.zeros(1, np.int32), one, np.zeros(1, np.uint8))
    function = activation(name)
    mlp = prepared.Mlp(IntMlp(up, function, scale, up, 0 if wide else 9, wide), CPU, INT16_LARGEST)
    scaled = fine(function), scale.multiplier, scale.shift
    want = semantics.hidden_wide(*scaled) if wide else semantics.hidden_code(*scaled, 9)
    with exact_float32(CPU):
        assert equal(mlp.hidden(ALL_Z[:, None].float())[:, 0], want)


@pytest.mark.parametrize("factor", [0.0, 2.0**-14, 255 / 2.0 / 16384, 255 / 32 / 16384, 300.0])
@pytest.mark.parametrize("offset", [0, 15, 255])
def test_code_table_of_usual_and_extreme_scales(factor: float, offset: int) -> None:
    scale, function = Scale.of(factor), activation("gelu")
    first, table = prepared.code_table(function, scale, offset)
    got = table[(ALL_Z - first).clamp(0, len(table) - 1)]
    want = semantics.hidden_code(fine(function), scale.multiplier, scale.shift, offset)
    assert equal(got, want)


@pytest.mark.parametrize("wide", [0, 1, 2])
@pytest.mark.parametrize("shift", [0, 3, 20, 63])
def test_pairs_equal_semantics(wide: int, shift: int) -> None:
    """Of random pre-activations and factors, beyond both saturations too."""
    generator = torch.Generator().manual_seed(wide + shift)
    rows = torch.randint(-32768, 32768, (4096, 4), generator=generator)
    one, zero = np.ones(4, np.uint16), np.zeros(4, np.uint8)
    weight = np.diag(np.array([4, -5, 1, 2], np.int8))
    up = IntLinear(weight, np.zeros(4, np.int32), one, zero)
    down = IntLinear(np.ones((1, 2), np.int8), np.zeros(1, np.int32), one[:1], zero[:1])
    offset, function = 0 if wide == 2 else 128, activation("silu")
    layer = IntMlp(up, function, Scale(1, shift), down, offset, wide, paired=True)
    sums = rows * torch.tensor([4, -5, 1, 2])
    z, factor = semantics.saturate(sums[:, :2], 18), semantics.saturate(sums[:, 2:], 16)
    active = fine(function)[z + (1 << 17)]
    want = semantics.hidden_code(active, factor, shift, offset)
    want[:, :wide] = semantics.hidden_wide(active, factor, shift)[:, :wide]
    with exact_float32(CPU):
        got = prepared.Mlp(layer, CPU, INT16_LARGEST).hidden(rows.float())
    assert equal(got, want)


@settings(max_examples=40, deadline=None)
@given(scales, st.integers(1, 1 << 17))
def test_numerator_table_equals_semantics_everywhere(scale: Scale, largest: int) -> None:
    table = prepared.numerator_table(scale, largest)
    distance = torch.arange(largest + 1)
    want = semantics.softmax_fine(distance, scale.multiplier, scale.shift)
    assert len(table) <= largest + 1
    assert equal(table[distance.clamp(max=len(table) - 1)], want)


def test_numerator_table_ends_where_numerators_do() -> None:
    table = prepared.numerator_table(Scale.of(0.1), 1 << 20)
    assert table[0] == 255 * 256 and table[-1] == 0 and table[-2] == 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 24, 192, 1536]),
    st.sampled_from([0, 1, 40, 9000, 32768]),
    st.integers(0, 10**12),
    scales,
)
def test_layer_norm_equals_semantics(
    seed: int, channels: int, spread: int, epsilon: int, scale: Scale
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-32768, 32768, (2, 3, 1)) + rng.integers(-spread, spread + 1, channels)
    x = torch.tensor(rows.clip(-32768, 32767))
    got = kernels.layer_norm(x.double(), IntNorm(channels, epsilon, scale))
    want = semantics.layer_norm(x, channels, epsilon, scale.multiplier, scale.shift)
    assert equal(got[0], want[0]) and equal(got[1], want[1])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 24, 192, 1536, 8191]),
    st.sampled_from([1, 40, 9000, 32768]),
    scales,
)
def test_plain_rows_equal_semantics(seed: int, channels: int, spread: int, scale: Scale) -> None:
    x = torch.tensor(np.random.default_rng(seed).integers(-spread, spread, (2, 3, channels)))
    got = kernels.layer_norm(x.double(), IntNorm(channels, 0, scale, plain=True))
    want = semantics.plain_rows(x, channels, scale.multiplier, scale.shift)
    assert equal(got[0], want[0]) and equal(got[1], want[1])


def test_plain_rows_in_their_own_step_are_the_rows() -> None:
    x = torch.arange(-(1 << 15), 1 << 15).reshape(-1, 64)
    scale = Scale.of(1 / 64)
    narrow, wide = semantics.plain_rows(x, 64, scale.multiplier, scale.shift)
    assert torch.equal(wide, x) and torch.equal(narrow, ((x + 128) >> 8).clamp(max=127))


@pytest.mark.parametrize("spread", [3, 1000, 32768])
def test_layer_norm_of_usual_scales_equals_semantics(spread: int) -> None:
    generator = torch.Generator().manual_seed(spread)
    x = torch.randint(-spread, spread, (50, 192), generator=generator)
    for scale in (Scale.of(8000.0), Scale.of(300.0), Scale.of(60000.0)):
        got = kernels.layer_norm(x.double(), IntNorm(192, 7, scale))
        want = semantics.layer_norm(x, 192, 7, scale.multiplier, scale.shift)
        assert equal(got[0], want[0]) and equal(got[1], want[1])
        assert len(want[1].unique()) > 100


@given(st.integers(-32768, 32767), st.integers(-(1 << 23), (1 << 23) - 1), st.integers(0, 1 << 15))
def test_residual_add_equals_semantics(residual: int, addend: int, weight: int) -> None:
    x, y, w = (torch.tensor([value]) for value in (residual, addend, weight))
    got = kernels.residual_add(x.double(), y.double(), w.double() * 2.0**-23)
    assert equal(got, semantics.residual_add(x, y, weight))


def test_power_of_half_is_exact() -> None:
    got = kernels.power_of_half(torch.arange(1023))
    assert got.tolist() == [2.0**-i for i in range(1023)]


@pytest.mark.parametrize("tokens", [1, 70, 600])
def test_attention_equals_semantics(tokens: int) -> None:
    layer = random_intgraph(Shape(tokens=tokens, patches=tokens)).layers[0]
    assert isinstance(layer, IntAttention)
    attention = prepared.Attention(layer, tokens, CPU)
    generator = torch.Generator().manual_seed(tokens)
    query, key, value = torch.randint(-128, 128, (3, 2, 3, tokens, 8), generator=generator)
    probability, attended = attention.attend(query.double(), key.double(), value.double())
    softmax, scale = layer.softmax, layer.scale
    for frame in range(2):
        for head in range(3):
            scores = semantics.matmul(query[frame, head], key[frame, head])
            want, sums = semantics.softmax(scores, softmax.multiplier, softmax.shift)
            assert equal(probability[frame, head], want)
            product = semantics.matmul(want, value[frame, head].T)
            m, s = semantics.attention_scale(sums, scale.multiplier, scale.shift)
            rows = semantics.requantise(product, m[:, None], s[:, None], 8)
            assert equal(attended[frame, :, 8 * head : 8 * head + 8], rows)


def test_lower_precision_is_off_inside_and_back_afterwards() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with exact_float32(CPU):
            with exact_float32(CPU):
                pass
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)


def test_autocast_does_not_reach_exact_products() -> None:
    x = torch.full((4, 300), 127.0)
    with torch.autocast("cpu", torch.bfloat16), exact_float32(CPU):
        assert (x @ x.T).dtype == torch.float32
