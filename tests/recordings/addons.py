"""Recordings of optimizers that TensorFlow Addons had, and those of layer-wise rates and signs."""

import numpy as np

from recordings.format import MATRIX, SCALAR, SMALL, TENSOR, VECTOR, Recording

# Added to the square root before bias correction by torch and pytorch_optimizer, after it by the
# references; for Yogi it is the other way round.
_NEGLIGIBLE_EPSILON = (
    "eps is added to the square root before or after bias correction; it is negligible beside it,"
    " except where the momentum is zero, too"
)
_YOGI_BETA_2_IS_0 = "eps is added to the square root after bias correction, which is 1, as b2 is 0"
_YOGI_MOMENTUM = (
    "optax's mu begins with initial_accumulator_value; it was set to 0 before the first step"
)
_SCALED_MOMENTUM = "momentum_buffer is multiplied by lr to give the slot momentum"
_SCALED_DECAY = "the decay is multiplied by lr, which weight_decay of the reference is not"
_NEGATIVE_MOMENTUM = "momentum_buffer is multiplied by -lr to give the slot momentum"
_ADDONS_NOVOGRAD = "m is divided by -learning_rate to give the slot momentum"
_ADDONS_COCOB = (
    "gradients_sum is of the other sign than gradient_sum; the slot initial_weights is not kept"
    " but has the weights that are given"
)

_ADAM = ("momentum", "velocity")
_AMSGRAD = ("momentum", "velocity", "velocity_hat")
_COCOB = ("lipschitz", "gradient_norm_sum", "reward", "gradient_sum", "initial_weights")


def _recording(name, implementation, reference, slots, shapes, call, conversion="", **arguments):
    return Recording(
        name=name,
        implementation=implementation,
        call=call,
        reference=reference,
        arguments=arguments,
        slots=slots,
        shapes=shapes,
        conversion=conversion,
    )


def _torch(package, name, implementation, reference, slots, shapes, conversion="", *, call, **more):
    renamed = {
        "lr": "learning_rate",
        "beta": "beta",
        "eps": "epsilon",
        "momentum": "momentum",
        "nesterov": "nesterov",
        "weight_decay": "weight_decay",
        "rectify": "rectify",
        "ams_bound": "amsgrad",
        "n_sma_threshold": "sma_threshold",
        "grad_averaging": "grad_averaging",
        "trust_coeff": "trust_coefficient",
    }
    arguments = {ours: call[theirs] for theirs, ours in renamed.items() if theirs in call}
    if "betas" in call:
        arguments["beta_1"], arguments["beta_2"] = call["betas"]
    prefix = {"torch": "torch.optim", "timm": "timm.optim"}.get(package, package)
    return _recording(
        f"{package}_{name}",
        f"{prefix}.{implementation}",
        reference,
        slots,
        shapes,
        call | {"foreach": False},
        conversion,
        **arguments | more,
    )


def _optax(name, implementation, reference, slots, shapes, conversion="", **call):
    renamed = {
        "b1": "beta_1",
        "b2": "beta_2",
        "beta": "momentum" if reference == "signum" else "beta",
        "eps": "epsilon",
        "threshold": "sma_threshold",
    }
    arguments = {renamed.get(theirs, theirs): value for theirs, value in call.items()}
    # AdaBelief's two epsilons are one; elsewhere there is none inside the root.
    eps_root = arguments.pop("eps_root", 0.0)
    assert eps_root in ((call["eps"],) if reference == "adabelief" else (0.0,))
    if reference == "adabelief":
        arguments["rectify"] = False
    return _recording(
        f"optax_{name}",
        f"optax.{implementation}",
        reference,
        slots,
        shapes,
        call,
        conversion,
        **arguments,
    )


def _addons(name, implementation, slots, shapes, conversion="", **call):
    # Most arguments become float32 variables. The calls below hence have only arguments that
    # float32 represents.
    for value in call.values():
        assert isinstance(value, str) or np.float32(value) == value
    reference = implementation.lower()
    renamed = {"beta1": "beta_1", "beta2": "beta_2"}
    arguments = {renamed.get(theirs, theirs): value for theirs, value in call.items()}
    if reference == "cocob":
        # Its constant, which cannot be chosen.
        arguments["epsilon"] = 1e-8
    return _recording(
        f"tensorflow_addons_{name}",
        f"tensorflow_addons.optimizers.{implementation}",
        reference,
        slots,
        shapes,
        call,
        conversion,
        **arguments,
    )


