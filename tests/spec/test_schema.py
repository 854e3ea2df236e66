"""Annotations as the schema of what is read."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
import pytest
from typing_extensions import TypeAliasType

from moesaic.spec import schema

Scalar = TypeVar("Scalar", bound=np.generic)


def test_arrays_are_known_where_numpy_names_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """``NDArray`` is a type of its own from numpy 2.5 on, where Python has such: from 3.12 on."""
    own = np.ndarray[Any, np.dtype[Scalar]]  # type: ignore[type-arg]
    alias = TypeAliasType("NDArray", own, type_params=(Scalar,))  # type: ignore[misc]
    monkeypatch.setattr(schema, "NDArray", alias)
    kind = make_dataclass("Row", [("values", alias[np.int8])])  # type: ignore[index]
    row = np.arange(3, dtype=np.int8)
    read = schema.Reader({"a": row, "b": row.astype(np.int16)}).read
    assert read(kind, {"values": {"array": "a"}}, "row").values is row
    with pytest.raises(schema.SchemaError, match=r"row\.values must be of type int8, not .*int16"):
        read(kind, {"values": {"array": "b"}}, "row")


def test_field_that_is_left_out_has_its_value() -> None:
    """What was written before there was the field is read, and written, as ever."""
    rule = Annotated[int, schema.Range(4, 8), schema.LeftOut(8)]
    kind = make_dataclass("Part", [("size", int), ("bits", rule)])  # type: ignore[list-item]
    read = schema.Reader(tagged=True).read
    for bits, more in ((8, {}), (4, {"bits": 4})):
        written = {"type": "Part", "size": 3, **more}
        assert schema.pack(kind(3, bits), {}) == written
        assert read(kind, written, "part") == kind(3, bits)
    with pytest.raises(schema.SchemaError, match=r"part\.bits must be 4 to 8, not 9"):
        read(kind, {"type": "Part", "size": 3, "bits": 9}, "part")
