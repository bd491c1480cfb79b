"""The tests of tf_keras' legacy optimizers: which run with our classes, and which fail, and why.

Of its last commit (March 2026). Those in graphs and sessions are run, too.
"""

from foreign.running import Known, Suite

PROCESSES = (
    ("adadelta_test", "adagrad_test", "adam_test", "adamax_test", "ftrl_test"),
    ("gradient_descent_test", "nadam_test", "rmsprop_test"),
    ("optimizer_v2_test",),
)


def _ids(text):
    """Ids of tests: words that end with a colon are a module and a class of what follows.

    `test` is left out where names of modules end, and names of tests begin with it.
    """
    ids = []
    for word in text.split():
        if word.endswith(":"):
            module, cls = word[:-1].split(".")
        else:
            ids.append(f"{module}_test::{cls}::test{word}")
    return tuple(ids)


KNOWN = (
    Known(
        "different",
        "slots and numbers are Keras variables, as in Keras 3: a session runs their `value`",
        r"Argument `fetch` = <Variable path=\w+/(\w+_(accumulator|momentum)|learning_rate), |"
        r"'Variable' object has no attribute '(initializer|ref)'",
        _ids("""
            adagrad.AdagradOptimizerTest: SparseStability
            adam.AdamOptimizerTest: SlotsUniqueEager_test_mode_eager
            ftrl.FtrlOptimizerTest: FtrlWithL2ShrinkageDoesNotChangeLrSchedule
            gradient_descent.MomentumOptimizerTest: Basic_test_mode_graph Sharing Sparse
            optimizer_v2.OptimizerTest: GettingHyperParameters_test_mode_graph
                IterationWithoutMinimize_test_mode_eager IterationWithoutMinimize_test_mode_graph
        """),
    ),
    Known(
        "stricter",
        "in a graph, the learning rate is set by an operation that a session runs",
        "Setting `learning_rate` does nothing in a graph of a session",
        _ids("""
            optimizer_v2.OptimizerTest: AdaptiveLearningRate_test_mode_graph
        """),
    ),
    Known(
        "stricter",
        "an optimizer is created in the graph in which it is used",
        r"^RuntimeError: '\w+' was created outside of this graph",
        _ids("""
            optimizer_v2.OptimizerCoefficientTest: _duplicate_ops_Adadelta _duplicate_ops_Adagrad
                _duplicate_ops_Adam _duplicate_ops_Adam_amdgrad _duplicate_ops_Adamax
                _duplicate_ops_Ftrl _duplicate_ops_Ftrl_l2_shrinkage _duplicate_ops_Nadam
                _duplicate_ops_RMSprop _duplicate_ops_RMSprop_centered
                _duplicate_ops_RMSprop_momentum _duplicate_ops_RMSprop_momentum_centered
                _duplicate_ops_SGD _duplicate_ops_SGD_momentum
        """),
    ),
    Known(
        "stricter",
        "a class that overrides what no step calls is refused",
        r"overrides \['_(resource_apply_dense', '_resource_apply_sparse|aggregate_gradients)'\], "
        "which optimizers of tf_optim_ext do not call",
        _ids("""
            optimizer_v2.OptimizerTest: _override_aggregate_gradients_test_mode_eager
                _override_aggregate_gradients_test_mode_graph
            optimizer_v2.OptimizerCoefficientTest: _subclass_compat_Adadelta
                _subclass_compat_Adagrad _subclass_compat_Adam _subclass_compat_Adam_amdgrad
                _subclass_compat_Adamax _subclass_compat_Ftrl _subclass_compat_Ftrl_l2_shrinkage
                _subclass_compat_Nadam _subclass_compat_RMSprop _subclass_compat_RMSprop_centered
                _subclass_compat_RMSprop_momentum _subclass_compat_RMSprop_momentum_centered
                _subclass_compat_SGD _subclass_compat_SGD_momentum
        """),
    ),
    Known(
        "stricter",
        "in a graph, `get_config` has no value of the learning rate",
        "`get_config` cannot read variables in a graph of a session",
        _ids("""
            gradient_descent.MomentumOptimizerTest: Config_test_mode_graph
            optimizer_v2.OptimizerTest: ConfigWithCliping_test_cliptype_clipnorm_mode_graph
                ConfigWithCliping_test_cliptype_clipvalue_mode_graph
                ConfigWithCliping_test_cliptype_globalclipnorm_mode_graph Config_test_mode_graph
                Weights_test_mode_graph
        """),
    ),
    Known(
        "stricter",
        "a tensor may be the learning rate; another hyperparameter, a callable that returns one",
        r"SGD: `momentum` must be a number in \[0, 1\]\. Received: momentum=<tf\.Tensor",
        _ids("""
            gradient_descent.MomentumOptimizerTest: TensorLearningRateAndMomentum
        """),
    ),
    Known(
        "private",
        "private methods of OptimizerV2",
        r"has no attribute '_create_slots_for_sharded_variables'|Unsupported type 'float'|"
        r"object is not callable|`var_list` must hold .* Received: <tf\.Tensor",
        _ids("""
            gradient_descent.MomentumOptimizerTest: Config_test_mode_eager
            optimizer_v2.OptimizerTest: ComputeGradientsWithTensors_test_mode_eager
                ComputeGradientsWithTensors_test_mode_graph
                ConfigWithLearningRateDecay_test_mode_eager
                ConfigWithLearningRateDecay_test_mode_graph
                _create_slots_for_sharded_variables_test_mode_eager
        """),
    ),
    Known(
        "stricter",
        "arguments that Keras 3 dropped: `lr`, `decay`, `schedule_decay`, `gradient_aggregator`",
        r"got unknown arguments \['(lr|decay|schedule_decay|gradient_aggregator)'\]",
        _ids("""
            adadelta.AdadeltaOptimizerTest: ConstructAdadeltaWithLR
            adagrad.AdagradOptimizerTest: BasicWithLearningRateDecay ConstructAdagradWithLR
            adam.AdamOptimizerTest: BasicWithLearningRateDecay ConstructAdamWithLR
            adamax.AdamaxOptimizerTest: BasicWithLearningRateDecay_test_mode_eager
                BasicWithLearningRateDecay_test_mode_graph ConstructAdamaxWithLR
            gradient_descent.GradientDescentOptimizerTest:
                BasicWithLearningRateDecay_test_mode_eager
                BasicWithLearningRateDecay_test_mode_graph ConstructSGDWithLR
                SparseBasicWithLearningRateDecay
            gradient_descent.MomentumOptimizerTest: ConstructMomentumWithLR
            nadam.NadamOptimizerTest: ConstructNAdamWithLR ConstructNAdamWithScheduleDecay
            rmsprop.RMSpropOptimizerTest: ConstructRMSpropWithLR DenseWithLearningRateDecay
            optimizer_v2.OptimizerTest: GettingHyperParametersWithLrInConstructor_test_mode_eager
                GettingHyperParametersWithLrInConstructor_test_mode_graph
                _gradient_aggregator_test_mode_eager _gradient_aggregator_test_mode_graph
        """),
    ),
    Known(
        "different",
        "slots are called as in Keras 3",
        r"No slot '(m|rms|mg|accum_grad)'",
        _ids("""
            adadelta.AdadeltaOptimizerTest: ResourceBasic_test_mode_graph
            rmsprop.RMSpropOptimizerTest: Dense DenseWithLearningRateInverseTimeDecay Sparse
            optimizer_v2.OptimizerTest: OptimizerWithCallableVarList_test_mode_eager
                OptimizerWithCallableVarList_test_mode_graph
        """),
    ),
    Known(
        "different",
        "epsilon is inside of the root, as in Keras 3",
        r"\[0\]: 0\.774(717|902)\d+ \(ACTUAL\), 0\.715(252|332)\d+ \(DESIRED\)",
        _ids("""
            adagrad.AdagradOptimizerTest: BasicWithLargeEpsilon SparseSingleVarDim
        """),
    ),
    Known(
        "different",
        "rows without a gradient: ours treats a sparse gradient like the dense one",
        r"\[1, 0\]: 2\.0 \(ACTUAL\), -0\.06201171875 \(DESIRED\)",
        _ids("""
            ftrl.FtrlOptimizerTest: FtrlWithL1_L2_L2ShrinkageSparse
        """),
    ),
    Known(
        "different",
        "the momentum of `Nadam` is warmed up as in Keras 3, which is 250 times as fast",
        r"\[0\]: 0\.9989435\d+ \(ACTUAL\), 0\.9989371\d+ \(DESIRED\)",
        _ids("""
            nadam.NadamOptimizerTest: Basic Sparse
        """),
    ),
    Known(
        "different",
        "slots of float16 weights are float32, and the test compares them as such",
        r"\[0\]: -0\.2 \(ACTUAL\), -0\.199951171875 \(DESIRED\)",
        _ids("""
            gradient_descent.MomentumOptimizerTest: Basic_test_mode_eager
        """),
    ),
    Known(
        "different",
        "the learning rate is a float32 variable, as in Keras 3, and one of the optimizer's "
        "variables",
        r"has length of \d, expected \d|assert 0\.41999998688697815 == 0\.42",
        _ids("""
            adamax.AdamaxOptimizerTest: SlotsUniqueEager_test_mode_eager
            rmsprop.RMSpropOptimizerTest: SlotsUniqueEager_test_mode_eager
            optimizer_v2.OptimizerTest: VarName
            optimizer_v2.DeepcopyTests: _deepcopy
        """),
    ),
    Known(
        "different",
        "`iterations` is called otherwise in checkpoints",
        r"5 != np\.int64\(0\)",
        _ids("""
            optimizer_v2.OptimizerTest: RestoringIterationsWithoutAnOptimizer_test_mode_eager
        """),
    ),
    Known(
        "wording",
        "the words of errors",
        r'"(>= 0|Unexpected keyword argument|`tape` is required|must be between|'
        r'`momentum` must be between .*)" does not match ',
        _ids("""
            gradient_descent.MomentumOptimizerTest: MinimizeLossTensor_test_mode_eager
                NesterovWithoutMomentum
            rmsprop.RMSpropOptimizerTest: MomentumProperValue_test_mode_eager
            optimizer_v2.OptimizerTest: InvalidClipNorm_test_mode_eager
                InvalidClipNorm_test_mode_graph InvalidKwargs_test_mode_eager
                InvalidKwargs_test_mode_graph
        """),
    ),
    Known(
        "stricter",
        "an optimizer is for the variables of its first step; Keras 3 says so, too",
        r"was not built for the variables",
        _ids("""
            optimizer_v2.OptimizerTest: Weights_test_mode_eager
            optimizer_v2.OptimizerWithFunctionTest:
                LearningRateDecayUsedInTwoFunctions_test_mode_eager
        """),
    ),
    Known(
        "stricter",
        "`set_weights` before `build`, with nothing",
        r"\(it is not built yet: call `build\(variables\)`\), but 0 arrays",
        _ids("""
            adam.AdamOptimizerTest: SetWeightsFromV1AdamWithoutMinimize
        """),
    ),
    Known(
        "other",
        "the base class has no rule",
        r"Optimizer needs a static method `rule",
        _ids("""
            optimizer_v2.OptimizerTest:
                SlotWithNonstandardShapeRestoresBasedOnCheckpoint_test_mode_eager
        """),
    ),
    Known(
        "other",
        "models of Keras 2, in graphs",
        r"Could not find variable sgd_\w+/learning_rate|Resource localhost/\w+/iteration",
        _ids("""
            optimizer_v2.OptimizerTest: OptimizerWithCallbacks_test_mode_graph
                OptimizerWithKerasModel_test_mode_graph
        """),
    ),
)

SUITE = Suite("tf_keras_suite", PROCESSES, KNOWN)
