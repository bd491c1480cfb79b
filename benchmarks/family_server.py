"""Every optimizer of this package beside the limit of the memory: `-m benchmarks.family_server`."""

import contextlib
import gc
import statistics
from typing import Any

import tf_optim_ext
from benchmarks import moved_bytes, timing
from benchmarks.peers import of_tensorflow, server
from tf_optim_ext import optimizers, programs

Json = dict[str, Any]

# What a constructor must be given, and which arguments make a flag that is none itself.
REQUIRED = {"SGDW": {"weight_decay": 1e-4}}
DERIVED = {
    "has_momentum": ({"momentum": 0.0}, {"momentum": 0.9}),
    "square_root": ({"learning_rate_power": -0.6}, {"learning_rate_power": -0.5}),
}
MOST_STREAMED = 4  # arrays that the plain loop can write


def variants(name: str) -> dict[str, Json]:
    """A row for each program of an optimizer without options: label and arguments."""
    cls = getattr(tf_optim_ext, name)
    found, seen = {}, set()
    for settings in programs.settings_of(cls):
        if settings.get("ord") == "nuclear":
            continue  # composed TensorFlow code with little left for the rule
        arguments = dict(REQUIRED.get(name, {}))
        for flag, value in settings.items():
            arguments.update(DERIVED[flag][value] if flag in DERIVED else {flag: value})
        program = cls.program(**settings)
        if program.fingerprint in seen:
            continue
        seen.add(program.fingerprint)
        shown = ", ".join(f"{k.removeprefix('has_')}={v}" for k, v in settings.items() if v)
        found[f"{name} ({shown})" if shown else name] = {"name": name, "arguments": arguments}
    return found


class Server(server.Server):
    """Measures one optimizer at a time: slots of all of them would need too much memory."""

    library: of_tensorflow.Ours

    def names(self) -> Json:
        return {"names": [cls.__name__ for cls in optimizers.ALL]}

    def variants(self, name: str) -> Json:
        if name not in self.names()["names"]:
            raise server.Missing(f"no optimizer is called {name}: see tf_optim_ext.optimizers.ALL")
        return {"variants": variants(name)}

    def case(self, shapes: list[list[int]], seed: int) -> Json:
        made = super().case(shapes, seed)
        self.initial = self.library.weights()
        return made

    def measure(
        self, name: str, arguments: Json, windows: int, window_seconds: float, seed: int
    ) -> Json:
        """Times eager steps of an optimizer, and the limit in the same windows."""
        gc.collect()  # slots of the optimizer before must go before those of this one come
        optimizer = getattr(tf_optim_ext, name)(**arguments)
        program = optimizer._program()
        for variable, value in zip(self.library.variables, self.initial, strict=True):
            variable.assign(value)
        written = min(MOST_STREAMED, 1 + len(program.slots))
        own = self.library.keras_3(optimizer, name, "eager", 1)
        limit = self.library.make(f"limit{written}", "", 1)
        timed = [timing.Timed(step.step, step.finish) for step in (own, limit)]
        for each in timed:
            timing.warm_up(each, window_seconds)
        gc.collect()
        timing.interleave(timed, windows, seed)
        weights = sum(value.size for value in self.initial)
        moved = moved_bytes.per_weight(program)
        rate = 4 * (2 * written + 1) * weights / statistics.median(timed[1].windows)
        low, median, high = timing.quartiles(timed[0].windows)
        return {
            "route": own.route,
            "slots": len(program.slots),
            "passes": program.passes,
            "bytes_per_weight": moved,
            "milliseconds": 1e3 * median,
            "quartiles": [1e3 * low, 1e3 * high],
            "gigabytes_per_second": moved * weights / median / 1e9,
            "limit_gigabytes_per_second": rate / 1e9,
            "part_of_limit": moved * weights / median / rate,
        }


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(Server(of_tensorflow.Ours()))
