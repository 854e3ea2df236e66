"""Steps to bytes: the weight image in stream order and the encoded program."""
