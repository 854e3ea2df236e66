"""How much a server takes at a time."""

from __future__ import annotations

from dataclasses import dataclass

FEWEST_CONNECTIONS, MOST_CONNECTIONS = 8, 10_000
"""With fewer, none of them are left for those who only ask how the server is; to look at more takes
it over 3 % of its time."""

BATCH_FRAMES, BATCH_WAIT_MS = 8, 0.0
"""Most frames of several requests that a device gets in one go, and how long they wait for each
other while it has nothing to do."""
MOST_BATCH_FRAMES, LONGEST_BATCH_WAIT_MS = 1024, 1000.0
"""By a wait of more than a second, a server would be slow to nobody's use."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a server; together they bound its memory.

    Attributes
    ----------
    queue
        Most requests that are accepted and not answered yet, the running ones included.
    body_bytes
        Longest body, unpacked.
    json_bytes
        Longest JSON part of a body. It is read in one go, on the event loop: some 40 ms per MiB.
    body_seconds
        Longest time that a body may take to arrive.
    close_seconds
        Longest time that answers may take to leave when the server stops.
    connections
        Most connections, 8 to 10,000; fewer, if there are not enough file descriptors.
    head_seconds
        Longest time that the head of a request may take to arrive: from the connection on or,
        behind an answer, from its first byte on.
    idle_seconds
        Longest time that a connection stays open behind an answer with nothing said.
    answer_seconds
        Longest time that a client may take to read an answer.
    answers_bytes
        Most bytes of answers that clients have not read; beyond, the oldest ones are dropped.
    """

    queue: int = 16
    body_bytes: int = 16 << 20
    json_bytes: int = 4 << 20
    body_seconds: float = 30.0
    close_seconds: float = 10.0
    connections: int = 512
    head_seconds: float = 10.0
    idle_seconds: float = 5.0
    answer_seconds: float = 30.0
    answers_bytes: int = 256 << 20

    @property
    def bodies(self) -> int:
        """Most bodies in memory: those accepted, and as many that arrive meanwhile."""
        return 2 * self.queue
