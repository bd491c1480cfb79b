"""Which variables weight decay or layer adaptation leaves out, in a form that can be saved."""

import re

from tf_optim_ext import checks


class Exclusions:
    """A selection of variables by name, by path, or by position among the optimizer's variables.

    Variables themselves cannot be saved, and their paths may differ when a model is made again.
    Their order does not: once the optimizer is built, a variable is saved as its position.
    """

    def __init__(self, var_names=(), paths=(), positions=()):
        self._patterns = list(var_names)
        self._paths = set(paths)
        self._positions = set(positions)
        self._keys = set()

    @classmethod
    def of(cls, variables, var_names, key):
        """Selects given variables; `key` identifies a variable."""
        if isinstance(var_names, str):
            var_names = [var_names]
        for pattern in var_names:
            re.compile(pattern)
        for variable in variables:
            checks.must_be_variable(variable)
        exclusions = cls(var_names, [checks.name_of(v) for v in variables])
        exclusions._keys = {key(v) for v in variables}
        return exclusions

    def __bool__(self):
        return bool(self._patterns or self._paths or self._positions)

    def __eq__(self, other):
        return isinstance(other, Exclusions) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def cover(self, variable, key, position):
        """Whether a variable is selected."""
        if self._keys:
            selected = key in self._keys
        elif self._positions:
            selected = position in self._positions
        else:
            selected = checks.name_of(variable) in self._paths
        return selected or any(checks.matches(pattern, variable) for pattern in self._patterns)

    def get_config(self, variables, key):
        """Constructor arguments; `variables` are those of the optimizer, if it is built."""
        config = {"var_names": self._patterns}
        if self._keys and variables:
            positions = [i for i, v in enumerate(variables) if key(v) in self._keys]
            return {**config, "positions": positions}
        return {**config, "paths": sorted(self._paths), "positions": sorted(self._positions)}
