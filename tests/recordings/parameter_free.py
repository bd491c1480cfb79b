"""Recordings of optimizers which estimate their step size from all variables together.

The numbers which the variables share are not recorded: they all enter the weights.
"""

from recordings.format import MATRIX, SCALAR, SMALL, TENSOR, VECTOR, Recording

_DECOUPLED = "the decay is decoupled from the gradients"
_SGD_DECAY = "the decay is part of the gradients, but not of the norm of the first ones"
_DOG = (
    "no decay, as that of the implementation is part of the gradients; its sum of squares starts"
    " with eps, which the reference adds"
)
_DOG_SUM = "its sum of squares starts with eps, which the reference adds"

_RENAMED = {
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "eps": "epsilon",
    "beta3": "beta_3",
    "d0": "initial_d",
    "d_coef": "d_coefficient",
    "growth_rate": "growth_rate",
    "use_bias_correction": "use_bias_correction",
    "safeguard_warmup": "safeguard_warmup",
    "momentum": "momentum",
    "reps_rel": "reps_rel",
    "weight_decay": "weight_decay",
}


def _recording(name, implementation, slots, shapes, conversion="", **call):
    arguments = {ours: call[theirs] for theirs, ours in _RENAMED.items() if theirs in call}
    if "betas" in call:
        arguments["beta_1"], arguments["beta_2"] = call["betas"]
    if "init_step" in call:
        kind, arguments["reps_rel"] = call["init_step"]
        assert kind == "heuristic"
    return Recording(
        name=name,
        implementation=implementation,
        call=call,
        reference=implementation.split(".")[-1].lower(),
        arguments=arguments,
        slots=slots,
        shapes=shapes,
        conversion=conversion,
    )


_PRODIGY = ("momentum", "velocity", "s", "initial_weights")
_ADAM = ("momentum", "velocity", "s")
_SGD = ("s", "z", "initial_weights")
_LION = ("momentum", "s")

# The estimates d grow in all of these, which depends on the inputs.
RECORDINGS = (
    _recording(
        "prodigyopt_prodigy",
        "prodigyopt.Prodigy",
        _PRODIGY,
        (SCALAR, VECTOR, MATRIX),
        lr=1.0,
        betas=(0.9, 0.99),
        eps=1e-8,
        d0=1e-3,
    ),
    _recording(
        "prodigyopt_prodigy_decay",
        "prodigyopt.Prodigy",
        _PRODIGY,
        (VECTOR, SMALL, TENSOR),
        _DECOUPLED,
        lr=0.7,
        betas=(0.8, 0.95),
        beta3=0.9,
        eps=1e-3,
        d0=1e-2,
        d_coef=1.5,
        growth_rate=1.2,
        use_bias_correction=True,
        weight_decay=0.3,
    ),
    _recording(
        "prodigyopt_prodigy_safeguard",
        "prodigyopt.Prodigy",
        _PRODIGY,
        (VECTOR, SMALL, TENSOR),
        _DECOUPLED,
        lr=1.5,
        betas=(0.7, 0.9),
        eps=1e-4,
        d0=5e-3,
        d_coef=0.8,
        use_bias_correction=True,
        safeguard_warmup=True,
        weight_decay=0.2,
    ),
    _recording(
        "dadaptation_adam",
        "dadaptation.DAdaptAdam",
        _ADAM,
        (VECTOR, MATRIX),
        lr=1.0,
        betas=(0.9, 0.95),
        eps=1e-8,
        d0=1e-3,
        decouple=True,
    ),
    _recording(
        "dadaptation_adam_decay",
        "dadaptation.DAdaptAdam",
        _ADAM,
        (VECTOR, SMALL, TENSOR),
        _DECOUPLED,
        lr=0.7,
        betas=(0.8, 0.95),
        eps=1e-3,
        d0=1e-2,
        growth_rate=1.2,
        use_bias_correction=True,
        weight_decay=0.3,
        decouple=True,
    ),
    _recording(
        "dadaptation_sgd",
        "dadaptation.DAdaptSGD",
        _SGD,
        (SCALAR, VECTOR, MATRIX),
        lr=1.0,
        momentum=0.0,
        d0=1e-2,
    ),
    _recording(
        "dadaptation_sgd_momentum",
        "dadaptation.DAdaptSGD",
        _SGD,
        (VECTOR, MATRIX),
        _SGD_DECAY,
        lr=0.8,
        momentum=0.7,
        d0=1e-2,
        growth_rate=1.4,
        weight_decay=0.3,
    ),
    _recording(
        "dadaptation_lion",
        "dadaptation.DAdaptLion",
        _LION,
        (SCALAR, VECTOR, MATRIX),
        lr=1.0,
        betas=(0.9, 0.95),
        d0=1e-2,
    ),
    _recording(
        "dadaptation_lion_decay",
        "dadaptation.DAdaptLion",
        _LION,
        (VECTOR, SMALL, TENSOR),
        _DECOUPLED,
        lr=0.8,
        betas=(0.95, 0.9),
        d0=0.1,
        weight_decay=0.3,
    ),
    _recording(
        "dog_dog",
        "dog.DoG",
        ("initial_weights",),
        (SCALAR, VECTOR, MATRIX),
        _DOG,
        lr=1.0,
        reps_rel=1e-2,
        eps=1e-8,
    ),
    _recording(
        "dog_dog_epsilon",
        "dog.DoG",
        ("initial_weights",),
        (VECTOR, TENSOR),
        _DOG,
        lr=0.6,
        reps_rel=0.05,
        eps=1e4,
    ),
    _recording(
        "dog_dog_decay",
        "dog.DoG",
        ("initial_weights",),
        (SCALAR, VECTOR, MATRIX),
        _DOG_SUM,
        lr=0.8,
        reps_rel=0.02,
        eps=1e-6,
        weight_decay=0.3,
    ),
    _recording(
        "dog_ldog",
        "dog.LDoG",
        ("initial_weights", "max_distance", "squared_norm_sum"),
        (SCALAR, VECTOR, MATRIX),
        _DOG_SUM,
        lr=1.0,
        reps_rel=1e-2,
        eps=1e-8,
    ),
    _recording(
        "dog_ldog_decay",
        "dog.LDoG",
        ("initial_weights", "max_distance", "squared_norm_sum"),
        (VECTOR, TENSOR),
        _DOG_SUM,
        lr=0.6,
        reps_rel=0.05,
        eps=10.0,
        weight_decay=0.2,
    ),
    _recording(
        "optax_dog",
        "optax.contrib.dog",
        ("initial_weights",),
        (SCALAR, SMALL, TENSOR),
        "no decay, as that of the implementation is part of the gradients",
        learning_rate=0.9,
        init_step=("heuristic", 0.02),
        eps=1e-3,
    ),
)


