"""What `docs/migration-from-tf-keras-2.md` says of the optimizers of Keras 2."""

import inspect
import pathlib
import re
import runpy

import numpy as np
import pytest
import tensorflow as tf
from common import assert_close
from generation import keras
from legacy import legacy
from tf_keras import optimizers as new

import tf_optim_ext

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "migration-from-tf-keras-2.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

_RATE = {"learning_rate": 0.05}
_ADAM = {**_RATE, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.01}
_RMS = {**_RATE, "rho": 0.8, "epsilon": 0.01}
_FTRL = {
    **_RATE,
    "learning_rate_power": -0.4,
    "initial_accumulator_value": 0.3,
    "l1_regularization_strength": 0.01,
    "l2_regularization_strength": 0.02,
    "l2_shrinkage_regularization_strength": 0.03,
    "beta": 0.1,
}
# Name and arguments; whether the legacy optimizer's formula is the same; "": there is none.
FORMULAS = [
    ("SGD", _RATE, True),
    ("SGD", {**_RATE, "momentum": 0.7}, True),
    ("SGD", {**_RATE, "momentum": 0.7, "nesterov": True}, True),
    ("Adam", _ADAM, True),
    ("Adam", {**_ADAM, "amsgrad": True}, True),
    ("AdamW", {**_ADAM, "weight_decay": 0.1}, ""),
    ("Adamax", _ADAM, True),
    ("Nadam", _ADAM, False),
    ("RMSprop", _RMS, False),
    ("RMSprop", {**_RMS, "centered": True}, False),
    ("RMSprop", {**_RMS, "momentum": 0.5}, True),
    ("RMSprop", {**_RMS, "momentum": 0.5, "centered": True}, True),
    ("Adagrad", {**_RATE, "initial_accumulator_value": 0.2, "epsilon": 0.01}, False),
    ("Adadelta", {**_RATE, "rho": 0.8, "epsilon": 0.01}, True),
    ("Ftrl", _FTRL, True),
    ("Lion", {**_RATE, "beta_1": 0.8, "beta_2": 0.9}, ""),
]
SLOTS = [
    ("SGD", {**_RATE, "momentum": 0.7}),
    ("Adam", {**_ADAM, "amsgrad": True}),
    ("Adamax", _ADAM),
    ("RMSprop", {**_RMS, "momentum": 0.5, "centered": True}),
    ("Adagrad", {**_RATE, "epsilon": 1e-30}),
    ("Adadelta", {**_RATE, "rho": 0.8, "epsilon": 0.01}),
    ("Ftrl", _FTRL),
]
START = np.random.default_rng(0).normal(size=5).astype(np.float32)
GRADIENTS = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
EXPECTED_ROWS = [
    ("SGD", _RATE, "exact"),
    ("SGD", {**_RATE, "momentum": 0.7}, "lazy"),
    ("Adam", _ADAM, "exact"),
    ("Adagrad", {**_RATE, "epsilon": 1e-30}, "exact"),
    ("Adamax", _ADAM, "lazy"),
    ("Adadelta", {**_RATE, "rho": 0.8, "epsilon": 0.01}, "lazy"),
    ("Ftrl", _FTRL, "lazy"),
    ("RMSprop", {**_RMS, "momentum": 0.5}, "lazy"),
]


def path_of(optimizer, gradients=GRADIENTS, start=START):
    """The weights after each step."""
    variable, found = tf.Variable(start), []
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
        found.append(variable.numpy())
    return np.array(found)


def table(title):
    """The rows of the first table under a title, as lists of cells."""
    section = TEXT.split(f"\n{title}\n")[1]
    lines = re.search(r"((?:^\|.*\n)+)", section, re.MULTILINE).group(1).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names_in(cell):
    return re.findall(r"`(\w+)`", cell)


