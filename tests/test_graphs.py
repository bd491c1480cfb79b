"""Optimizers in graphs of sessions, as TensorFlow 1 ran them: each run of the update is a step."""

import contextlib

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    CLIPPING,
    KINDS,
    SHAPES,
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    route_of_dense,
    same,
    train,
)
from conftest import portable
from generation import keras, only_keras_3

import tf_optim_ext
from tf_optim_ext import _keras

v1 = tf.compat.v1
ADAM, SGD = registry.BY_NAME["Adam"], registry.BY_NAME["SGD-momentum"]
CALLS = ("get_updates", "apply_gradients", "minimize", "wrapped")
OPTIONS = [
    {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 2},
    {"gradient_accumulation_steps": 2},
    {"gradient_accumulation_steps": 2, "use_ema": True, "sparse": "lazy"},
    *(
        pytest.param(options, marks=pytest.mark.long)
        for options in ({"weight_decay": 0.1, "loss_scale_factor": 4.0}, *CLIPPING)
    ),
]


def evaluated(session, variables):
    """The values of Keras' or TensorFlow's variables, as arrays."""
    return session.run([_keras.tensorflow_variable(v) for v in variables])


class InGraph:
    """An optimizer with its variables in a graph, and a session.

    Attributes:
        update: what a step runs.
    """

    def __init__(self, make, kind="tf", call="get_updates", build=False, shapes=SHAPES):
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.variables = make_variables(kind, shapes)
            self.optimizer = make()
            if build:
                self.optimizer.build(self.variables)
            self.gradients = [v1.placeholder(tf.float32, shape) for shape in shapes]
            self.update = self._add(call)
            self.session = v1.Session(graph=self.graph)
            # Weights first: the slots of some optimizers start from them.
            values = [_keras.tensorflow_variable(v) for v in self.variables]
            self.session.run(v1.variables_initializer(values))
            self.session.run(v1.global_variables_initializer())

    def _loss(self):
        pairs = zip(self.gradients, self.variables)
        return tf.add_n([tf.reduce_sum(g * tf.convert_to_tensor(v)) for g, v in pairs])

    def _add(self, call):
        pairs = list(zip(self.gradients, self.variables))
        if call == "get_updates":
            return self.optimizer.get_updates(self._loss(), self.variables)
        if call == "minimize":
            return self.optimizer.minimize(self._loss, self.variables)
        if call == "wrapped":
            # A function of a graph without automatic control dependencies.
            yes = v1.placeholder_with_default(True, ())
            return tf.cond(yes, lambda: self.optimizer.apply_gradients(pairs), tf.no_op)
        return self.optimizer.apply_gradients(pairs)

    def train(self, steps=3, first=0):
        """Steps as of `common.train`."""
        shapes = [tuple(v.shape) for v in self.variables]
        for step in range(first, first + steps):
            fed = dict(zip(self.gradients, make_gradients(step, shapes)))
            self.session.run(self.update, fed)

    def values(self):
        return evaluated(self.session, [*self.variables, *self.optimizer.variables])


def assert_same(actual, expected):
    """To the last bit where steps are native. TensorFlow folds constants in graphs of its ops."""
    if tf_optim_ext.native.why_not():
        assert_close(actual, expected)
    else:
        assert same(actual, expected)


def eager_values(make, steps=3, kind="tf", shapes=SHAPES):
    variables, optimizer = make_variables(kind, shapes), make()
    train(optimizer, variables, steps)
    return [*arrays(variables), *optimizer.get_weights()]


