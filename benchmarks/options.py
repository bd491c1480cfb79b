"""What a run is asked for."""

from dataclasses import asdict, dataclass
from typing import Any

Names = tuple[str, ...] | None  # None is what a suite measures by default


@dataclass(frozen=True)
class Options:
    """The flags of `python -m benchmarks --help`."""

    device: str = "cpu"
    sweeps: Names = None
    optimizers: Names = None
    shapes: Names = None
    step_options: Names = None
    tables: Names = None
    rows: Names = None
    duplicates: Names = None
    peers: tuple[str, ...] = ()
    threads: int = 2
    repeats: int = 15
    repeat_seconds: float = 0.2
    seed: int = 0
    quick: bool = False
    keep_memory: bool = True
    python: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        """What results state of it."""
        kinds = (str, int, float, bool)
        return {name: value for name, value in asdict(self).items() if isinstance(value, kinds)}
