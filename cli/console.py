"""The application, its output, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from moesaic.spec.errors import UserError
from moesaic.spec.memory import DEFAULT_MEMORY

if TYPE_CHECKING:
    from moesaic.spec.arch import ArchConfig
    from moesaic.spec.clocks import Clock
    from moesaic.spec.memory import Dram

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help in plain text: drawing it would take longer than everything else
    help="Mixture-of-experts vision transformers on FPGAs: compile, simulate, verify, run.",
)
# Names are shown as they are: `:zzz:` is no emoji and `run[1]` no markup. Lines are not broken, for
# paths and figures stand in them.
console = Console(stderr=True, emoji=False, markup=False, soft_wrap=True)
out = Console(emoji=False, markup=False, soft_wrap=True)

_WIDEST = 1 << 20
"""Columns that no table has."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"moesaic {metadata.version('moesaic')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
    """Options in front of any command."""


BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="bundle directory")]
SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE|MODEL.onnx", help="bundle directory, or an ONNX model"),
]
PartitionOption = Annotated[
    bool | None,
    typer.Option(
        "--partition/--no-partition",
        show_default="if less than 1% of the multiply-accumulates",
        help="run on the host, in ONNX Runtime, what follows the transformer layers and the"
        " accelerator cannot run (a convolutional head, say), or what lies in front of them (a"
        " convolutional stem); a model that fits whole stays whole",
    ),
]
DimOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dim", metavar="NAME=N", help="number for a symbolic dimension of an input, repeated"
    ),
]
ModelOutputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-output",
        metavar="[TASK=]NAME",
        help="output that a task computes, where its model has several and not all are wanted;"
        " repeated",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
LatencyOption = Annotated[int, typer.Option(help="DRAM first-word latency, cycles")]
ClockOption = Annotated[
    float | None,
    typer.Option(
        "--clock",
        metavar="MHZ",
        help="clock for times; without it a preset's by `make timing`, else the family's, assumed",
    ),
]
BandwidthOption = Annotated[
    float, typer.Option(help="share of its ports' peak that the DRAM sustains")
]
DramOption = Annotated[
    str,
    typer.Option(
        "--dram",
        metavar="share|ddr4[:BITS]",
        help="a share of each port's peak, or DDR4-2400 behind all ports, with refreshes,"
        " turnarounds and rows: the board's, or so wide",
    ),
]


def show(table: Table, where: Console = out) -> None:
    """Print a table, whole whatever the width: what a reader or a program needs is never cut.

    A terminal folds long cells as long as each word fits; a file or a pipe gets as wide a table as
    there is to say.
    """
    for column in table.columns:
        column.overflow = "fold"
    size = Measurement.get(where, where.options.update(max_width=_WIDEST), table)
    table.width = max(where.width, size.minimum) if where.is_terminal else size.maximum
    table.width = min(table.width, size.maximum)
    where.print(table, soft_wrap=False, crop=False)


def check_ending(path: Path | None, option: str, *endings: str) -> None:
    """Refuse a file whose name says that something else is in it.

    Raises
    ------
    UserError
        It ends otherwise.
    """
    if path is not None and path.suffix not in endings:
        raise UserError(f"{option} must end in {' or '.join(endings)}, not {path.name!r}")


def read_dims(given: list[str] | None) -> dict[str, int]:
    """Numbers of dimensions by name.

    Raises
    ------
    UserError
        One is no number, or given twice.
    """
    dims: dict[str, int] = {}
    for text in given or []:
        name, separator, number = text.rpartition("=")
        if not separator or not name or not (number.isascii() and number.isdigit()):
            raise UserError(f"--dim takes NAME=NUMBER, such as height=224, not {text!r}")
        if name in dims:
            raise UserError(f"--dim names {name!r} twice: give one number")
        dims[name] = int(number)
    return dims


def read_outputs(given: list[str] | None, tasks: Collection[str]) -> dict[str, list[str]]:
    """Names of outputs by task; the task may be left out where there is one.

    Raises
    ------
    UserError
        It is not clear which task an output is for.
    """
    outputs: dict[str, list[str]] = {}
    for text in given or []:
        task, separator, name = text.partition("=")
        if not (separator and task in tasks):  # names of outputs may hold any sign
            if len(tasks) != 1:
                raise UserError(
                    f"--model-output takes TASK=NAME where there are several tasks"
                    f" ({', '.join(tasks)}), not {text!r}"
                )
            (task,), name = tasks, text
        outputs.setdefault(task, []).append(name)
    return outputs


def read_choice(dims: list[str] | None, outputs: list[str] | None) -> Any:
    """What is chosen of the one model of a command."""
    from moesaic.compiler.ir import Choice

    return Choice(read_dims(dims), tuple(read_outputs(outputs, ["default"]).get("default", [])))


def check_memory(latency: int, bandwidth: float) -> None:
    if latency < 1 or not 0 < bandwidth <= 1:
        raise UserError("--latency must be at least 1 and --bandwidth above 0 and at most 1")


def read_memory(text: str, arch: ArchConfig, bandwidth: float) -> Dram | None:
    """The DDR memory that ``--dram`` asks for; None for a share of each port.

    Raises
    ------
    UserError
        There is none for the target, or a share is given, too.
    """
    from moesaic.spec.boards import read_dram

    found = read_dram(text, arch)
    if found is not None and bandwidth != DEFAULT_MEMORY.bandwidth_share:
        raise UserError("--bandwidth is for --dram share: a DDR4 sustains what its times allow")
    return found


def dram_config(latency: int, bandwidth: float, dram: Dram | None, clock: Clock) -> Any:
    from moesaic.sim.dram import DramConfig, SharedDdr
    from moesaic.spec.memory import DDR_TIMINGS

    check_memory(latency, bandwidth)
    ddr = SharedDdr(DDR_TIMINGS[dram.kind], dram.data_bits, clock.mhz) if dram else None
    return DramConfig(latency_cycles=latency, bandwidth_share=bandwidth, ddr=ddr)


def load(bundle: Path) -> Any:
    from moesaic.spec.bundle import load_bundle

    return load_bundle(bundle)
