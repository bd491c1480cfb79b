"""What a traced rule is: a list of operations."""

import dataclasses
import functools
import hashlib

from tf_optim_ext.rule.operations import COMPARISONS, REDUCTIONS

RESERVED = ("step", "learning_rate", "gradient_scale", "size")
"""Scalars that every step has: the count of this step (from 1), the learning rate, the factor that
unscales and clips gradients, and the number of elements of the variable."""

VARYING = ("gradient_scale", "size", "weight_decay", "layer_adaptation")
"""Those scalars, hyperparameters included, that may differ between the variables of a step."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation of a `Program`; `args` are indices of earlier nodes."""

    op: str
    args: tuple = ()
    data: object = None
    tensor: bool = False
    stage: int = 0

    @property
    def is_condition(self):
        return self.op in COMPARISONS


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced rule.

    Attributes:
        nodes: the operations, arguments before uses, without duplicates. The leaves are
            `input` ("w", "g" or the name of a slot), `scalar` (a name in `scalars`) and `constant`.
        outputs: name of what is written ("w" or a slot) -> index of the node that holds its value.
        slots: names of the slots the rule touches, in the order of their declaration.
        hyperparameters: names of the scalars that the optimizer provides.
        variable_scalars: names of the scalar state of each variable that it touches.
        optimizer_scalars: names of the scalar state of all variables that it touches.
        scalar_outputs: name of such state that is written -> index of the node with its value.
        by_row: whether "variable", in everything above, means one row of a variable.
    """

    nodes: tuple
    outputs: dict
    slots: tuple
    hyperparameters: tuple
    variable_scalars: tuple = ()
    optimizer_scalars: tuple = ()
    scalar_outputs: dict = dataclasses.field(default_factory=dict)
    by_row: bool = False

    @property
    def scalars(self):
        """Names of all scalars that it takes, in order."""
        return (*RESERVED, *self.hyperparameters, *self.state_scalars)

    @property
    def state_scalars(self):
        return (*self.variable_scalars, *self.optimizer_scalars)

    @property
    def passes(self):
        """Passes over memory: one, and one more for each level of reductions.

        Reductions that only the state needs are computed in the last pass, beside the weights.
        """
        of_tensors = max((self.nodes[i].stage for i in self.outputs.values()), default=0)
        of_scalars = max((self.nodes[i].stage for i in self.scalar_outputs.values()), default=0)
        return max(1 + of_tensors, of_scalars)

    @property
    def is_joint(self):
        """Whether the update of a variable depends on the other variables of the step."""
        return bool(self.optimizer_scalars) or any(n.op == "global_sum" for n in self.nodes)

    @property
    def treats_rows_alone(self):
        """Whether the update of a row depends on that row only."""
        return self.by_row or (self.passes == 1 and not self.state_scalars)

    @property
    def uses_size(self):
        return any(n.op == "scalar" and n.data == "size" for n in self.nodes)

    @functools.cached_property
    def fingerprint(self):
        """Digest of the maths: equal for rules that compute the same, whatever they are called."""
        text = repr((self.nodes, sorted(self.outputs.items()), self.slots, self.scalars))
        if self.state_scalars:
            text += repr((len(self.variable_scalars), sorted(self.scalar_outputs.items())))
        if self.by_row:
            text += "by row"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def common_scalars(self):
        """Names of the scalars that must be the same for all variables: the new state that these
        share depends on them."""
        roots = [i for n, i in self.scalar_outputs.items() if n in self.optimizer_scalars]
        cone = self.cone(roots, lambda i: self.nodes[i].op != "global_sum")
        return {self.nodes[i].data for i in cone if self.nodes[i].op == "scalar"}

    @functools.cached_property
    def may_be_unset(self):
        """Names of the state that may be NaN for "nothing yet": it compares that with itself.

        See `is_set`.
        """
        compared = [n.args for n in self.nodes if n.op == "not_equal" and n.args[0] == n.args[1]]
        leaves = [self.nodes[i] for i, _ in compared]
        return {node.data for node in leaves if node.op in ("input", "scalar")}

    def reductions(self, stage):
        """Indices of the reductions that pass number `stage` computes."""
        return [i for i, n in enumerate(self.nodes) if n.op in REDUCTIONS and n.stage == stage + 1]

    def roots(self, stage):
        """Indices of the nodes that pass number `stage` must deliver."""
        reduced = [self.nodes[i].args[0] for i in self.reductions(stage)]
        return reduced + (list(self.outputs.values()) if stage == self.passes - 1 else [])

    def needed(self, roots):
        """Indices, ascending, of the tensor nodes that `roots` need, the roots included."""
        return self.cone(roots, lambda i: self.nodes[i].tensor)

    def cone(self, roots, follow):
        """Indices, ascending, of the nodes that `roots` need, as far as `follow(index)` holds."""
        reached, todo = set(), list(roots)
        while todo:
            i = todo.pop()
            if i not in reached and follow(i):
                reached.add(i)
                todo.extend(self.nodes[i].args)
        return sorted(reached)

    def accesses(self, stage):
        """Names of the arrays that pass number `stage` reads, and those that it writes."""
        needed = self.needed(self.roots(stage))
        reads = {self.nodes[i].data for i in needed if self.nodes[i].op == "input"}
        return reads, set(self.outputs) if stage == self.passes - 1 else set()