class TestTrajectory:
    @pytest.mark.few
    def test_is_the_eager_one(self, entry):
        in_graph = InGraph(entry.make)
        in_graph.train()
        assert_same(in_graph.values(), eager_values(entry.make))
        assert str(in_graph.optimizer.route) == route_of_dense()

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize(
        ("build", "kind"),
        [
            # By default two of them, with both kinds.
            pytest.param(
                build,
                kind,
                marks=pytest.mark.long if len(KINDS) > 1 and build == (kind == "tf") else (),
                id=f"{'built' if build else 'unbuilt'}-{kind}",
            )
            for build in (False, True)
            for kind in KINDS
        ],
    )
    def test_of_every_call(self, call, kind, build):
        in_graph = InGraph(ADAM.make, kind, call, build)
        in_graph.train()
        assert_same(in_graph.values(), eager_values(ADAM.make, kind=kind))
        if call in ("apply_gradients", "minimize"):
            assert isinstance(in_graph.update, tf.Operation)

    @pytest.mark.few
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_with_options(self, entry, options):
        def make():
            with contextlib.suppress(ValueError):
                return entry.make(**options)
            pytest.skip("this optimizer has no such option")

        in_graph = InGraph(make)
        in_graph.train(5)
        # Norms may be added up in another order.
        assert_close(in_graph.values(), eager_values(make, 5), rtol=1e-6)

    @pytest.mark.few
    def test_on_the_tensorflow_route(self, entry):
        in_graph = portable(InGraph)(entry.make)
        in_graph.train()
        assert_close(in_graph.values(), portable(eager_values)(entry.make))
        assert str(in_graph.optimizer.route) == "tensorflow: inside portable()"

    @pytest.mark.parametrize("sparse", ["exact", "lazy", "catch_up"])
    @pytest.mark.parametrize("count", [None, 2])
    def test_sparse_gradients(self, sparse, count):
        def make():
            return tf_optim_ext.AdamW(0.1, sparse=sparse, gradient_accumulation_steps=count)

        rng = np.random.default_rng(0)
        table, rows = rng.normal(size=(6, 2)).astype("float32"), [[1, 4, 1], [0, 4, 0], [5, 5, 1]]
        with tf.Graph().as_default(), v1.Session() as session:
            weight, optimizer = tf.Variable(table), make()
            fed = v1.placeholder(tf.int64, [3])
            loss = tf.reduce_sum(tf.square(tf.nn.embedding_lookup(weight, fed)))
            update = optimizer.get_updates(loss, [weight])
            session.run(v1.global_variables_initializer())
            for own in (*rows, rows[0]):
                session.run(update, {fed: own})
            with pytest.raises(tf.errors.InvalidArgumentError):
                session.run(update, {fed: [1, 6, 1]})
            found = evaluated(session, [weight, *optimizer.variables])
        single, expected = make(), tf.Variable(table)
        for own in (*rows, rows[0]):
            single.minimize(
                lambda own=own: tf.reduce_sum(tf.square(tf.gather(expected, own))), [expected]
            )
        assert_close(found, [expected, *single.variables])

    def test_schedule_and_constraint(self):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 0.5, 0.25])
        with tf.Graph().as_default(), v1.Session() as session:
            weight = tf.Variable(0.5, constraint=lambda w: tf.maximum(w, -1.0))
            optimizer = tf_optim_ext.SGD(schedule)
            update = optimizer.get_updates(weight + 0.0, [weight])
            session.run(v1.global_variables_initializer())
            found = []
            for _ in range(4):
                session.run(update)
                found.append(float(session.run(weight)))
        assert found == [-0.5, -1.0, -1.0, -1.0]


