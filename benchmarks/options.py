"""What a run is asked for."""

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The flags of `python -m benchmarks`, for all suites.

    Attributes:
        device: "cpu" or "gpu".
        optimizers: names of classes, or None for what a suite takes by default.
        shapes: names of `models`, or shapes like "3*4096x4096"; None for a suite's default.
        tables: embedding tables like "1000000x64"; None, as below, for what the suite has.
        rows: of the gradient of a table, repeated ones included.
        repeats: percent of the rows of such a gradient that repeat others.
        eager_peers: whether eager steps of Keras over a table are measured: many seconds.
        peers: names from `peers.PEERS`.
        threads: of every library, and CPUs that the processes may use.
        windows: timed windows of each row.
        window_seconds: a window is at least about this long.
        seed: of weights, gradients and order.
        quick: a run that shows that everything works, and measures little.
        keep_memory: whether malloc is told to keep freed memory.
        pythons: interpreters of peers, by name; other environments are made when needed.
    """

    device: str = "cpu"
    optimizers: tuple[str, ...] | None = None
    shapes: tuple[str, ...] | None = None
    tables: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None
    repeats: tuple[str, ...] | None = None
    eager_peers: bool = True
    peers: tuple[str, ...] = ()
    threads: int = 2
    windows: int = 15
    window_seconds: float = 0.2
    seed: int = 0
    quick: bool = False
    keep_memory: bool = True
    pythons: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Json:
        """What results state of it."""
        names = ("device", "threads", "windows", "window_seconds", "seed", "quick", "keep_memory")
        return {name: getattr(self, name) for name in names}
