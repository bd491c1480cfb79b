"""The rows of a table: kinds of Adam, ours and of others, that update an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import session
from benchmarks.options import Options

BOTH = {"eager": "eager", "function": "tf.function"}


@dataclass(frozen=True)
class Kind:
    """A kind of Adam, whose rows share an optimizer and its slots.

    Attributes:
        label: what tables call it.
        peer: whose it is.
        memory: the most it needs, in tables: slots, and what an eager step takes for a while.
        reference: whose update of a table it must agree with, in `embedding_cases.adam`.
        process: where it runs. Kinds of the same process share the table.
        modes: how its step runs; "" if there is one way only.
    """

    label: str
    peer: str
    memory: int
    reference: str | None
    process: str = "tensorflow"
    modes: tuple[str, ...] = ("eager", "function")


KINDS = {
    "lazy": Kind("tf_optim_ext lazy", "ours", 2, "lazy"),
    "exact": Kind("tf_optim_ext exact", "ours", 2, "exact"),
    "catch_up": Kind("tf_optim_ext catch-up", "ours", 2, "catch_up"),
    "row_wise": Kind("tf_optim_ext row-wise", "ours", 2, "row_wise"),
    # It squares repeated rows one by one, so that it agrees with no reference.
    "keras": Kind("Keras Adam", "keras", 2 + 5, None),
    "tf_keras": Kind("tf_keras legacy Adam", "tf_keras", 2 + 8, "exact"),
    # It has a table of its own.
    "torch": Kind("PyTorch SparseAdam", "torch", 1 + 2, "lazy", "torch", ("",)),
}
ANCHOR = "lazy_eager"


@dataclass
class Row(session.Row):
    """A row; its `peer` is the name of its process, its `mode` says which kind of Adam, too."""

    @property
    def key(self) -> str:
        return self.mode

    @property
    def kind(self) -> str:
        return split(self.mode)[0]

    @property
    def label(self) -> str:
        kind, how = split(self.mode)
        return f"{KINDS[kind].label}, {BOTH[how]}" if how else KINDS[kind].label


def split(mode: str) -> tuple[str, str]:
    """The kind of Adam, and how its step runs: "eager", "function", or "" if it has one way."""
    if mode in KINDS:
        return mode, ""
    kind, _, how = mode.rpartition("_")
    return kind, how


def wanted_kinds(options: Options) -> list[str]:
    """Ours, and those of the peers that were asked for."""
    return [name for name, kind in KINDS.items() if kind.peer in ("ours", *options.peers)]


def rows_of(group: Sequence[str], options: Options) -> list[Row]:
    """Rows of some kinds, first the one that the others are compared with."""
    modes = [ANCHOR]
    for name in group:
        kind = KINDS[name]
        slow = "eager" if kind.peer in ("keras", "tf_keras") and not options.eager_peers else None
        modes += [f"{name}_{how}" if how else name for how in kind.modes if how != slow]
    return [Row(KINDS[split(mode)[0]].process, mode) for mode in dict.fromkeys(modes)]


def groups(kinds: Sequence[str], table_bytes: int, budget: int) -> list[list[str]]:
    """Splits kinds so that what a group holds and takes fits the budget.

    Args:
        kinds: names, that of the anchor among them; it needs memory in each group.
        table_bytes: size of the table.
        budget: bytes for everything but the table itself.
    """
    anchor = split(ANCHOR)[0]
    found: list[list[str]] = [[anchor]]
    for kind in kinds:
        if kind == anchor:
            continue
        for group in found:
            needed = sum(KINDS[name].memory for name in {*group, anchor, kind})
            if needed * table_bytes <= budget:
                group.append(kind)
                break
        else:
            found.append([kind])
    return found