class TestFormulas:
    @pytest.mark.parametrize(("name", "arguments", "same"), FORMULAS)
    def test_trajectories(self, name, arguments, same):
        ours = path_of(getattr(tf_optim_ext, name)(**arguments))
        np.testing.assert_allclose(
            ours, path_of(getattr(new, name)(**arguments)), rtol=1e-5, atol=1e-6
        )
        if same == "":
            assert not hasattr(legacy, name)
            return
        theirs = path_of(getattr(legacy, name)(**arguments))
        worst = np.max(np.abs(ours - theirs))
        assert (worst < 1e-6) if same else (worst > 1e-4)

    def test_each_that_differs_is_in_the_table(self):
        listed = {names_in(row[0])[0] for row in table("## Formulas")}
        assert listed == {name for name, _, same in FORMULAS if same is False}
        for name, _, _ in FORMULAS:
            assert f"`{name}`" in TEXT.split("| legacy |")[0]

    def test_epsilon_of_rmsprop(self):
        """One step from a slot of zero, in float64."""
        v = 0.2 * GRADIENTS[0].astype(np.float64) ** 2
        update = 0.05 * GRADIENTS[0]
        for cls, wanted in (
            (legacy.RMSprop, update / (np.sqrt(v) + 0.01)),
            (tf_optim_ext.RMSprop, update / np.sqrt(v + 0.01)),
        ):
            found = START - path_of(cls(**_RMS), GRADIENTS[:1])[0]
            np.testing.assert_allclose(found, wanted, rtol=1e-4)
        # The square of the legacy epsilon, where the slot is zero, or far above.
        for gradient in (np.full(5, 1e-6, np.float32), np.full(5, 100, np.float32)):
            ours, theirs = (
                (path_of(cls(**{**_RMS, "epsilon": epsilon}), [gradient]) - START) / gradient
                for cls, epsilon in ((tf_optim_ext.RMSprop, 1e-4), (legacy.RMSprop, 1e-2))
            )
            np.testing.assert_allclose(ours, theirs, rtol=1e-2 if gradient[0] < 1 else 1e-3)

    def test_epsilon_of_adagrad(self):
        a = 0.1 + GRADIENTS[0].astype(np.float64) ** 2
        update = 0.05 * GRADIENTS[0]
        for cls, wanted in (
            (legacy.Adagrad, update / (np.sqrt(a) + 0.01)),
            (tf_optim_ext.Adagrad, update / np.sqrt(a + 0.01)),
        ):
            found = START - path_of(cls(0.05, epsilon=0.01), GRADIENTS[:1])[0]
            np.testing.assert_allclose(found, wanted, rtol=1e-4)
        paths = [path_of(cls(0.05)) for cls in (legacy.Adagrad, tf_optim_ext.Adagrad)]
        np.testing.assert_allclose(*paths, rtol=1e-5, atol=1e-6)

    def test_schedule_of_nadam(self):
        paths = [
            path_of(legacy.Nadam(**_ADAM)),
            path_of(tf_optim_ext.NAdamW(**_ADAM, weight_decay=None)),
        ]
        np.testing.assert_allclose(*paths, rtol=1e-5, atol=1e-6)

    def test_defaults(self):
        """All are the same but those in the table."""
        differ = {}
        for name in {name for name, _, _ in FORMULAS}:
            ours = inspect.signature(getattr(tf_optim_ext, name)).parameters
            for library in (legacy, new):
                if not hasattr(library, name):
                    continue
                theirs = inspect.signature(getattr(library, name)).parameters
                for argument in theirs.keys() & ours.keys() - {"name", "kwargs"}:
                    default = theirs[argument].default
                    if default not in (ours[argument].default, inspect.Parameter.empty):
                        differ[argument, name] = default
        assert differ == {
            ("learning_rate", "Lion"): 1e-4,
            ("ema_overwrite_frequency", "RMSprop"): 100,
        }
        rows = table("Some defaults are others:\n")
        assert {tuple(names_in(row[0])) for row in rows} == set(differ)

    def test_averages(self):
        options = {"use_ema": True, "ema_momentum": 0.5}
        averages, variables = [], []
        for library in (tf_optim_ext, new):
            optimizer, variable = library.SGD(0.1, **options), tf.Variable(START)
            for gradient in GRADIENTS[:3]:
                optimizer.apply_gradients([(tf.constant(gradient), variable)])
            average = optimizer._model_variables_moving_average[0]
            averages.append(tf.convert_to_tensor(average).numpy())
            variables.append(variable.numpy())
        np.testing.assert_array_equal(*variables)
        first = 0.1 * GRADIENTS[0]
        np.testing.assert_allclose(averages[1] - averages[0], 0.5**3 * first, rtol=1e-4, atol=1e-7)


