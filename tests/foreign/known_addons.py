"""TensorFlow Addons' tests: which run with our classes, and which fail, and why.

Of its last commit (April 2024). The module of `CyclicalLearningRate` is left out, which is not
here, see the page on migration.
"""

from foreign.running import Known, Suite

PROCESSES = (
    ("adabelief_test", "cocob_test", "novograd_test", "proximal_adagrad_test"),
    ("conditional_gradient_test",),
    ("discriminative_layer_training_test",),
    ("lamb_test", "lazy_adam_test", "rectified_adam_test", "yogi_test"),
    ("lookahead_test", "moving_average_test", "stochastic_weight_averaging_test"),
    ("standard_test", "weight_decay_optimizers_test"),
)


def _ids(module, *tests):
    return tuple(f"{module}_test::test_{test}" for test in tests)


KNOWN = (
    Known(
        "different",
        "decay of rows without a gradient: ours treats a sparse gradient like the dense one",
        r"\[1\]: 1\.9\d+ \(ACTUAL\), 2\.0 \(DESIRED\)",
        (
            *_ids("adabelief", "sparse_sample_with_weight_decay"),
            *_ids("novograd", "sparse_sample_with_weight_decay"),
            *_ids("rectified_adam", "sparse_sample_with_weight_decay"),
        ),
    ),
    Known(
        "different",
        "regularization of rows without a gradient: ours treats a sparse gradient like the dense "
        "one",
        r"\[1\]: (1\.90513\d+|0\.0) \(ACTUAL\), 2\.0 \(DESIRED\)",
        _ids(
            "proximal_adagrad",
            "sparse_with_l1_regularization",
            "sparse_with_l1_l2_regularization",
        ),
    ),
    Known(
        "different",
        "the same number to two ulps of float32, where one is allowed",
        r"Max relative difference among violations: [12]\.\d+e-07",
        _ids("proximal_adagrad", "without_regularization", "with_l1_regularization"),
    ),
    Known(
        "different",
        "the learning rate is a float32 variable, as in Keras 3",
        r"assert 9\.999999747378752e-05 == 0\.0001",
        tuple(
            _ids(module, "get_config")[0]
            for module in ("adabelief", "lamb", "novograd", "rectified_adam", "yogi")
        ),
    ),
    Known(
        "different",
        "a row without a gradient shrinks by the learning rate, as with a dense gradient of zeros; "
        "in Addons it stays",
        r"\[0, 0\]: 1\.0 \(ACTUAL\), 0\.10000000149011612 \(DESIRED\)",
        _ids("conditional_gradient", "minimize_with_2D_indicies_for_embedding_lookup_frobenius"),
    ),
    Known(
        "private",
        "computes what it expects by private methods of Addons",
        "has no attribute '_top_singular_vector'",
        _ids(
            "conditional_gradient",
            "basic_nuclear",
            "minimize_sparse_resource_variable_nuclear",
            "tensor_learning_rate_and_conditional_gradient_nuclear",
            "minimize_with_2D_indicies_for_embedding_lookup_nuclear",
            "sharing_nuclear",
        ),
    ),
    Known(
        "private",
        "asks private methods which variables decay or are scaled",
        "has no attribute '(_do_use_weight_decay|_do_layer_adaptation|_set_decay_var_list)'",
        (
            *_ids("lamb", "exclude_weight_decay", "exclude_layer_adaptation"),
            *_ids(
                "weight_decay_optimizers",
                "exclude_weight_decay_adamw",
                "exclude_weight_decay_sgdw",
            ),
        ),
    ),
    Known(
        "different",
        "wants the slot that Addons creates and does not use",
        r"assert \['conditional_gradient'\] == \[\]",
        _ids(
            "conditional_gradient",
            "basic_frobenius",
            "tensor_learning_rate_and_conditional_gradient_frobenius",
            "sparse_frobenius",
            "sharing_frobenius",
            "sparse_nuclear",
        ),
    ),
    Known(
        "different",
        "wants variables that are called after the optimizer",
        r"startswith of str object at \w+>\('ConditionalGradient/var0'\)",
        _ids(
            "conditional_gradient",
            "variables_across_graphs_frobenius",
            "variables_across_graphs_nuclear",
        ),
    ),
    Known(
        "other",
        "an argument that Addons deprecated, `decay`",
        r"LAMB got unknown arguments \['decay'\]",
        _ids("lamb", "basic_with_learning_rate_decay"),
    ),
    Known(
        "wording",
        "`weight_decay_rate` is taken, without a warning that it is deprecated",
        r"^Failed: DID NOT WARN\. No warnings of type \(<class 'DeprecationWarning'>",
        _ids("lamb", "weight_decay_rate_deprecation"),
    ),
    Known(
        "different",
        "counts variables; Keras 3 has one for the learning rate",
        r"assert 5 == 6",
        _ids("lazy_adam", "slots_unique_eager"),
    ),
    Known(
        "defect",
        "saves in a way that Keras 3 does not have",
        "The `save_format` argument is deprecated in Keras 3",
        ("discriminative_layer_training_test::test_fit_layer_optimizer[cpu-serialize]",),
    ),
    Known(
        "defect",
        "saves in a way that Keras 3 does not have",
        "Invalid filepath extension for saving",
        _ids("discriminative_layer_training", "serialization_after_training"),
    ),
    Known(
        "private",
        "the optimizer inside is `inner_optimizer`",
        "has no attribute '_optimizer'",
        _ids("moving_average", "config"),
    ),
    Known(
        "defect",
        "uses layers that Keras 3 does not have",
        "has no attribute 'experimental'",
        _ids("moving_average", "no_average_slot"),
    ),
    Known(
        "defect",
        "saves in a way that Keras 3 does not have",
        "The `save_format` argument is deprecated in Keras 3",
        tuple(
            f"standard_test::test_optimizer_minimize_serialize[cpu-serialize-{name}]"
            for name in (
                "AdaBelief",
                "COCOB",
                "LAMB",
                "LazyAdam",
                "NovoGrad",
                "ProximalAdagrad",
                "RectifiedAdam",
                "Yogi",
            )
        ),
    ),
)

SUITE = Suite("addons_suite", PROCESSES, KNOWN)
