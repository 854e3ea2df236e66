"""The one thing pyproject.toml cannot say: the package moesaic.X lives in the folder X."""

from setuptools import find_packages, setup

FOLDERS = ["cli", "compiler", "host", "hw", "models", "sim", "spec"]
DATA = [
    "*.html",
    "*.css",
    "*.js",
    "*.json",
    "*.pt",
    "*.npz",
    "*.h",
    "*.cpp",
    "*/*.json",
    "*/*.pt",
    "*/*.h",
    "*/*.cpp",
]
packages = [f"moesaic.{p}" for f in FOLDERS for p in find_packages(include=[f, f"{f}.*"])]
setup(
    packages=packages,
    package_dir={f"moesaic.{f}": f for f in FOLDERS},
    package_data={package: DATA for package in packages},
)
