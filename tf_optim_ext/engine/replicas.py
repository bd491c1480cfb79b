"""Gradients of the replicas of a distribution strategy."""

import tensorflow as tf

from tf_optim_ext.engine import sparse


def check_inside(optimizer):
    """Raises a `RuntimeError` outside a replica."""
    if tf.distribute.get_replica_context() is None:
        raise RuntimeError(
            f"{optimizer.name!r} updates variables inside replicas: call it in `strategy.run`."
        )


def summed(gradients, variables, increasing):
    """Sums gradients over all replicas.

    Args:
        gradients: list of tensors, or of `tf.IndexedSlices` as `sparse` prepares them.
        variables: list of as many variables.
        increasing: see `sparse.prepared`.

    Returns:
        List of gradients, prepared likewise.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    dense = [g for g in gradients if not isinstance(g, tf.IndexedSlices)]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, dense) if dense else ())
    return [
        sparse.summed_over_replicas(context, g, v, increasing)
        if isinstance(g, tf.IndexedSlices)
        else next(sums)
        for g, v in zip(gradients, variables)
    ]
