"""From compiled tasks to a bundle directory."""

from __future__ import annotations

from moesaic.compiler.package.files import bundle_files
from moesaic.compiler.package.place import BundlePlace, write_directory

__all__ = ["BundlePlace", "bundle_files", "write_directory"]
