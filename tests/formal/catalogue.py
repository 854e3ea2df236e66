"""All proofs by name."""

from __future__ import annotations

from tests.formal import arbiter, ends, issuer, memories, queues, read, tokens, write

PROOFS = {
    proof.name: proof
    for module in (memories, tokens, queues, issuer, ends, arbiter, read, write)
    for proof in module.PROOFS
}
