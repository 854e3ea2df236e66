"""What calibration keeps of the rows [*, features] at a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Moments:
    """Sums over rows, per feature and per pair of features."""

    rows: int = 0
    total: Array | None = None
    """[features]."""
    gram: Array | None = None
    """Sum of the outer products of the rows."""

    def add(self, rows: Array) -> None:
        """Count rows [*, features] of float32 or float64."""
        if not len(rows):
            return
        total = rows.sum(0, dtype=np.float64)
        self.rows += len(rows)
        self.total = total if self.total is None else self.total + total
        gram = (rows.T @ rows).astype(np.float64)
        self.gram = gram if self.gram is None else self.gram + gram

    def mean(self, features: int) -> Array:
        """[features]; zeros if there was no row."""
        return np.zeros(features) if self.total is None else self.total / self.rows

    def covariance(self, features: int) -> Array:
        """Mean outer product [features, features]; the identity if there was no row.

        Of few rows only the diagonal is to be trusted: shrunk towards it by as much as there are
        features for each row.
        """
        if self.gram is None:
            return np.eye(features)
        mean = self.gram / self.rows
        trust = self.rows / (self.rows + features)
        return trust * mean + (1 - trust) * np.diag(np.diag(mean))