def _proximal_adagrad(name, shapes, **call):
    return _recording(
        f"tensorflow_{name}",
        "tensorflow.raw_ops.ResourceApplyProximalAdagrad",
        "proximaladagrad",
        ("accumulator",),
        shapes,
        call,
        "the accumulator's initial value is not an argument of the operation",
        learning_rate=call["lr"],
        initial_accumulator_value=0.3,
        l1_regularization_strength=call["l1"],
        l2_regularization_strength=call["l2"],
    )


RECORDINGS = (
    _addons(
        "adabelief",
        "AdaBelief",
        _AMSGRAD,
        (SCALAR, VECTOR, MATRIX),
        learning_rate=2**-5,
        beta_1=0.8125,
        beta_2=0.9375,
        epsilon=2**-8,
        weight_decay=0.25,
        rectify=True,
        amsgrad=True,
        sma_threshold=6.0,
        total_steps=20,
        warmup_proportion=0.25,
        min_lr=2**-9,
    ),
    _addons(
        "adabelief_plain",
        "AdaBelief",
        _ADAM,
        (VECTOR, SMALL),
        learning_rate=2**-4,
        beta_1=0.75,
        beta_2=0.96875,
        epsilon=2**-6,
        weight_decay=0.125,
        rectify=False,
    ),
    _addons(
        "rectifiedadam",
        "RectifiedAdam",
        _ADAM,
        (SCALAR, VECTOR, TENSOR),
        learning_rate=2**-6,
        beta_1=0.875,
        beta_2=0.96875,
        epsilon=2**-8,
        weight_decay=0.375,
        sma_threshold=5.0,
    ),
    _addons(
        "rectifiedadam_warmup",
        "RectifiedAdam",
        _AMSGRAD,
        (VECTOR, MATRIX),
        learning_rate=2**-5,
        beta_1=0.8125,
        beta_2=0.9375,
        epsilon=2**-6,
        weight_decay=0.25,
        amsgrad=True,
        sma_threshold=7.0,
        total_steps=21,
        warmup_proportion=0.25,
        min_lr=2**-8,
    ),
    _addons(
        "sgdw",
        "SGDW",
        (),
        (SCALAR, VECTOR),
        weight_decay=0.125,
        learning_rate=2**-3,
        momentum=0.0,
        nesterov=False,
    ),
    _addons(
        "sgdw_momentum",
        "SGDW",
        ("momentum",),
        (VECTOR, SMALL),
        weight_decay=0.0625,
        learning_rate=2**-4,
        momentum=0.875,
        nesterov=False,
    ),
    _addons(
        "sgdw_nesterov",
        "SGDW",
        ("momentum",),
        (SCALAR, TENSOR),
        weight_decay=0.03125,
        learning_rate=2**-5,
        momentum=0.75,
        nesterov=True,
    ),
    _addons("cocob", "COCOB", _COCOB, (SCALAR, VECTOR, SMALL), _ADDONS_COCOB, alpha=8.0),
    _addons(
        "conditionalgradient",
        "ConditionalGradient",
        (),
        (SCALAR, VECTOR, MATRIX, TENSOR),
        learning_rate=0.875,
        lambda_=0.5,
        epsilon=2**-7,
        ord="fro",
    ),
    _addons(
        "conditionalgradient_nuclear",
        "ConditionalGradient",
        (),
        (SMALL, MATRIX),
        learning_rate=0.75,
        lambda_=0.25,
        epsilon=2**-7,
        ord="nuclear",
    ),
    _addons(
        "novograd",
        "NovoGrad",
        _ADAM,
        (SCALAR, VECTOR, MATRIX),
        _ADDONS_NOVOGRAD,
        learning_rate=2**-5,
        beta_1=0.8125,
        beta_2=0.9375,
        epsilon=2**-8,
        weight_decay=0.25,
        grad_averaging=False,
        amsgrad=False,
    ),
    _addons(
        "novograd_averaging",
        "NovoGrad",
        _AMSGRAD,
        (SCALAR, VECTOR, TENSOR),
        _ADDONS_NOVOGRAD,
        learning_rate=2**-4,
        beta_1=0.75,
        beta_2=0.625,
        epsilon=2**-6,
        weight_decay=0.125,
        grad_averaging=True,
        amsgrad=True,
    ),
    _addons(
        "yogi",
        "Yogi",
        _ADAM,
        (SCALAR, VECTOR, MATRIX),
        learning_rate=2**-5,
        beta1=0.8125,
        beta2=0.9375,
        epsilon=2**-8,
        initial_accumulator_value=2**-10,
        activation="sign",
    ),
    _addons(
        "yogi_regularized",
        "Yogi",
        _ADAM,
        (VECTOR, SMALL),
        learning_rate=2**-3,
        beta1=0.75,
        beta2=0.875,
        epsilon=2**-6,
        l1_regularization_strength=0.125,
        l2_regularization_strength=0.25,
        initial_accumulator_value=2**-4,
        activation="tanh",
    ),
    _proximal_adagrad("proximaladagrad", (SCALAR, VECTOR, MATRIX), lr=0.1, l1=0.0, l2=0.0),
    _proximal_adagrad("proximaladagrad_regularized", (VECTOR, SMALL), lr=0.2, l1=0.15, l2=0.35),
    _torch(
        "torch",
        "radam",
        "RAdam",
        "rectifiedadam",
        _ADAM,
        (SCALAR, VECTOR, SMALL),
        _NEGLIGIBLE_EPSILON,
        call={
            "lr": 0.02,
            "betas": (0.8, 0.95),
            "eps": 1e-30,
            "weight_decay": 0.3,
            "decoupled_weight_decay": True,
        },
    ),
    _torch(
        "timm",
        "lars",
        "Lars",
        "lars",
        ("momentum",),
        (SCALAR, VECTOR, MATRIX, TENSOR),
        _SCALED_MOMENTUM,
        call={
            "lr": 0.3,
            "momentum": 0.8,
            "nesterov": False,
            "weight_decay": 0.2,
            "trust_coeff": 0.1,
            "eps": 1e-3,
        },
        epsilon=1e-3,
    ),
    _torch(
        "timm",
        "lars_nesterov",
        "Lars",
        "lars",
        ("momentum",),
        (VECTOR, SMALL),
        _SCALED_MOMENTUM,
        call={
            "lr": 0.2,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0.1,
            "trust_coeff": 0.05,
            "eps": 0.0,
        },
    ),
    _optax(
        "adabelief",
        "adabelief",
        "adabelief",
        _ADAM,
        (SCALAR, VECTOR, MATRIX),
        learning_rate=0.03,
        b1=0.8,
        b2=0.95,
        eps=1e-3,
        eps_root=1e-3,
    ),
    _optax(
        "radam",
        "radam",
        "rectifiedadam",
        _ADAM,
        (SCALAR, VECTOR, MATRIX),
        learning_rate=0.03,
        b1=0.85,
        b2=0.96,
        eps=1e-2,
        eps_root=0.0,
        threshold=6.0,
    ),
    # Its learning rate multiplies the gradients, which the reference has no argument for.
    _optax(
        "cocob",
        "contrib.cocob",
        "cocob",
        _COCOB,
        (SCALAR, VECTOR, MATRIX),
        learning_rate=1.0,
        alpha=20.0,
        eps=1e-3,
    ),
    _optax(
        "novograd",
        "novograd",
        "novograd",
        _ADAM,
        (SCALAR, VECTOR, MATRIX, TENSOR),
        learning_rate=0.03,
        b1=0.8,
        b2=0.4,
        eps=1e-3,
        eps_root=0.0,
        weight_decay=0.2,
    ),
    _optax(
        "yogi",
        "yogi",
        "yogi",
        _ADAM,
        (SCALAR, VECTOR, MATRIX),
        f"{_NEGLIGIBLE_EPSILON}; {_YOGI_MOMENTUM}",
        learning_rate=0.03,
        b1=0.8,
        b2=0.95,
        eps=1e-30,
    ),
    _optax(
        "yogi_epsilon",
        "yogi",
        "yogi",
        _ADAM,
        (SCALAR, SMALL),
        f"{_YOGI_BETA_2_IS_0}; {_YOGI_MOMENTUM}",
        learning_rate=0.02,
        b1=0.9,
        b2=0.0,
        eps=0.1,
    ),
    # No decay, as optax has the norm of gradient plus decay where the paper has a sum of norms.
    _optax(
        "lars",
        "lars",
        "lars",
        ("momentum",),
        (SCALAR, VECTOR, MATRIX),
        "optax's trace is of the other sign than the slot momentum",
        learning_rate=0.2,
        weight_decay=0.0,
        trust_coefficient=0.1,
        eps=1e-2,
        momentum=0.8,
        nesterov=True,
    ),
    _optax(
        "signum",
        "signum",
        "signum",
        ("momentum",),
        (SCALAR, VECTOR, MATRIX),
        learning_rate=0.03,
        beta=0.8,
    ),
    _optax("sign_sgd", "sign_sgd", "signsgd", (), (SCALAR, VECTOR, TENSOR), learning_rate=0.03),
    _torch(
        "pytorch_optimizer",
        "adabelief",
        "AdaBelief",
        "adabelief",
        _AMSGRAD,
        (SCALAR, VECTOR, MATRIX),
        call={
            "lr": 0.02,
            "betas": (0.8, 0.95),
            "eps": 1e-2,
            "weight_decay": 0.3,
            "rectify": False,
            "ams_bound": True,
        },
    ),
    _torch(
        "pytorch_optimizer",
        "adabelief_rectified",
        "AdaBelief",
        "adabelief",
        _ADAM,
        (VECTOR, SMALL),
        _NEGLIGIBLE_EPSILON,
        call={
            "lr": 0.03,
            "betas": (0.85, 0.97),
            "eps": 1e-30,
            "weight_decay": 0.2,
            "rectify": True,
            "n_sma_threshold": 6,
            "degenerated_to_sgd": True,
        },
    ),
    _torch(
        "pytorch_optimizer",
        "radam",
        "RAdam",
        "rectifiedadam",
        _ADAM,
        (VECTOR, TENSOR),
        _NEGLIGIBLE_EPSILON,
        call={
            "lr": 0.04,
            "betas": (0.9, 0.97),
            "eps": 1e-30,
            "weight_decay": 0.1,
            "n_sma_threshold": 7,
            "degenerated_to_sgd": True,
        },
    ),
    _torch(
        "pytorch_optimizer",
        "sgdw",
        "SGDW",
        "sgdw",
        ("momentum",),
        (SCALAR, VECTOR, SMALL),
        f"{_NEGATIVE_MOMENTUM}; {_SCALED_DECAY}",
        call={"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.4},
        weight_decay=0.4 * 0.05,
    ),
    _torch(
        "pytorch_optimizer",
        "novograd",
        "NovoGrad",
        "novograd",
        _ADAM,
        (SCALAR, VECTOR, MATRIX),
        call={
            "lr": 0.02,
            "betas": (0.9, 0.7),
            "eps": 1e-3,
            "weight_decay": 0.3,
            "grad_averaging": True,
        },
    ),
    _torch(
        "pytorch_optimizer",
        "signum",
        "SignSGD",
        "signum",
        ("momentum",),
        (SCALAR, VECTOR, MATRIX),
        call={"lr": 0.02, "momentum": 0.7, "weight_decay": 0.3},
    ),
    _torch(
        "pytorch_optimizer",
        "tiger",
        "Tiger",
        "tiger",
        ("momentum",),
        (SCALAR, VECTOR, MATRIX),
        call={"lr": 0.02, "beta": 0.85, "weight_decay": 0.3},
    ),
)


def _record_torch(recording, initial, gradients, optimizers):
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(theta)) for theta in initial]
    implementation = recording.implementation.split(".")[-1]
    optimizer = getattr(optimizers, implementation)(parameters, **recording.call)
    convert = {
        "momentum": lambda state: state["exp_avg"],
        "velocity": lambda state: state["exp_avg_sq"],
    }
    convert |= {
        "AdaBelief": {
            "velocity": lambda state: state["exp_avg_var"],
            "velocity_hat": lambda state: state["max_exp_avg_var"],
        },
        "Lars": {
            "momentum": lambda state: recording.call["lr"] * state["momentum_buffer"],
        },
        "NovoGrad": {
            "momentum": lambda state: state["moments"],
            "velocity": lambda state: state["grads_ema"],
        },
        "SGDW": {
            "momentum": lambda state: -recording.call["lr"] * state["momentum_buffer"],
        },
        "SignSGD": {
            "momentum": lambda state: state["momentum_buffer"],
        },
    }.get(implementation, {})
    for gs in gradients:
        for parameter, g in zip(parameters, gs, strict=True):
            parameter.grad = torch.tensor(g)
        optimizer.step()
        yield (
            [parameter.detach().numpy() for parameter in parameters],
            [
                [
                    np.broadcast_to(convert[slot](optimizer.state[parameter]), parameter.shape)
                    for parameter in parameters
                ]
                for slot in recording.slots
            ],
        )


