"""Serve a bundle, call it over HTTP, stop it.

.venv/bin/python examples/serve_and_call.py BUNDLE [TASK]
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from typing import Any

import numpy as np

import moesaic


def call(address: str, task: str, image: np.ndarray, name: str) -> dict[str, Any]:
    """One inference request of the Open Inference Protocol, in JSON."""
    tensor = {
        "name": name,
        "datatype": "FP32",
        "shape": image.shape,
        "data": image.ravel().tolist(),
    }
    request = urllib.request.Request(
        f"{address}/v2/models/{task}/infer", json.dumps({"inputs": [tensor]}).encode()
    )
    with urllib.request.urlopen(request) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def main(path: str, task: str | None = None) -> None:
    bundle = moesaic.load(path)
    name = bundle.task(task)
    frame = bundle.sample(name, "input")[:1]
    command = [sys.executable, "-m", "moesaic.cli", "serve", path, "--device", "cpu", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        # The server says where it listens when it is ready.
        line = next(line for line in server.stderr if "http://" in line)
        address = next(word for word in line.split() if word.startswith("http://")).rstrip(".,;")
        answer = call(address, name, frame, next(iter(bundle.inputs(name))))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    (output,) = answer["outputs"]
    print(f"{name} on {answer['parameters']['device']}: {output['name']} {output['shape']}")
    with moesaic.Session(bundle, ["cpu"]) as session:
        (local,) = session.run({next(iter(bundle.inputs(name))): frame}, name).values()
    same = np.array_equal(np.float32(output["data"]), local.ravel())
    print(f"the same as without a server: {same}")


if __name__ == "__main__":
    main(*sys.argv[1:])
