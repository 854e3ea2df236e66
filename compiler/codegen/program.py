"""The program: weight-stream instructions placed ahead of their use, then everything encoded."""

from __future__ import annotations

from dataclasses import dataclass

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.schedule.steps import Address, Step
from moesaic.spec import isa
from moesaic.spec.arch import ArchConfig
from moesaic.spec.errors import UserError

_FETCH_LIMIT = 1 << isa.positions(isa.Opcode.STREAM)["words"][1]


@dataclass
class Fetch:
    """One STREAM instruction and the position of the first MATMUL that needs it."""

    consumer: int
    offset: int
    words: int
    fields: dict[str, int]
    layer: int
    label: str


def plan_fetches(steps: list[Step], image: WeightImage, speculated_experts: int) -> list[Fetch]:
    """Add every ring MATMUL's weights to the image and say what to stream, in order.

    Neighbours in the image that are not predicated become one fetch. The first
    ``speculated_experts`` of a layer do not wait for the routing, nor do queues that are constants:
    none of them is empty.
    """
    fetches: list[Fetch] = []
    sequence, fixed = 0, False
    for position, step in enumerate(steps):
        if step.opcode is isa.Opcode.ROUTE:
            sequence = int(step.fields["sequence"])  # type: ignore[arg-type]
            fixed = bool(step.queue_rows)
        if step.weights is None:
            continue
        offset, words = image.add(step.weights), int(step.fields["ring_words"])  # type: ignore[arg-type]
        fields: dict[str, int] = {}
        if step.fields.get("predicated"):
            expert = int(step.fields["expert"])  # type: ignore[arg-type]
            speculate = int(fixed or expert < speculated_experts)
            fields = dict(predicated=1, expert=expert, sequence=sequence, speculate=speculate)
        last = fetches[-1] if fetches else None
        plain = last and not fields and not last.fields and last.words + words < _FETCH_LIMIT
        if last and plain and last.offset + last.words == offset:
            last.words += words
        else:
            fetches.append(Fetch(position, offset, words, fields, step.layer, step.label))
    return fetches


def place_fetches(steps: list[Step], fetches: list[Fetch], ahead: int) -> list[Step]:
    """Merge STREAM steps into the program, ``ahead`` fetches before their consumers.

    The stream unit runs ahead as far as the ring allows only if it holds the instructions.
    """
    at: dict[int, list[Fetch]] = {}
    for number, fetch in enumerate(fetches):
        position = fetches[max(0, number - ahead)].consumer
        at.setdefault(position if number >= ahead else -1, []).append(fetch)
    result: list[Step] = []
    for position in range(-1, len(steps)):
        for fetch in at.get(position, []):
            result.append(
                Step(
                    isa.Opcode.STREAM,
                    {"offset": fetch.offset, "words": fetch.words, **fetch.fields},
                    layer=fetch.layer,
                    label=fetch.label,
                )
            )
        if position >= 0:
            result.append(steps[position])
    return result


def encode_program(steps: list[Step], arch: ArchConfig) -> bytes:
    """Encode all steps, END behind them; addresses must have been planned.

    Raises
    ------
    UserError
        A size exceeds its field: the layer is too large for the instruction set.
    """
    raw = []
    for step in steps:
        values = {
            name: value.buffer.base + value.offset if isinstance(value, Address) else int(value)
            for name, value in step.fields.items()
        }
        values["wait"] = sum(1 << unit for unit in step.wait)
        values["signal"] = sum(1 << unit for unit in step.signal)
        try:
            raw.append(isa.encode(step.opcode, layer=min(step.layer, 255), **values))
        except UserError as error:
            raise UserError(
                f"the model does not fit target {arch.name}: layer {step.label}, {error}"
            ) from error
    raw.append(isa.encode(isa.Opcode.END))
    return b"".join(raw)
