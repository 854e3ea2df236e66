"""Integer weights of one layer, and the proof that its sums fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesaic.compiler import ir
from moesaic.compiler.points import Site
from moesaic.compiler.quant.linear import Inputs, best_scales, quantise_linear
from moesaic.spec.errors import UserError
from moesaic.spec.intgraph import IntLinear


def site(weight: np.ndarray, bias: np.ndarray, limit: int = 128) -> Site:
    linear = ir.Linear(weight.astype(np.float32), bias.astype(np.float32), "node_7")
    return Site("3.gate", linear, "3.norm", "3.logits", limit)


def quantise(
    weight: np.ndarray, bias: np.ndarray, source: float, target: float, limit: int = 128
) -> IntLinear:
    inputs = weight.shape[1]
    alike = Inputs(np.eye(inputs), np.zeros(inputs))
    return quantise_linear(site(weight, bias, limit), source, target, alike)


def real(layer: IntLinear, codes: np.ndarray, target: float) -> np.ndarray:
    accumulator = codes @ layer.weight.T.astype(np.int64) + layer.bias
    return accumulator * (layer.multiplier * 2.0 ** -layer.shift.astype(float)) * target


def worst_sum(layer: IntLinear, limit: int) -> int:
    weight = np.abs(layer.weight.astype(np.int64)).sum(1) * limit
    return int((weight + np.abs(layer.bias.astype(np.int64))).max())


def test_result_is_close_to_the_float_layer() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(30, 40)) * rng.uniform(0.01, 3, (30, 1))
    bias, codes = rng.normal(size=30), rng.integers(-128, 128, (100, 40))
    layer = quantise(weight, bias, 0.03, 1e-4)
    want = codes * 0.03 @ weight.T + bias
    noise = ((real(layer, codes, 1e-4) - want) ** 2).mean(0)
    assert (10 * np.log10((want**2).mean(0) / noise) > 35).all()


def test_multipliers_have_a_full_mantissa() -> None:
    rng = np.random.default_rng(1)
    layer = quantise(rng.normal(size=(20, 9)), np.zeros(20), 0.01, 0.05)
    assert (layer.multiplier >= 32768).all()
    assert (layer.weight.min(), layer.weight.max()) >= (-127, 0)


@pytest.mark.parametrize(("source", "target"), [(2.0, 1e-5), (1e-6, 100.0), (0.03, 0.01)])
@pytest.mark.parametrize("bias", [0.0, 0.01])
def test_dead_channel_is_its_bias(source: float, target: float, bias: float) -> None:
    """An embedding of pixels up to 255 has a coarse source and a fine target."""
    weight = np.array([[1.0, -1.0], [0.0, 0.0]]) * min(1.0, 1000 * target / source)
    layer = quantise(weight, np.array([0.0, bias]), source, target)
    assert not layer.weight[1].any()
    got = real(layer, np.array([[127, -128], [0, 0]]), target)[:, 1]
    assert got == pytest.approx(bias, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 1500),
    st.sampled_from([128, 32768]),
    st.floats(-4, 12),
    st.floats(-6, 0),
)
def test_sums_always_fit_int32(
    seed: int, inputs: int, limit: int, bias_log10: float, source_log10: float
) -> None:
    rng = np.random.default_rng(seed)
    # All weights near the largest: the worst case for the sum.
    weight = rng.uniform(0.9, 1.0, (3, inputs)) * rng.choice([-1, 1], (3, inputs))
    bias = rng.choice([-1, 1], 3) * 10.0**bias_log10
    source = 10.0**source_log10
    target = (np.abs(weight).sum(1).max() * source * limit + 10.0**bias_log10) / 30000
    layer = quantise(weight, bias, source, target, limit)
    assert worst_sum(layer, limit) <= 2**31 - 1
    codes = rng.integers(-limit, limit, (20, inputs))
    want = codes * source @ weight.T + bias
    largest = np.abs(want).max()
    assert np.abs(real(layer, codes, target) - want).max() <= 0.02 * largest


def test_wide_gate_inputs_raise_the_weight_scale() -> None:
    # 127 * 32768 * 768 is 1.5 times 2**31.
    layer = quantise(np.ones((2, 768)), np.zeros(2), 1e-3, 1e-3, 32768)
    assert worst_sum(layer, 32768) <= 2**31 - 1
    assert 80 <= layer.weight.max() < 127


def test_channel_without_weights_keeps_its_bias() -> None:
    weight, bias = np.zeros((3, 5)), np.array([0.37, 0.0, -1234.5])
    layer = quantise(weight, bias, 0.05, 0.01)
    got = real(layer, np.full((1, 5), 100), 0.01)[0]
    assert np.abs(got - bias).max() <= 1e-4 * 1234.5
    assert got[1] == 0.0 and got[0] == pytest.approx(0.37, rel=1e-4)


def test_important_inputs_decide_the_clip() -> None:
    # One huge weight on an input that is always 0: clipping it costs nothing.
    weight = np.random.default_rng(2).normal(size=(1, 200))
    weight[0, 0] = 8.0
    silent = np.ones(200)
    silent[0] = 1e-9
    assert best_scales(weight, silent)[0] < best_scales(weight, np.ones(200))[0]


def test_factor_beyond_the_format_names_the_layer() -> None:
    with pytest.raises(UserError, match="node_7"):
        quantise(np.full((1, 4), 1e9), np.zeros(1), 1.0, 1e-3)


def test_weights_of_four_bits_are_scaled_for_them() -> None:
    """Less is lost than at the scale of the largest weight."""
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(30, 200)) * rng.uniform(0.01, 3, (30, 1))
    weight[:, 3] *= 2.0
    plain = np.abs(weight).max(1) / 7
    scale = best_scales(weight, np.ones(200), 7)

    def error(scale: np.ndarray) -> np.ndarray:
        codes = np.clip(np.floor(weight / scale[:, None] + 0.5), -7, 7)
        return ((weight - codes * scale[:, None]) ** 2).sum(1)

    assert (error(scale) <= error(plain)).all() and error(scale).sum() < 0.8 * error(plain).sum()
    inputs = Inputs(np.eye(200), np.zeros(200))
    layer = quantise_linear(site(weight, np.zeros(30)), 0.03, 1e-4, inputs, weight_bits=4)
    assert layer.weight_bits == 4 and np.abs(layer.weight).max() == 7
    codes = rng.integers(-128, 128, (100, 200))
    want = codes * 0.03 @ weight.T
    noise = ((real(layer, codes, 1e-4) - want) ** 2).mean(0)
    assert 10 * np.log10((want**2).mean(0) / noise).mean() > 17


def test_integers_of_a_file_have_four_bits_if_they_fit() -> None:
    rng = np.random.default_rng(5)
    for most, bits in ((7, 4), (8, 8)):
        codes = rng.integers(-7, 8, (12, 20)).astype(np.int8)
        codes[:, 0] = most
        given = ir.Given(codes=codes)
        linear = ir.Linear(
            (codes * 0.02).astype(np.float32), np.zeros(12, np.float32), "n", given=given
        )
        whole = Site("1.up", linear, "1.norm", "1.hidden", 128)
        inputs = Inputs(np.eye(20), np.zeros(20))
        layer = quantise_linear(whole, 0.03, 1e-3, inputs, weight_bits=4)
        assert layer.weight_bits == bits
        np.testing.assert_array_equal(layer.weight, codes)
