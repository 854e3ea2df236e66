"""On-chip memories that several units share."""
