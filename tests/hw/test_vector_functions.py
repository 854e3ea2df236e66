"""The function units of the vector unit equal the integer semantics."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

import pytest

from moesaic.hw.arithmetic.reciprocal import Reciprocal
from moesaic.hw.arithmetic.reciprocal_sqrt import ReciprocalSqrt
from moesaic.hw.arithmetic.requantise import Requantise
from moesaic.hw.verilog import to_verilog
from moesaic.sim.bench_runner import BenchFailure, run_cocotb
from tests.hw.vector_functions import LANES, LIMITS, VectorFunctions

BENCH = "tests.hw.bench_vector_functions"
PARAMETERS = {"LANES": LANES, "LIMITS": ",".join(map(str, LIMITS))}


@pytest.fixture(scope="module")
def verilog() -> str:
    return to_verilog(VectorFunctions(), "vector_functions")


def test_function_units_equal_semantics(verilog: str) -> None:
    assert run_cocotb(verilog, "vector_functions", BENCH, parameters=PARAMETERS) == 5


def test_bench_catches_one_wrong_bit(verilog: str) -> None:
    parameters = {**PARAMETERS, "CORRUPT": 1}
    with pytest.raises(BenchFailure, match="1 of 1 tests failed"):
        run_cocotb(verilog, "vector_functions", BENCH, testcase="exp2", parameters=parameters)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Requantise(4, 47, (8,)), "operand_bits must be at most 46, not 47"),
        (lambda: Reciprocal(16), "bits must be 17 to 32, not 16"),
        (lambda: ReciprocalSqrt(57), "bits must be even and 18 to 62, not 57"),
    ],
)
def test_width_out_of_range_is_refused(make: Callable[[], object], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the refused component is never elaborated
        with pytest.raises(ValueError, match=message):
            make()
        gc.collect()