class TestSparse:
    STEPS = ([0, 1], [1, 2], [0, 0], [3, 1], [1, 1])

    def rows_after(self, optimizer):
        variable = tf.Variable(np.ones((5, 2), np.float32))
        for gradient, rows in zip(GRADIENTS, self.STEPS):
            values = tf.constant(gradient[:4].reshape(2, 2))
            slices = tf.IndexedSlices(values, tf.constant(rows), tf.constant([5, 2]))
            optimizer.apply_gradients([(slices, variable)])
        return variable.numpy(), variable

    @pytest.mark.parametrize(("name", "arguments", "sparse"), EXPECTED_ROWS)
    def test_rows(self, name, arguments, sparse):
        for library, kind in ((legacy, sparse), (new, "exact")):
            ours, _ = self.rows_after(getattr(tf_optim_ext, name)(**arguments, sparse=kind))
            theirs, _ = self.rows_after(getattr(library, name)(**arguments))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("theirs", "ours", "slots"),
        [
            (legacy.RMSprop(**_RMS), tf_optim_ext.RMSprop(**_RMS), {"rms": "velocity"}),
            (
                legacy.Nadam(**_ADAM),
                tf_optim_ext.NAdamW(**_ADAM, weight_decay=None),
                {"m": "momentum", "v": "velocity"},
            ),
        ],
        ids=["RMSprop", "Nadam"],
    )
    def test_those_that_are_neither(self, theirs, ours, slots):
        _, old = self.rows_after(theirs)
        _, variable = self.rows_after(ours)
        for a, b in slots.items():
            assert_close([ours.get_slot(variable, b)], [theirs.get_slot(old, a)])
        before = old.numpy()
        row = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([0]), tf.constant([5, 2]))
        theirs.apply_gradients([(row, old)])
        assert (old.numpy()[1:] == before[1:]).all()


class TestArguments:
    def test_decay(self):
        schedule = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)
        paths = [path_of(legacy.SGD(0.1, decay=0.5)), path_of(tf_optim_ext.SGD(schedule))]
        np.testing.assert_allclose(*paths, rtol=1e-6)

    def test_epsilon(self):
        assert legacy.Adam(epsilon=0.0).epsilon == legacy.Adam(epsilon=None).epsilon == 1e-7
        assert tf_optim_ext.Adam(epsilon=None).epsilon == 1e-7
        assert tf_optim_ext.Adam(epsilon=0.0).epsilon == 0.0

    def test_clipping(self):
        gradient = GRADIENTS[0]
        clipped = np.clip(gradient, -0.3, 0.3)
        clipped = clipped * min(1.0, 0.5 / np.linalg.norm(clipped))
        both = {"clipvalue": 0.3, "clipnorm": 0.5}
        found = START - path_of(legacy.SGD(1.0, **both), [gradient])[0]
        np.testing.assert_allclose(found, clipped, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match="only one"):
            tf_optim_ext.SGD(1.0, **both)
        for one in ("clipnorm", "clipvalue", "global_clipnorm"):
            paths = [path_of(lib.SGD(0.1, **{one: 0.3})) for lib in (legacy, new, tf_optim_ext)]
            np.testing.assert_allclose(paths[0], paths[2], rtol=1e-6)
            np.testing.assert_allclose(paths[1], paths[2], rtol=1e-6)

    @pytest.mark.parametrize("library", [legacy, new], ids=["legacy", "new"])
    def test_every_argument_is_taken_or_on_the_page(self, library):
        rows = table("## Arguments")
        on_page = {name for row in rows for name in re.findall(r"`(\w+)=?[\w.]*`", row[0])}
        for name in {name for name, _, _ in FORMULAS if hasattr(library, name)}:
            ours = inspect.signature(getattr(tf_optim_ext, name)).parameters
            theirs = set(inspect.signature(getattr(library, name)).parameters) - {"kwargs"}
            assert theirs <= set(ours) | on_page
        for gone in ("jit_compile", "adaptive_epsilon", "gradient_aggregator"):
            assert gone in on_page
            with pytest.raises(TypeError, match=gone):
                tf_optim_ext.Adam(**{gone: None})

    def test_config_of_legacy(self):
        config = legacy.Adam(0.1).get_config()
        with pytest.raises(TypeError, match="decay"):
            tf_optim_ext.Adam.from_config(config)
        del config["decay"]
        assert tf_optim_ext.Adam.from_config(config).get_config()["beta_1"] == config["beta_1"]

    def test_order_of_weights(self):
        variables = [tf.Variable([1.0]), tf.Variable([2.0, 3.0])]
        sizes = []
        for library in (legacy, tf_optim_ext):
            optimizer = library.Adam(0.1)
            optimizer.apply_gradients([(tf.ones_like(v), v) for v in variables])
            sizes.append([w.size for w in optimizer.get_weights()])
        assert sizes == [[1, 1, 2, 1, 2], [1, 1, 1, 1, 2, 2]]


