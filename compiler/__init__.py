"""From an ONNX graph to a program and a weight image."""
