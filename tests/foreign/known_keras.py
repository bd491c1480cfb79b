"""Keras' own tests: which run with our classes, and which fail, and why.

Of Keras 3.15, whose wheel has them. Modules are left out that test what is not here (`Adafactor`,
`Muon`, JAX, PyTorch), or packages that are not installed (TensorBoard, Orbax).
"""

from foreign.running import Known, Suite

KERAS = (3, 15)
MODES = ("eager", "graph")
_OPTIMIZERS = "keras.src.optimizers"
_CALLBACKS = "keras.src.callbacks"


def _modules(package, names):
    return tuple(f"{package}.{name}_test" for name in names.split())


PROCESSES = (
    _modules(
        _OPTIMIZERS,
        "adadelta adagrad adam adamax adamw ftrl lamb lion loss_scale_optimizer multi_optimizer "
        "nadam optimizer optimizer_sparse rmsprop schedule_free_adamw sgd "
        "schedules.learning_rate_schedule",
    ),
    (
        *_modules("keras.src.saving", "file_editor saving_api saving_lib serialization_lib"),
        *_modules("keras.src.legacy.saving", "legacy_h5_format"),
    ),
    _modules(
        _CALLBACKS,
        "backup_and_restore callback csv_logger early_stopping lambda_callback "
        "learning_rate_scheduler model_checkpoint monitor_callback reduce_lr_on_plateau "
        "swap_ema_weights terminate_on_nan",
    ),
    (
        *_modules("keras.src.models", "cloning functional model variable_mapping"),
        *_modules("keras.src.backend", "common.remat tensorflow.saved_model"),
        *_modules("keras.src", "distillation.distiller export.saved_model"),
    ),
    _modules("keras.src.trainers", "compile_utils trainer"),
    _modules("keras.src.layers", "core.dense core.einsum_dense core.embedding layer"),
    # They ask for logical devices.
    _modules("keras.src.backend.tensorflow", "distribute"),
    _modules("keras.src.backend.tensorflow", "optimizer_distribute"),
)


def _ids(module, cls, *tests):
    return tuple(f"{module}_test::{cls}::{test}" for test in tests)


KNOWN = (
    Known(
        "wording",
        "the range of an argument is said as an interval",
        r'does not match "(AdamW|Ftrl|Lion|SGD): `\w+` must be (a number )?in [\[(].*\. Received',
        (
            *_ids(f"{_OPTIMIZERS}.adamw", "AdamWTest", "test_weight_decay_is_none"),
            *_ids(
                f"{_OPTIMIZERS}.ftrl",
                "FtrlTest",
                "test_invalid_initial_accumulator_value",
                "test_invalid_l1_regularization_strength",
                "test_invalid_l2_regularization_strength",
                "test_invalid_l2_shrinkage_regularization_strength",
                "test_invalid_learning_rate_power",
            ),
            *_ids(f"{_OPTIMIZERS}.lion", "LionTest", "test_invalid_beta_1"),
            *_ids(f"{_OPTIMIZERS}.sgd", "SGDTest", "test_invalid_momentum"),
        ),
    ),
    Known(
        "wording",
        "`set_weights` before `build`",
        r'"You are calling\*" does not match "\'adam_1\' has 2 variables \(it is not built yet',
        _ids(f"{_OPTIMIZERS}.optimizer", "OptimizerTest", "test_set_weights"),
    ),
    Known(
        "private",
        "reads a number of `Nadam` by the name that Keras has for it",
        "'Nadam' object has no attribute '_u_product'",
        _ids(f"{_OPTIMIZERS}.nadam", "NadamTest", "test_build_with_empty_var_list"),
    ),
    Known(
        "private",
        "counts how often the optimizer calls its `assign` and `assign_sub` for sparse values",
        "AssertionError: False != True",
        _ids(
            f"{_OPTIMIZERS}.optimizer_sparse",
            "OptimizerSparseTest",
            *(
                f"test_sparse_gradients_{name}"
                for name in ("adadelta", "adagrad", "loss_scale_optimizer_sgd", "rmsprop", "sgd")
            ),
        ),
    ),
    Known(
        "private",
        "looks whether the optimizer calls its `assign_sub` with sparse values",
        r"AssertionError: False is not true\s+at case.py",
        _ids(
            "keras.src.trainers.trainer",
            "TestTrainer",
            *(f"test_fit_sparse_{kind}_{mode}" for kind in ("scipy", "tf") for mode in MODES),
        ),
    ),
    Known(
        "setting",
        "JAX, Grain or PyTorch are not installed",
        r"ModuleNotFoundError: No module named '(jax\.experimental|grain|torch)'",
        _ids(
            "keras.src.trainers.trainer",
            "TestTrainer",
            *(
                f"test_{method}_sparse_jax_{mode}"
                for method in ("evaluate", "fit", "predict")
                for mode in MODES
            ),
            *(
                f"test_fit_with_data_adapter_{adapter}"
                for adapter in (
                    "grain_dataloader",
                    "grain_dataset",
                    "grain_dataset_with_len",
                    "torch_dataloader_iterable",
                    "torch_dataloader_iterable_with_len",
                    "torch_dataloader_tensor",
                )
            ),
        ),
    ),
    Known(
        "private",
        "looks for the weights in the averages' variables while the model has the averages; ours "
        "keeps weights aside, and averages where they are",
        r"9\.0 \(ACTUAL\), 2\.0 \(DESIRED\)",
        _ids(
            f"{_OPTIMIZERS}.multi_optimizer",
            "MultiOptimizerTest",
            "test_swap_ema_weights_with_multi_optimizer",
        ),
    ),
    Known(
        "defect",
        "Keras' `Lamb` decays outside of the trust ratio, so that a gradient of zero decays; ours "
        "follows the paper: the ratio of a scalar makes such a step as long as the learning rate",
        r"ACTUAL: array\(0\., dtype=float32\)\s+DESIRED: array\(1\.976096\)",
        _ids(f"{_OPTIMIZERS}.lamb", "LambTest", "test_weight_decay"),
    ),
    Known(
        "defect",
        "gives one tensor to both replicas, which TensorFlow does not sum; Keras' optimizers do "
        "the same without accumulation",
        r"\[0, 0\]: 0\.0 \(ACTUAL\), -1\.0 \(DESIRED\)",
        _ids(
            "keras.src.backend.tensorflow.optimizer_distribute",
            "OptimizerDistributeTest",
            "test_gradient_accumulation",
        ),
    ),
    Known(
        "setting",
        "its file is not in the wheel",
        "Backward-compat fixture missing at .*/pre_pr22362_nested_container.keras",
        _ids(
            "keras.src.saving.saving_lib",
            "SavingBattleTest",
            "test_legacy_load_skips_missing_nested_containers",
        ),
    ),
    Known(
        "different",
        "files name the class of the optimizer, too",
        "9 != 8",
        _ids("keras.src.saving.file_editor", "SavingTest", "test_scalar_weight"),
    ),
)

SUITE = Suite("keras_suite", PROCESSES, KNOWN)
