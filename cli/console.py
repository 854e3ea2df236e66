"""The application, its output, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from moesaic.spec.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Mixture-of-experts vision transformers on FPGAs: compile, simulate, verify, run.",
)
# A name such as `:zzz:` is no emoji.
console = Console(stderr=True, emoji=False)
out = Console(emoji=False)

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="bundle directory")]
PartitionOption = Annotated[
    bool,
    typer.Option("--partition", help="leave to the host what comes behind the layers and must"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
LatencyOption = Annotated[int, typer.Option(help="DRAM first-word latency, cycles")]
BandwidthOption = Annotated[float, typer.Option(help="sustained share of the DRAM's peak")]


def check_memory(latency: int, bandwidth: float) -> None:
    if latency < 1 or not 0 < bandwidth <= 1:
        raise UserError("--latency must be at least 1 and --bandwidth above 0 and at most 1")


def dram_config(latency: int, bandwidth: float) -> Any:
    from moesaic.sim.dram import DramConfig

    check_memory(latency, bandwidth)
    return DramConfig(latency_cycles=latency, bandwidth_share=bandwidth)


def load(bundle: Path) -> Any:
    from moesaic.spec.bundle import load_bundle

    return load_bundle(bundle)


def show_cycles(status: Any, what: str) -> Callable[[int], None]:
    """Takes the cycles since its last call, and shows their sum."""
    total = 0

    def advance(cycles: int) -> None:
        nonlocal total
        total += cycles
        status.update(f"{what}: {total:,} cycles")

    return advance
