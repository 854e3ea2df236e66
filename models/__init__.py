"""Reference model, synthetic scenes, training and ONNX export."""
