"""Optimizers that scale the step of each variable by the norm of its weights."""

from tf_optim_ext.base.exclusions import Exemptions
from tf_optim_ext.base.optimizer import Optimizer
from tf_optim_ext.rule import where


def adapted(ratio, w_norm, u_norm, h):
    """The ratio of norms, or 1: for exempt variables, and where a norm is 0."""
    ratio = where(w_norm > 0, where(u_norm > 0, ratio, 1.0), 1.0)
    return where(h.layer_adaptation != 0, ratio, 1.0)


class LayerwiseOptimizer(Optimizer):
    """Base class of these optimizers; their rules use `h.layer_adaptation`, see `adapted`.

    Args:
        learning_rate: see `Optimizer`.
        **kwargs: see `Optimizer`.
    """

    computed_hyperparameters = ("layer_adaptation",)

    def __init__(self, learning_rate, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.__dict__["_layer_exemptions"] = Exemptions()

    def exclude_from_layer_adaptation(self, var_list=None, var_names=None):
        """Exempts variables from the scaling by norms. Replaces what an earlier call said.

        Args:
            var_list: list of variables.
            var_names: list of regular expressions; a variable is exempt if one of them occurs in
                its path (Keras 3) or name.

        Raises:
            ValueError: the optimizer is already built, and this is not what was said before.
        """
        self._exempt("exclude_from_layer_adaptation", "_layer_exemptions", var_list, var_names)

    def _hyperparameter_values(self, names, variables):
        values = super()._hyperparameter_values(names, variables)
        values["layer_adaptation"] = 1.0
        if self._layer_exemptions:
            values["layer_adaptation"] = [
                0.0 if self._covers(self._layer_exemptions, v) else 1.0 for v in variables
            ]
        return values

    def get_config(self):
        """See `Optimizer`."""
        config = super().get_config()
        if self._layer_exemptions:
            config["layer_adaptation_exemptions"] = self._exemptions_config(self._layer_exemptions)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """See `Optimizer`."""
        config = dict(config)
        exemptions = config.pop("layer_adaptation_exemptions", None)
        optimizer = super().from_config(config, custom_objects)
        if exemptions:
            optimizer.__dict__["_layer_exemptions"] = Exemptions(**exemptions)
        return optimizer
