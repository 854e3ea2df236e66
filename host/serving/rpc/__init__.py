"""The same models over gRPC: KServe v2's ``inference.GRPCInferenceService``.

Only a server that is asked for it imports this package, and with it grpc.
"""
