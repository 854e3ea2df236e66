"""The router: logits in, one queue of (token, gate weight) per expert out."""
