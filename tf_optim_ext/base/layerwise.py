"""Optimizers that scale the step of each variable by the norm of its weights."""

from tf_optim_ext.base.declaration import Computed
from tf_optim_ext.base.exclusions import Exclusions
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import where


def adapted(ratio, w_norm, u_norm, h):
    """The ratio of norms, or 1: for excluded variables, and where a norm is 0."""
    ratio = where(w_norm > 0, where(u_norm > 0, ratio, 1.0), 1.0)
    return where(h.layer_adaptation != 0, ratio, 1.0)


class LayerwiseOptimizer(Optimizer):
    """Base class of these optimizers; their rules use `h.layer_adaptation`, see `adapted`.

    Args:
        learning_rate: see `Optimizer`.
        **kwargs: see `Optimizer`.
    """

    hyperparameters = [Computed("layer_adaptation")]

    def __init__(self, learning_rate, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self._untracked.layer_exclusions = Exclusions()

    def exclude_from_layer_adaptation(self, var_list=None, var_names=None):
        """Excludes variables from the scaling by norms. Replaces what an earlier call said.

        Args:
            var_list: list of variables.
            var_names: list of regular expressions; a variable is excluded if one of them occurs
                in its path (Keras 3) or name.

        Raises:
            ValueError: the optimizer is already built, and this is not what was said before.
        """
        self._exclude("exclude_from_layer_adaptation", "layer_exclusions", var_list, var_names)

    def _hyperparameter_values(self, names, variables):
        values = super()._hyperparameter_values(names, variables)
        values["layer_adaptation"] = 1.0
        if self._untracked.layer_exclusions:
            values["layer_adaptation"] = [
                0.0 if self._is_excluded(self._untracked.layer_exclusions, v) else 1.0
                for v in variables
            ]
        return values

    def get_config(self):
        """See `Optimizer`."""
        config = super().get_config()
        if self._untracked.layer_exclusions:
            config["layer_adaptation_exclusions"] = self._exclusions_config(
                self._untracked.layer_exclusions
            )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """See `Optimizer`."""
        config = dict(config)
        old = config.pop("layer_adaptation_exemptions", None)  # the name in older files
        exclusions = config.pop("layer_adaptation_exclusions", old)
        optimizer = super().from_config(config, custom_objects)
        if exclusions:
            optimizer._untracked.layer_exclusions = Exclusions(**exclusions)
        return optimizer