class TestSlots:
    @pytest.mark.parametrize(("name", "arguments"), SLOTS, ids=lambda x: str(x)[:9])
    def test_values_and_names(self, name, arguments):
        (row,) = [row for row in table("## Slots") if name in names_in(row[0])]
        optimizers = [getattr(lib, name)(**arguments) for lib in (legacy, new, tf_optim_ext)]
        variables = [tf.Variable(START) for _ in optimizers]
        for gradient in GRADIENTS[:4]:
            for optimizer, variable in zip(optimizers, variables):
                optimizer.apply_gradients([(tf.constant(gradient), variable)])
        old, later, ours = optimizers
        assert old.get_slot_names() == names_in(row[1])
        assert sorted(ours.get_slot_names()) == sorted(names_in(row[3]))
        for legacy_name, attribute, slot in zip(*map(names_in, row[1:])):
            found = np.asarray(ours.get_slot(variables[2], slot))
            theirs = [old.get_slot(variables[0], legacy_name), getattr(later, attribute)[0]]
            for each in theirs:
                np.testing.assert_allclose(found, each.numpy(), rtol=1e-4, atol=1e-6)

    def test_every_optimizer_with_slots_has_a_row(self):
        listed = {name for row in table("## Slots") for name in names_in(row[0])}
        assert {name for name, _, same in FORMULAS if same != ""} <= listed

    def test_nadam_goes_on(self):
        old, variable = legacy.Nadam(**_ADAM), tf.Variable(START)
        for gradient in GRADIENTS[:3]:
            old.apply_gradients([(tf.constant(gradient), variable)])
        ours, other = tf_optim_ext.NAdamW(**_ADAM, weight_decay=None), tf.Variable(variable)
        ours.build([other])
        ours.iterations.assign(old.iterations)
        for a, b in (("m", "momentum"), ("v", "velocity")):
            ours.get_slot(other, b).assign(old.get_slot(variable, a))
        assert old.weights[1].name == "Nadam/momentum_cache:0"
        ours.scalars["momentum_product"].assign(old.weights[1])
        for gradient in GRADIENTS[3:]:
            for optimizer, each in ((old, variable), (ours, other)):
                optimizer.apply_gradients([(tf.constant(gradient), each)])
        assert_close([other], [variable])


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
class TestPage:
    @pytest.mark.parametrize("number", range(len(BLOCKS)))
    def test_examples_run(self, number, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "example.py").write_text(BLOCKS[number])
        runpy.run_path("example.py")

    def test_state_is_copied(self, tmp_path):
        """By the second example: the training goes on with the same numbers."""
        (code,) = [block for block in BLOCKS if "legacy.Adam" in block]
        (tmp_path / "example.py").write_text(code)
        names = runpy.run_path(str(tmp_path / "example.py"))
        old, ours, weights = names["old"], names["new"], names["weights"]
        start = weights.numpy()
        ours.apply_gradients([(tf.constant([0.5, 1.0]), weights)])
        found = weights.numpy()
        weights.assign(start)
        old.apply_gradients([(tf.constant([0.5, 1.0]), weights)])
        np.testing.assert_allclose(found, weights.numpy(), rtol=1e-5)

    def test_models_of_keras_2(self, tmp_path):
        import tf_keras

        old = tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Dense(2)])
        old.save(tmp_path / "old.h5")
        model = keras.models.load_model(tmp_path / "old.h5", compile=False)
        x = np.ones((2, 3), np.float32)
        np.testing.assert_allclose(model(x), old(x), rtol=1e-6)