def record_torch(recording, initial, gradients):
    import torch

    return _record_torch(recording, initial, gradients, torch.optim)


def record_pytorch_optimizer(recording, initial, gradients):
    import pytorch_optimizer

    return _record_torch(recording, initial, gradients, pytorch_optimizer)


def record_timm(recording, initial, gradients):
    import importlib.util
    import sys
    import types

    # Without the packages' own modules, which import models and what these need.
    for name in ("timm", "timm.optim"):
        if name not in sys.modules:
            path = importlib.util.find_spec(name).submodule_search_locations
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = path
    return _record_torch(recording, initial, gradients, importlib.import_module("timm.optim.lars"))


def record_optax(recording, initial, gradients):
    import operator

    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    implementation = recording.implementation.removeprefix("optax.")
    optimizer = operator.attrgetter(implementation)(optax)(**recording.call)
    thetas = [jax.numpy.asarray(theta) for theta in initial]
    state = optimizer.init(thetas)
    # Which transformation of the chain has the averages, and their names there.
    place, names = {
        "contrib.cocob": (
            2,
            {
                "lipschitz": "scale",
                "gradient_norm_sum": "subgradients",
                "reward": "reward",
                "gradient_sum": "cumulative_gradients",
                "initial_weights": "init_particles",
            },
        ),
        "lars": (3, {"momentum": "trace"}),
        "signum": (0, {"momentum": "ema"}),
    }.get(implementation, (0, {"momentum": "mu", "velocity": "nu"}))
    if implementation == "yogi":
        state = (state[0]._replace(mu=[0 * mu for mu in state[0].mu]), *state[1:])
    sign = -1 if implementation == "lars" else 1
    for gs in gradients:
        updates, state = optimizer.update([jax.numpy.asarray(g) for g in gs], state, thetas)
        thetas = optax.apply_updates(thetas, updates)
        yield (
            thetas,
            [
                [
                    np.broadcast_to(sign * np.asarray(value), theta.shape)
                    for value, theta in zip(getattr(state[place], names[slot]), thetas, strict=True)
                ]
                for slot in recording.slots
            ],
        )


