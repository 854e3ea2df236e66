"""Run a task of a bundle on a board: ``run.py BUNDLE --task seg --input in.npz --output out.npz``.

What ``moesaic run`` does, without its command-line packages: numpy is enough.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

if sys.version_info < (3, 10):  # noqa: UP036 - nothing has checked it on a board
    sys.exit("run.py needs Python 3.10 or newer; the C driver needs no Python at all")

from moesaic.host import Session  # noqa: E402
from moesaic.host.failures import DeviceError  # noqa: E402
from moesaic.host.options import parse_options  # noqa: E402
from moesaic.host.output_file import OutputFile  # noqa: E402
from moesaic.spec.arrays import open_arrays  # noqa: E402
from moesaic.spec.errors import UserError  # noqa: E402


def main() -> None:
    """Parse the command line, run, write the outputs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--task", help="which task, if there are several")
    parser.add_argument("--input", type=Path, required=True, help=".npz with the model's inputs")
    parser.add_argument("--output", type=Path, required=True, help=".npz to write")
    parser.add_argument("--device", default="fpga", help="devices by preference, with commas")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="DEVICE.NAME=VALUE",
        help="an option of a device, such as fpga.clock_hz=300000000",
    )
    words = parser.parse_args()
    options = parse_options(words.option)
    arrays = open_arrays(words.input)
    devices = words.device.split(",")
    with OutputFile(words.output) as file, Session(words.bundle, devices, options) as session:
        outputs = session.run(arrays, task=words.task)
        file.write_arrays(outputs)
        print(f"{outputs.device}: {outputs.latency_seconds * 1000:.3f} ms")


if __name__ == "__main__":
    try:
        main()
    except (UserError, DeviceError, OSError) as error:
        sys.exit(f"error: {error}")
