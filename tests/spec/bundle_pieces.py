"""Bundles taken to pieces: whatever is changed in them, they are put together with right seals."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import zlib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from moesaic.compiler.codegen.image import WeightImage
from moesaic.compiler.codegen.task import compile_task
from moesaic.compiler.package import bundle_files
from moesaic.compiler.schedule.joint import Joint
from moesaic.compiler.schedule.options import first_schedule
from moesaic.compiler.together import JointProgram
from moesaic.spec import image, manifest
from moesaic.spec.bundle import load_bundle
from moesaic.spec.errors import UserError
from moesaic.spec.hostside import quantise_input
from moesaic.spec.intgraph import IntGraph, IntMoe
from moesaic.spec.presets import PRESETS
from tests.compiler.random_intgraph import Shape, random_intgraph
from tests.e2e.bundles import expected_codes

SHAPES = (
    Shape(tokens=5, patches=4, patch_inputs=7, channels=8, heads=2, head_dim=4, value_dim=3,
          hidden=9, expert_hidden=6, experts=3, outputs=5, head_rows=4, head_first=1,
          taps=0.0),
    Shape(tokens=4, patches=4, patch_inputs=3, channels=12, heads=1, head_dim=5, value_dim=8,
          moe=(True,), experts=4, top_k=1, renormalise=True, outputs=3, head_rows=1, head_first=0,
          taps=0.0),
)  # fmt: skip


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """An archive as the compiler writes them."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_npz(data: bytes) -> dict[str, np.ndarray]:
    """Its arrays, as numpy alone reads them."""
    with np.load(io.BytesIO(data)) as file:
        return {name: file[name] for name in file.files}


@dataclass
class Pieces:
    """A bundle before it is sealed. ``raw`` replaces contents of files as they are."""

    manifest: dict[str, Any]
    graphs: Any
    arrays: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    image: bytearray
    others: dict[str, bytes]
    raw: dict[str, bytes] = field(default_factory=dict)
    graph_of: dict[str, IntGraph] = field(default_factory=dict)
    """What the pieces were before they were changed."""

    def files(self) -> dict[str, bytes]:
        """Contents of all files, every checksum and seal right."""
        files = {
            manifest.IMAGE: bytes(self.image),
            manifest.GRAPHS: json.dumps(self.graphs).encode(),
            manifest.ARRAYS: npz(self.arrays),
            manifest.SAMPLES: npz(self.samples),
            **self.others,
            **{name: data for name, data in self.raw.items() if name != manifest.MANIFEST},
        }
        named = self.manifest.get("files")
        if isinstance(named, dict):
            for name, data in files.items():
                if isinstance(named.get(name), dict):
                    named[name] = {"size_bytes": len(data), "sha256": manifest.digest(data)}
        sealed = {**self.manifest, "seal": manifest.seal(self.manifest)}
        text = json.dumps(sealed).encode()
        files[manifest.MANIFEST] = self.raw.get(manifest.MANIFEST, text)
        return files

    def write(self, folder: Path) -> None:
        """Write the files."""
        for name, data in self.files().items():
            (folder / name).write_bytes(data)


def reseal_image(data: bytearray) -> None:
    """Make the checksums of an image right, as far as it has the parts that they are of."""
    header = np.frombuffer(data[: image.HEADER.itemsize], image.HEADER)[0].copy()
    tables = int(header["table_bytes"])
    first = image.HEADER.itemsize
    for number in range(min(int(header["section_count"]), 64)):
        place = first + number * image.SECTION.itemsize
        if place + image.SECTION.itemsize > len(data):
            break
        row = np.frombuffer(data[place : place + image.SECTION.itemsize], image.SECTION)[0].copy()
        start, size = int(row["offset"]), int(row["bytes"])
        row["crc"] = zlib.crc32(data[start : start + size])
        data[place : place + image.SECTION.itemsize] = row.tobytes()
    seal_tables(data, hashlib.sha256(data[tables:]).digest())


def seal_tables(data: bytearray, digest: bytes) -> None:
    """Put the SHA-256 of the contents into the header, and make the tables' checksum right."""
    first = image.HEADER.itemsize
    header = np.frombuffer(data[:first], image.HEADER)[0].copy()
    header["sha256"], header["table_crc"] = np.frombuffer(digest, np.uint8), 0
    header["table_crc"] = zlib.crc32(header.tobytes() + data[first : int(header["table_bytes"])])
    data[:first] = header.tobytes()