class TestGraph:
    def test_adds_no_initializer_to_the_update(self, entry):
        in_graph = InGraph(entry.make)
        (update,) = in_graph.update
        seen, waiting = set(), [update]
        while waiting:
            operation = waiting.pop()
            seen.add(operation)
            inputs = [*(x.op for x in operation.inputs), *operation.control_inputs]
            waiting.extend(o for o in inputs if o not in seen)
        assert not [o.name for o in seen if o.type.startswith("Assign")]

    @pytest.mark.few("NovoGrad", "Prodigy")
    @only_keras_3("has the learning rate elsewhere")
    def test_global_variables_initializer(self, entry):
        in_graph = InGraph(entry.make)
        fresh = in_graph.values()
        in_graph.train()
        assert not same(in_graph.values(), fresh)
        with in_graph.graph.as_default():
            assert {v.ref() for v in v1.global_variables()} == {
                _keras.tensorflow_variable(v).ref()
                for v in [*in_graph.variables, *in_graph.optimizer.variables]
            }
        again = InGraph(entry.make)
        assert_same(again.values(), fresh)

    @pytest.mark.few("NovoGrad", "Prodigy")
    @pytest.mark.parametrize("of", ["all", pytest.param("optimizer", marks=pytest.mark.long)])
    def test_saver(self, entry, of, tmp_path):
        def make():
            return entry.make(name="mine")

        first, second = InGraph(make), InGraph(make)
        expected = eager_values(make, 4)
        savers = []
        for each in (first, second):
            with each.graph.as_default():
                values = [v.value for v in each.optimizer.variables] if of != "all" else None
                savers.append(v1.train.Saver(values))
        first.train(2)
        with first.graph.as_default():
            path = savers[0].save(first.session, str(tmp_path / "saved"))
        with second.graph.as_default():
            savers[1].restore(second.session, path)
        if of == "optimizer":
            weights = evaluated(first.session, first.variables)
            with second.graph.as_default():
                assigned = [v.assign(w) for v, w in zip(second.variables, weights, strict=True)]
                second.session.run(assigned)
        second.train(2, first=2)
        assert_same(second.values(), expected)

    def test_control_dependencies(self):
        """The update waits for what it is told to, and others can wait for the update."""
        with tf.Graph().as_default(), v1.Session() as session:
            weight, log = tf.Variable(1.0), tf.Variable([0.0, 0.0])
            optimizer = tf_optim_ext.SGD(0.5, momentum=0.5)
            optimizer.build([weight])
            with tf.control_dependencies([log[0].assign(weight)]):
                update = optimizer.apply_gradients([(tf.constant(1.0), weight)])
            with tf.control_dependencies([update]):
                after = log[1].assign(weight.read_value())
            session.run(v1.global_variables_initializer())
            for before, now in ((1.0, 0.5), (0.5, -0.25)):
                session.run(after)
                assert session.run(log).tolist() == [before, now]

    @only_keras_3("has no variable inside")
    def test_the_learning_rate_can_be_assigned(self):
        with tf.Graph().as_default(), v1.Session() as session:
            weight, optimizer = tf.Variable(1.0), tf_optim_ext.SGD(0.5)
            (update,) = optimizer.get_updates(weight + 0.0, [weight])
            slower = optimizer.learning_rate.value.assign(0.25)
            session.run(v1.global_variables_initializer())
            session.run(update)
            session.run(slower)
            session.run(update)
            assert session.run(weight) == 0.25

    def test_a_tensor_as_hyperparameter(self):
        with tf.Graph().as_default(), v1.Session() as session:
            weight, momentum = tf.Variable(1.0), v1.placeholder(tf.float32, ())
            optimizer = tf_optim_ext.SGD(tf.constant(0.5), momentum=lambda: momentum)
            update = optimizer.apply_gradients([(tf.constant(1.0), weight)])
            session.run(v1.global_variables_initializer())
            for value in (0.0, 0.25, 0.5):
                session.run(update, {momentum: value})
            # Of steps of 0.5, 0.5 + 0.25 * 0.5 and 0.5 + 0.5 * 0.625.
            assert session.run(weight) == -0.9375

    @pytest.mark.few
    def test_two_optimizers(self, entry):
        """Of two variables each, and of the same ones by turns."""
        with tf.Graph().as_default(), v1.Session() as session:
            variables = make_variables("tf")
            first, second = entry.make(), SGD.make()
            gradients = [tf.constant(g) for g in make_gradients(0)]
            updates = [
                first.apply_gradients(zip(gradients[:2], variables[:2])),
                second.apply_gradients(zip(gradients[1:], variables[1:])),
            ]
            session.run(v1.variables_initializer(variables))
            session.run(v1.global_variables_initializer())
            for update in (*updates, *updates):
                session.run(update)
            found = evaluated(session, [*variables, *first.variables, *second.variables])
        variables, first, second = make_variables("tf"), entry.make(), SGD.make()
        for _ in range(2):
            first.apply_gradients(zip(make_gradients(0)[:2], variables[:2]))
            second.apply_gradients(zip(make_gradients(0)[1:], variables[1:]))
        assert_same(found, arrays([*variables, *first.variables, *second.variables]))

    @pytest.mark.parametrize("device", ["", "/CPU:0"])
    def test_with_gpus_weights_need_a_device(self, device, monkeypatch, native_only):
        """A session might place the others on a GPU, where the native op is not."""
        monkeypatch.setattr(_keras, "has_gpus", lambda: True)
        with tf.Graph().as_default():
            with tf.device(device or None):
                weight, optimizer = tf.Variable(1.0), SGD.make()
            optimizer.apply_gradients([(tf.constant(1.0), weight)])
        placed = "tensorflow: weights that may be placed on a GPU"
        assert str(optimizer.route) == (route_of_dense() if device else placed)

    def test_two_updates_of_one_optimizer_share_its_slots(self):
        with tf.Graph().as_default(), v1.Session() as session:
            variables, optimizer = make_variables("tf"), ADAM.make()
            updates = [
                optimizer.apply_gradients(zip(make_gradients(step), variables)) for step in range(2)
            ]
            session.run(v1.global_variables_initializer())
            for update in updates:
                session.run(update)
            found = evaluated(session, [*variables, *optimizer.variables])
        assert_same(found, eager_values(ADAM.make, 2))

    @pytest.mark.parametrize("clipping", [{}, *CLIPPING], ids=str)
    def test_get_gradients(self, clipping):
        values, start = make_gradients(0), make_gradients(1)
        with tf.Graph().as_default(), v1.Session() as session:
            variables, optimizer = make_variables("tf"), tf_optim_ext.SGD(1.0, **clipping)
            loss = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(values, variables)])
            gradients = optimizer.get_gradients(loss, variables)
            session.run(v1.global_variables_initializer())
            found = session.run(gradients)
        variables, optimizer = make_variables("tf"), tf_optim_ext.SGD(1.0, **clipping)
        for variable, value in zip(variables, start):
            variable.assign(value)
        optimizer.apply_gradients(zip(values, variables))
        assert_close(found, [s - np.array(v) for s, v in zip(start, variables)])

    @only_keras_3("has no variable inside")
    def test_add_slot_and_weight(self):
        with tf.Graph().as_default(), v1.Session() as session:
            variable, optimizer = make_variables("tf")[0], ADAM.make()
            slot = optimizer.add_slot(variable, "mine", "ones", shape=(2,))
            weight = optimizer.add_weight("count", (), initializer="ones")
            optimizer.build([variable])
            session.run(v1.global_variables_initializer())
            assert optimizer.get_slot(variable, "mine") is slot
            assert session.run(slot.value).tolist() == [1.0, 1.0]
            assert session.run(weight.value) == 1.0


