"""The README of a project: commands, what comes of them, and what is known beforehand."""

from __future__ import annotations

from moesaic.spec.arch import ArchConfig
from moesaic.spec.boards import Board, place_masters
from moesaic.spec.parts import load_part
from moesaic.spec.resource_model import shares, target_resources

_TEXT = """\
# {target} on {board}

**NOT RUN THROUGH VIVADO.** Written by `python -m moesaic.hw.vivado`. The Tcl has been run by a Tcl
interpreter that knows the names and options of Vivado's commands, not what they do; the IP's XML
has been checked for its structure. Expect to have to correct something; please say what.

## Commands

With Vivado (2022.1 or later, for {part}) and the board files `{definition}`:

    vivado -mode batch -source build.tcl

From the block design to `moesaic.bit`, `moesaic.bin` (for Linux), `moesaic.hwh` (for PYNQ) and
`moesaic.xsa`; reports go to `reports/`. Options go behind `-tclargs`:

| option | |
|---|---|
| `project` | end with the validated block design, in minutes |
| `module` | take `ip/top.v` by its attributes; where Vivado does not like the packaged IP |
| `jobs=8` | processes |

If timing is missed, the script says by how much, ends with an error, and leaves none of these four
files: make the project again with a slower `--clock`.

## Files

| file | |
|---|---|
| `build.tcl`, `block_design.tcl` | the project, from nothing |
| `ip/` | the accelerator as packaged IP: `component.xml`, `top.v` |
| `timing.xdc` | constraints; there is no floorplan, for nothing has been placed yet |
| `moesaic.dts` | the device tree overlay; `load.sh board={board}` makes the same |
| `moesaic.bif` | for `bootgen` |
| `arch.json` | the target; bundles must be compiled for it (hash 0x{hash:08x}) |

## Design

| | |
|---|---|
| clock | {clock} MHz by a clock wizard from {reference} MHz of the processing system |
| registers | 0x{registers:08X}, {register_port} |
| interrupt | shared peripheral {interrupt}, level |
{masters}
| memory | {memory} |
| AxCACHE, AxPROT | 0b{cache:04b}, 0b{prot:03b} |

## What to expect

By the project's resource model, without the interconnect (some thousand LUT for each port):

| | of {part_name} |
|---|---|
{resources}

No place and route has run: whether {clock} MHz are met is not known.
"""


def readme(arch: ArchConfig, board: Board, clock_mhz: int) -> str:
    """Markdown."""
    name, part = load_part(board.part)
    found = target_resources(arch, part.family)
    share = shares(found, part)
    places = place_masters(arch, board)
    return _TEXT.format(
        target=arch.name,
        board=board.name,
        part=board.part,
        definition=board.definition,
        hash=arch.hash,
        clock=clock_mhz,
        reference=board.reference_mhz,
        registers=board.registers,
        register_port=board.processor.register_port,
        interrupt=board.interrupt,
        masters="\n".join(f"| `m_axi_{m}` | `{port.name}` |" for m, port in places.items()),
        memory=", ".join(f"0x{r.base:X} to 0x{r.base + r.size - 1:X}" for r in board.memory),
        cache=arch.axi_cache,
        prot=arch.axi_prot,
        part_name=name,
        resources="\n".join(
            f"| {kind} | {round(2 * number) / 2:,.10g}, {share[kind]:.0%} |"
            for kind, number in found.items()
        ),
    )
