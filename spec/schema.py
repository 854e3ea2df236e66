"""JSON to checked objects: a dataclass's annotations are the schema of what is read for it.

A value is built only as the type that its place expects, so depth is bounded by the types. Rules
that types do not say stand beside them: ``shift: Annotated[int, Range(0, 63)]``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import types
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

_DIGITS = 20
_LARGEST = (1 << 63) - 1
_MOST_ITEMS = 1 << 16
_MOST_CHARACTERS = 4096


class SchemaError(ValueError):
    """What was read breaks a rule; the message says where, the rule, and what was found."""


@dataclass(frozen=True)
class Range:
    """A number's least and largest value, both allowed. Without it 0 .. 2**63 - 1."""

    least: float
    most: float


@dataclass(frozen=True)
class Unbounded:
    """A float that may be infinite or no number: a figure of a report."""


@dataclass(frozen=True)
class LeftOut:
    """A field that is not written where it has this value, and has it where it is not there: what
    was written before there was such a field is read as ever, and written as ever."""

    value: Any


@dataclass(frozen=True)
class Items:
    """Least and largest length of a list, a mapping, or of an array's shape."""

    least: int = 0
    most: int = _MOST_ITEMS


def load_json(data: bytes) -> Any:
    """Parse JSON whose depth and numbers nobody has bounded.

    Raises
    ------
    SchemaError
        It is no JSON, too deep, or has numbers of more than 20 digits.
    """

    def whole(text: str) -> int:
        if len(text) > _DIGITS:
            raise SchemaError(f"has a number of {len(text)} digits")
        return int(text)

    try:
        return json.loads(data, parse_int=whole)
    except SchemaError:
        raise
    except RecursionError as error:
        raise SchemaError("is nested too deeply") from error
    except ValueError as error:
        raise SchemaError("is no JSON") from error


