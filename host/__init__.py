"""The runtime: transports, devices, sessions and the command line."""
