"""All architectures of the zoo."""

from __future__ import annotations

from moesaic.models.zoo import (
    mixture_forms,
    mixture_lists,
    mixture_nodes,
    mixture_structures,
    mixtures,
    quantised,
    timm_entries,
    transformers_entries,
)
from moesaic.models.zoo.entry import Entry

SOURCES = (
    mixtures,
    mixture_forms,
    mixture_structures,
    mixture_lists,
    mixture_nodes,
    timm_entries,
    transformers_entries,
    quantised,
)


def catalogue() -> dict[str, Entry]:
    """By name. No library is imported before an entry is built."""
    found: dict[str, Entry] = {}
    for source in SOURCES:
        for entry in source.entries():
            if entry.name in found:
                raise ValueError(f"two entries are called {entry.name}")
            found[entry.name] = entry
    return found