def record_tensorflow(recording, initial, gradients):
    import tensorflow as tf

    variables = [tf.Variable(theta) for theta in initial]
    value = recording.arguments["initial_accumulator_value"]
    accumulators = [tf.Variable(np.full_like(theta, value)) for theta in initial]
    call = {name: tf.constant(value, tf.float64) for name, value in recording.call.items()}
    for gs in gradients:
        for variable, accumulator, g in zip(variables, accumulators, gs, strict=True):
            tf.raw_ops.ResourceApplyProximalAdagrad(
                var=variable.handle, accum=accumulator.handle, grad=g, **call
            )
        yield (
            [variable.numpy() for variable in variables],
            [[accumulator.numpy() for accumulator in accumulators]],
        )


def _addons_package():
    import os
    import sys

    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    # It knows Keras only as what has since become tf_keras.
    import tf_keras.src.engine.keras_tensor

    sys.modules["keras.src.engine"] = tf_keras.src.engine
    import tensorflow_addons

    return tensorflow_addons


def record_tensorflow_addons(recording, initial, gradients):
    import tensorflow as tf

    implementation = recording.implementation.split(".")[-1]
    optimizer = getattr(_addons_package().optimizers, implementation)(**recording.call)
    variables = [tf.Variable(theta) for theta in initial]
    names = {"momentum": "m", "velocity": "v", "velocity_hat": "vhat"}
    names |= {
        "SGDW": {"momentum": "momentum"},
        "COCOB": {
            "lipschitz": "lr",
            "gradient_norm_sum": "grad_norm_sum",
            "reward": "reward",
            "gradient_sum": "gradients_sum",
        },
    }.get(implementation, {})

    def slot_value(variable, theta, slot):
        if slot == "initial_weights":
            return theta
        value = optimizer.get_slot(variable, names[slot]).numpy()
        if slot == "gradient_sum":
            return -value
        if implementation == "NovoGrad" and slot == "momentum":
            return value / -recording.call["learning_rate"]
        return np.broadcast_to(value, theta.shape)

    for gs in gradients:
        # An operation of SGDW's does not take NumPy arrays.
        gs = [tf.constant(g) for g in gs]
        optimizer.apply_gradients(zip(gs, variables, strict=True))
        yield (
            [variable.numpy() for variable in variables],
            [
                [
                    slot_value(variable, theta, slot)
                    for variable, theta in zip(variables, initial, strict=True)
                ]
                for slot in recording.slots
            ],
        )


def version_torch():
    import torch

    return f"torch {torch.__version__}"


def version_pytorch_optimizer():
    import importlib.metadata

    return f"pytorch-optimizer {importlib.metadata.version('pytorch-optimizer')}, {version_torch()}"


def version_timm():
    import importlib.metadata

    return f"timm {importlib.metadata.version('timm')}, {version_torch()}"


def version_optax():
    import jax
    import optax

    return f"optax {optax.__version__}, jax {jax.__version__}"


def version_tensorflow():
    import tensorflow as tf

    return f"tensorflow {tf.__version__}"


def version_tensorflow_addons():
    package = _addons_package()
    import tf_keras

    return (
        f"tensorflow-addons {package.__version__}, tf_keras {tf_keras.__version__},"
        f" {version_tensorflow()}"
    )
