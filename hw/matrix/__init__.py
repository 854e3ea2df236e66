"""The matrix unit: every product of the network runs on its one array."""