def _record(cls, recording, initial, gradients, convert):
    import torch

    torch.set_default_dtype(getattr(torch, recording.dtype))
    parameters = [torch.nn.Parameter(torch.tensor(theta)) for theta in initial]
    optimizer = cls(parameters, **recording.call)
    for gs in gradients:
        for parameter, g in zip(parameters, gs, strict=True):
            parameter.grad = torch.tensor(g)
        optimizer.step()
        slots = [
            [convert(optimizer, slot, i, parameter) for i, parameter in enumerate(parameters)]
            for slot in recording.slots
        ]
        yield [parameter.detach().numpy() for parameter in parameters], slots


def _state(optimizer, slot, i, parameter):
    names = {"momentum": "exp_avg", "velocity": "exp_avg_sq", "initial_weights": "p0"}
    if type(optimizer).__name__ == "DAdaptSGD":
        names["initial_weights"] = "x0"
    state = optimizer.state[parameter][names.get(slot, slot)]
    # Prodigy has flat ones, and one zero for initial weights that are all zero.
    return state.expand(parameter.numel()).numpy() if state.ndim < 2 else state.numpy()


def record_prodigyopt(recording, initial, gradients):
    import prodigyopt

    return _record(prodigyopt.Prodigy, recording, initial, gradients, _state)


def record_dadaptation(recording, initial, gradients):
    import dadaptation

    cls = getattr(dadaptation, recording.implementation.split(".")[-1])
    return _record(cls, recording, initial, gradients, _state)


def record_dog(recording, initial, gradients):
    import dog

    def convert(optimizer, slot, i, parameter):
        group = optimizer.param_groups[0]
        if slot == "initial_weights":
            return group["init_buffer"][i].numpy()
        number = group["rbar"][i] if slot == "max_distance" else group["G"][i] - group["eps"]
        return number.expand(parameter.shape).numpy()

    cls = getattr(dog, recording.implementation.split(".")[-1])
    return _record(cls, recording, initial, gradients, convert)


def record_optax(recording, initial, gradients):
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    optimizer = optax.contrib.dog(**recording.call)
    thetas = [jax.numpy.asarray(theta) for theta in initial]
    state = optimizer.init(thetas)
    for gs in gradients:
        updates, state = optimizer.update([jax.numpy.asarray(g) for g in gs], state, thetas)
        thetas = optax.apply_updates(thetas, updates)
        # The first transformation of the chain is that of weight decay.
        yield thetas, [state[1].init_params]


def _version(*packages):
    import importlib.metadata

    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def version_prodigyopt():
    return _version("prodigyopt", "torch")


def version_dadaptation():
    return _version("dadaptation", "torch")


def version_dog():
    return _version("dog-optimizer", "torch")


def version_optax():
    return _version("optax", "jax")
