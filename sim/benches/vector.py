"""cocotb tests of the vector unit. ``ARCH`` is the architecture as JSON."""

from __future__ import annotations

import json
import os
import random

import cocotb
import torch

from moesaic.sim.benches.vector_bench import VectorBench, sometimes
from moesaic.sim.benches.vector_program import Program, random_program
from moesaic.spec.arch import ArchConfig

ARCH = ArchConfig.from_dict(json.loads(os.environ["ARCH"]))
INSTRUCTIONS = int(os.environ.get("INSTRUCTIONS", "60"))


async def prepared(dut, program: Program) -> VectorBench:
    bench = VectorBench(dut, ARCH)
    await bench.reset()
    await bench.load_residual(program.initial_residual)
    return bench


def seed() -> None:
    torch.manual_seed(random.getrandbits(32))


@cocotb.test()
async def random_program_without_delays(dut) -> None:
    seed()
    program = random_program(ARCH, INSTRUCTIONS)
    bench = await prepared(dut, program)
    await bench.run(program)


@cocotb.test()
async def random_program_with_delays(dut) -> None:
    """Slow inputs, then slow outputs, then both."""
    seed()
    for idle, pause in ((0.6, 0.0), (0.0, 0.6), (0.4, 0.4), (0.05, 0.9)):
        program = random_program(ARCH, INSTRUCTIONS // 4)
        bench = await prepared(dut, program)
        await bench.run(program, idle=sometimes(idle), pause=sometimes(pause))