def host_model(values: int, scale: float = 2.0, ends: tuple[str, str] = ("y", "z")) -> bytes:
    """ONNX that scales a task's output, or what becomes of its input, [1, values]."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, values]) for name in ends]
    constant = helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale])
    node = helper.make_node("Mul", [ends[0], "scale"], [ends[1]])
    graph = helper.make_graph([node], "host", tensors[:1], tensors[1:], [constant])
    opset = [helper.make_opsetid("", 17)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return made


def _report(graph: IntGraph, host: bool, front: bool) -> dict[str, Any]:
    values = graph.heads[0].shape[1]
    routing = {
        layer.name: [graph.tokens] * layer.top_k + [0] * (len(layer.experts) - layer.top_k)
        for layer in graph.layers
        if isinstance(layer, IntMoe)
    }
    nodes = {
        "accelerator_nodes": 9,
        "nodes": [{"name": "n", "operator": "Mul", "reason": "a test"}],
        "macs": None,
    }
    before = {
        "cut": {"tensor": "x", "shape": list(graph.input_shape), "sqnr_db": 30.0},
        "inputs": {"image": list(graph.input_shape)},
        "why": "a test",
        **nodes,
    }
    behind = {
        "cuts": [{"tensor": "y", "shape": [1, values], "sqnr_db": 30.0}],
        "outputs": {"z": [1, values]},
        **nodes,
    }
    return {
        "source": "model.onnx", "sqnr_db": 30.0, "outputs_db": {"y": 30.0},
        "macs": graph.macs, "layers": len(graph.layers),
        "tokens": graph.tokens, "instructions": 100, "activation_bytes": 1024,
        "cycles": 1000, "weight_stream_bytes": 4096, "notes": ["a note"], "routing": routing,
        "schedule": vars(first_schedule(PRESETS["nano"])), "quantisation": {},
        "host": behind if host else None,
        "front": before if front else None,
    }  # fmt: skip


@cache
def _made(seed: int) -> Pieces:
    arch = PRESETS["nano"]
    shapes = (replace(SHAPES[0], from_host=bool(seed & 2)), SHAPES[1])
    graphs = {
        name: random_intgraph(shape, seed=2 * seed + index, task=name)
        for index, (name, shape) in enumerate(zip(("seg", "depth"), shapes, strict=True))
    }
    store, rng = WeightImage(arch), np.random.default_rng(seed)
    codes = {name: compile_task(graph, arch, store) for name, graph in graphs.items()}
    joint, schedule = {}, first_schedule(arch)
    for frames in (2, 3)[: seed % 3]:
        work = Joint((graphs["depth"],), frames)
        code = compile_task(work, arch, store, schedule)
        joint[f"depth*{frames}"] = JointProgram(work, schedule, code)
    samples = {}
    for name, graph in graphs.items():
        x = rng.uniform(-1, 1, (2, *graph.input_shape[1:])).astype(np.float32)
        samples[f"{name}.input"] = x
        samples[f"{name}.float"] = np.zeros((2, *graph.heads[0].shape[1:]), np.float32)
        samples[f"{name}.codes"] = expected_codes(graph, quantise_input(graph, np.zeros_like(x)))
    hosts = {"depth": host_model(graphs["depth"].heads[0].shape[1])} if seed & 1 else {}
    values = graphs["seg"].input_shape[1]
    fronts = {"seg": host_model(values, 0.1, ("image", "x"))} if seed & 2 else {}
    placed = {name: _report(g, name in hosts, name in fronts) for name, g in graphs.items()}
    report = {"tasks": placed}
    files = bundle_files(arch, graphs, codes, store, samples, report, hosts, fronts, joint)
    parsed = json.loads(files.pop(manifest.MANIFEST))
    parsed.pop("seal")
    return Pieces(
        parsed,
        json.loads(files.pop(manifest.GRAPHS)),
        unpack_npz(files.pop(manifest.ARRAYS)),
        unpack_npz(files.pop(manifest.SAMPLES)),
        bytearray(files.pop(manifest.IMAGE)),
        files,
        graph_of=graphs,
    )


def pieces(seed: int) -> Pieces:
    """A valid bundle of two tasks for ``nano``; by bits of the seed, the host computes what follows
    ``depth``, and what lies in front of ``seg``."""
    return copy.deepcopy(_made(seed))


def refusal(folder: Path) -> str:
    """The one sentence with which the bundle is refused."""
    with pytest.raises(UserError) as caught:
        load_bundle(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text, text
    return text


def first(p: Pieces, name: str, task: str = "seg") -> dict[str, Any]:
    """The first object of a type in a task's graph."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") == name:
            return value
        inside = value.values() if isinstance(value, dict) else value
        found = (walk(v) for v in inside if isinstance(v, (dict, list)))
        return next((v for v in found if v), None)

    result: dict[str, Any] = walk(p.graphs[task])
    return result
