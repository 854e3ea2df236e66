"""Asks a running `moesaic serve` for one frame, with NVIDIA's client for the same protocol.

    .venv/bin/moesaic serve build/demo/bundle --port 8000 &
    .venv/bin/python examples/triton_client.py --url 127.0.0.1:8000 --task seg

It needs numpy, tritonclient and geventhttpclient, and nothing of Moesaic.
"""

from __future__ import annotations

import argparse

import numpy as np
import tritonclient.http as triton


def main() -> None:
    """Read what the model wants, send a random frame, say what came back."""
    parser = argparse.ArgumentParser(description="Ask a server for one frame.")
    parser.add_argument("--url", default="127.0.0.1:8000", help="host and port of the server")
    parser.add_argument("--task", help="model to ask; by default the first one")
    arguments = parser.parse_args()

    with triton.InferenceServerClient(arguments.url) as client:
        if not client.is_server_ready():
            raise SystemExit(f"the server at {arguments.url} is not ready")
        task = arguments.task or client.get_model_repository_index()[0]["name"]
        (wanted,) = client.get_model_metadata(task)["inputs"]
        print(f"{task} wants {wanted['name']}: {wanted['datatype']} {wanted['shape']}")

        # -1 is the batch axis: any number of frames, which run one after another.
        shape = [1, *wanted["shape"][1:]]
        frame = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        tensor = triton.InferInput(wanted["name"], shape, wanted["datatype"])
        tensor.set_data_from_numpy(frame, binary_data=True)

        result = client.infer(task, [tensor], request_id="frame 0")
        answer = result.get_response()
        for output in answer["outputs"]:
            array = result.as_numpy(output["name"])
            print(f"{output['name']}: shape {array.shape}, {array.dtype}")
        ran = answer["parameters"]
        print(f"{answer['id']} ran on {ran['device']} in {ran['latency_seconds'] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