class TestErrors:
    @pytest.mark.parametrize("built", [False, True])
    def test_an_optimizer_from_elsewhere(self, built):
        optimizer = SGD.make()
        if built:
            optimizer.build([tf.Variable(1.0)])
        with tf.Graph().as_default():
            weight = tf.Variable(1.0)
            for _ in range(2):
                with pytest.raises(RuntimeError, match=r"within `with graph\.as_default"):
                    optimizer.apply_gradients([(tf.constant(1.0), weight)])
            other = SGD.make()
        assert optimizer.built == built
        with tf.Graph().as_default(), pytest.raises(RuntimeError, match="created outside"):
            other.get_updates(*(lambda v: (v + 0.0, [v]))(tf.Variable(1.0)))

    def test_bad_input_creates_nothing(self):
        with tf.Graph().as_default() as graph:
            weight, optimizer = tf.Variable([1.0, 2.0]), ADAM.make()
            before = len(graph.get_operations())
            for pairs, error in (
                ([(tf.constant([1.0]), weight)], ValueError),
                ([(tf.constant([1, 2]), weight)], TypeError),
                ([(None, weight)], ValueError),
                ([(tf.constant([1.0, 2.0]), 5.0)], TypeError),
                ([weight], TypeError),
            ):
                with pytest.raises(error):
                    optimizer.apply_gradients(pairs)
            assert not optimizer.built
            assert not [o.name for o in graph.get_operations()[before:] if o.type == "VarHandleOp"]

    def test_what_would_add_an_operation_that_nobody_runs(self):
        with tf.Graph().as_default():
            optimizer = ADAM.make()
            with pytest.raises(RuntimeError, match=r"learning_rate\.value\.assign"):
                optimizer.learning_rate = 0.5
            with pytest.raises(RuntimeError, match=r"learning_rate\.value\.assign"):
                optimizer.lr = 0.5
            with pytest.raises(RuntimeError, match="Saver"):
                optimizer.set_weights([np.int64(1), np.float32(0.5)])

    def test_what_would_read_values(self):
        with tf.Graph().as_default():
            optimizer = ADAM.make()
            for read, remedy in (
                (optimizer.get_config, "the arguments that this one got"),
                (optimizer.get_weights, r"\[v\.value for v in"),
                (lambda: optimizer.save_own_variables({}), "Saver"),
                (lambda: optimizer.load_own_variables({"iteration": 1}), "Saver"),
            ):
                with pytest.raises(RuntimeError, match=remedy):
                    read()
            with_schedule = tf_optim_ext.SGD(
                keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9), momentum=0.5
            )
            assert with_schedule.get_config()["momentum"] == 0.5

    def test_steps_that_return_nothing_to_run(self):
        with tf.Graph().as_default():
            optimizer, sophia = ADAM.make(), tf_optim_ext.Sophia()
            weight, gradient = tf.Variable(1.0), tf.constant(1.0)
            with pytest.raises(RuntimeError, match="what `apply_gradients` returns"):
                optimizer.apply([gradient], [weight])
            with pytest.raises(RuntimeError, match=r"`tf\.function` that calls it"):
                optimizer.update_step(gradient, weight, 0.1)
            with pytest.raises(RuntimeError, match=r"`tf\.function` that calls it"):
                sophia.update_hessian([gradient], [weight])
            assert not optimizer.built
            assert not sophia.built

    @only_keras_3("has no variable inside")
    def test_in_a_function_that_returns_a_tensor(self):
        """The remedy that the errors name."""
        with tf.Graph().as_default(), v1.Session() as session:
            optimizer, weight = tf_optim_ext.Sophia(0.5), tf.Variable(1.0)

            @tf.function
            def update():
                optimizer.update_hessian([tf.constant(4.0)], [weight], scale=2.0)
                return tf.identity(weight)

            updated = update()
            session.run(v1.global_variables_initializer())
            session.run(updated)
            hessian = session.run(optimizer.get_slot(weight, "hessian").value)
        single, variable = tf_optim_ext.Sophia(0.5), tf.Variable(1.0)
        single.update_hessian([tf.constant(4.0)], [variable], scale=2.0)
        assert hessian == single.get_slot(variable, "hessian").numpy()

    @only_keras_3("has no variable inside")
    def test_no_pairs(self):
        with tf.Graph().as_default(), v1.Session() as session:
            optimizer = ADAM.make()
            update = optimizer.apply_gradients([])
            session.run(v1.global_variables_initializer())
            update.run()
            assert session.run(optimizer.iterations.value) == 0
