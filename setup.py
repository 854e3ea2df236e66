"""What pyproject.toml cannot say: where packages live, and that libraries in C come with them.

The package ``moesaic`` is the folder ``api``, ``moesaic.X`` the folder ``X``. A wheel has the
driver and the device `cpu`'s arithmetic as libraries beside what loads them, so it is for this kind
of machine and any Python.
"""

import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

FOLDERS = ["cli", "compiler", "host", "hw", "models", "sim", "spec"]
ENDINGS = ["json", "npz", "h", "cpp", "html", "css", "js"]
DATA = ["*/nano.pt", *(f"{folder}*.{ending}" for folder in ("", "*/") for ending in ENDINGS)]
FIRMWARE = ["Makefile", "*.mk", "*.sh", "*/*.[ch]", "*/*.ld", "board/*"]
DRIVER = ("make", "-s", "-C", "firmware", "DRIVER_FOR=native", "library")
ARITHMETIC = ("make", "-s", "-C", "host/cpu", "library")
LIBRARIES = {
    "build/firmware/native/libmoesaic.so": ("host", DRIVER),
    "build/cpu/libmoesaic_cpu.so": ("host/cpu", ARITHMETIC),
}
"""Where each is built, the folder of the package that it goes to, and the command."""
packages = [f"moesaic.{p}" for f in FOLDERS for p in find_packages(include=[f, f"{f}.*"])]


class BuildWithLibraries(build_py):
    """Also compiles what is C; a checkout in use has it where ``make setup`` puts it."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for library, (folder, make) in LIBRARIES.items():
            try:
                subprocess.run(make, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise SystemExit(f"{library} needs make and a C compiler: {error}") from error
            shutil.copy(library, Path(self.build_lib, "moesaic", folder))


class PlatformWheel(bdist_wheel):
    """For this kind of machine, and for any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class WithLibrary(Distribution):
    """Not only Python."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    packages=["moesaic", "moesaic.firmware", *packages],
    package_dir={"moesaic": "api", "moesaic.firmware": "firmware"}
    | {f"moesaic.{folder}": folder for folder in FOLDERS},
    package_data={package: DATA for package in packages}
    | {"moesaic": ["py.typed"], "moesaic.firmware": FIRMWARE},
    cmdclass={"build_py": BuildWithLibraries, "bdist_wheel": PlatformWheel},
    distclass=WithLibrary,
)