def pack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Turn graphs into JSON values; arrays go to ``arrays`` under the hash of their contents."""
    if dataclasses.is_dataclass(value):
        kind: Any = type(value)
        spared = _left_out(kind)
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        kept = {n: v for n, v in parts.items() if n not in spared or v != spared[n]}
        return {"type": kind.__name__, **{n: pack(v, arrays) for n, v in kept.items()}}
    if isinstance(value, np.ndarray):
        plain = np.ascontiguousarray(value)
        tag = f"{plain.dtype.str}{plain.shape}".encode()
        name = hashlib.sha256(tag + plain.tobytes()).hexdigest()[:24]
        arrays[name] = plain
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return [pack(item, arrays) for item in value]
    return value


class Reader:
    """Builds objects from JSON values.

    Parameters
    ----------
    arrays
        By the names that the JSON refers to them with.
    tagged
        Whether objects name their ``type``, as :func:`pack` writes them.
    extra
        Whether objects may have more fields than the dataclass, which are passed over.

    Attributes
    ----------
    used
        Names of the arrays that were referred to.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        *,
        tagged: bool = False,
        extra: bool = False,
    ) -> None:
        self._arrays, self._tagged, self._extra = arrays or {}, tagged, extra
        self.used: set[str] = set()

    def read(self, kind: Any, value: Any, where: str, *rules: Any) -> Any:
        """Return ``value`` as a ``kind``.

        Raises
        ------
        SchemaError
            It is none; the message begins with ``where``.
        """
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self.read(arguments[0], value, where, *arguments[1:])
        if origin in (Union, types.UnionType):
            return self._one_of(arguments, value, where)
        if origin in (tuple, list):
            _require(type(value) is list, where, "must be a list", value)
            _check_length(value, where, rules)
            items = [self.read(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
            return tuple(items) if origin is tuple else items
        if origin is dict:
            _require(type(value) is dict, where, "must be an object", value)
            _check_length(value, where, rules)
            return {
                self.read(str, k, f"a name in {where}"): self.read(arguments[1], v, f"{where}.{k}")
                for k, v in value.items()
            }
        if origin is NDArray:  # a type of its own from numpy 2.5 on, where Python has such
            return self._array(arguments[0], value, where, rules)
        if origin is np.ndarray:
            return self._array(get_args(arguments[1])[0], value, where, rules)
        if dataclasses.is_dataclass(kind):
            return self._object(kind, value, where)
        return _plain(kind, value, where, rules)

    def _one_of(self, kinds: tuple[Any, ...], value: Any, where: str) -> Any:
        if type(None) in kinds:
            (kind,) = set(kinds) - {type(None)}
            return None if value is None else self.read(kind, value, where)
        name = value.get("type") if isinstance(value, dict) else None
        found = [kind for kind in kinds if kind.__name__ == name]
        wanted = " or ".join(kind.__name__ for kind in kinds)
        _require(bool(found), where, f"must be {wanted}", name)
        return self._object(found[0], value, where)

    def _object(self, kind: Any, value: Any, where: str) -> Any:
        _require(type(value) is dict, where, f"must be a {kind.__name__}", value)
        fields = {k: v for k, v in value.items() if not (self._tagged and k == "type")}
        if self._tagged:
            wanted, found = kind.__name__, value.get("type")
            _require(found == wanted, where, f"must be a {wanted}", found)
        hints = _hints(kind)
        fields = {**_left_out(kind), **fields}
        names = {field.name for field in dataclasses.fields(kind)}
        if missing := sorted(names - set(fields)):
            raise SchemaError(f"{where} has no {missing[0]}")
        unknown = sorted(set(fields) - names)
        if unknown and not self._extra:
            raise SchemaError(f"{where} has an unknown field {reprlib.repr(unknown[0])}")
        return kind(**{n: self.read(hints[n], fields[n], f"{where}.{n}") for n in sorted(names)})

    def _array(self, scalar: Any, value: Any, where: str, rules: tuple[Any, ...]) -> NDArray[Any]:
        name = value.get("array") if type(value) is dict and len(value) == 1 else None
        known = isinstance(name, str) and name in self._arrays
        _require(known, where, "must be an array that is there", value)
        assert isinstance(name, str)
        self.used.add(name)
        array = self._arrays[name]
        dtype = np.dtype(scalar).newbyteorder("<")
        _require(array.dtype == dtype, where, f"must be of type {dtype}", array.dtype)
        _check_length(array.shape, where, rules)
        return array


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


@cache
def _left_out(kind: Any) -> dict[str, Any]:
    """Fields of a dataclass with a rule :class:`LeftOut`, and their values."""
    return {
        name: rule.value
        for name, hint in _hints(kind).items()
        for rule in getattr(hint, "__metadata__", ())
        if isinstance(rule, LeftOut)
    }


def _require(condition: bool, where: str, rule: str, value: Any) -> None:
    if not condition:
        raise SchemaError(f"{where} {rule}, not {reprlib.repr(value)}")


def _check_length(value: Any, where: str, rules: tuple[Any, ...]) -> None:
    rule = next((rule for rule in rules if isinstance(rule, Items)), Items())
    _require(
        rule.least <= len(value) <= rule.most,
        where,
        f"must have {rule.least} to {rule.most} entries",
        len(value),
    )


def _plain(kind: Any, value: Any, where: str, rules: tuple[Any, ...]) -> Any:
    """A number, a text or a truth value."""
    if kind is float:
        _require(type(value) in (int, float), where, "must be a number", value)
        if any(isinstance(rule, Unbounded) for rule in rules):
            return float(value)
        rule = next((rule for rule in rules if isinstance(rule, Range)), Range(-math.inf, math.inf))
        good = math.isfinite(value) and rule.least <= value <= rule.most
        _require(good, where, f"must be {rule.least} to {rule.most}", value)
        return float(value)
    _require(type(value) is kind, where, f"must be {kind.__name__}", value)
    if kind is int:
        rule = next((rule for rule in rules if isinstance(rule, Range)), Range(0, _LARGEST))
        good = rule.least <= value <= rule.most
        _require(good, where, f"must be {rule.least} to {rule.most}", value)
    if kind is str:
        # Control characters would make more than one sentence of a message.
        plain = all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in value)
        _require(plain, where, "must be text of one line", value)
        good = len(value) <= _MOST_CHARACTERS
        _require(good, where, f"must have at most {_MOST_CHARACTERS} characters", len(value))
    return value
