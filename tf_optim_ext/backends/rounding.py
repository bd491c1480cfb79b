"""Stochastic rounding of weights of 16 bits.

A number between two neighbours is rounded up with a probability equal to its distance from the
lower one, in units of their gap. The result is right on average, and updates far below the gap are
not lost. The random numbers depend on a key (of the seed and the variable), the step and the
position in the variable, natively as here: results depend on neither route nor threads.
"""

import tensorflow as tf

_UINT32 = 2**32 - 1


def key(seed, variable):
    """The key of variable number `variable`."""
    return _scramble_number(_scramble_number(seed & _UINT32) ^ (variable + 1))


def _scramble_number(x):
    x ^= x >> 16
    x = x * 0x7FEB352D & _UINT32
    x ^= x >> 15
    x = x * 0x846CA68B & _UINT32
    return x ^ x >> 16


def _shifted(x, bits):
    return tf.bitwise.right_shift(x, tf.constant(bits, tf.uint32))


def _scramble(x):
    """`Scramble` of `csrc/kernel.h`."""
    xor = tf.bitwise.bitwise_xor
    x = xor(x, _shifted(x, 16)) * tf.constant(0x7FEB352D, tf.uint32)
    x = xor(x, _shifted(x, 15)) * tf.constant(0x846CA68B, tf.uint32)
    return xor(x, _shifted(x, 16))


def rounded(x, dtype, key, step, positions):
    """A float32 tensor, rounded to a dtype at random.

    Args:
        x: tensor.
        dtype: `tf.bfloat16` or `tf.float16`.
        key: what `key` returns.
        step: number of the step, counting from 1.
        positions: integer tensor of the shape of `x`: of each element in its variable.

    Returns:
        A tensor of the given dtype. Infinities, NaN, and what is too large for the dtype are
        rounded as usual.
    """
    xor, conjunction = tf.bitwise.bitwise_xor, tf.bitwise.bitwise_and
    odd = tf.constant(0x9E3779B1, tf.uint32)
    of_step = _scramble(tf.cast(step, tf.uint32) * odd + tf.constant(key, tf.uint32))
    noise = _scramble(xor(tf.cast(positions, tf.uint32) * odd, of_step))
    bits = tf.bitcast(x, tf.uint32)
    magnitude = conjunction(bits, tf.constant(0x7FFFFFFF, tf.uint32))
    cut = 16 if dtype == tf.bfloat16 else 13
    noise = conjunction(noise, tf.constant(2**cut - 1, tf.uint32))
    kept = tf.constant(_UINT32 - 2**cut + 1, tf.uint32)
    result = tf.bitcast(conjunction(bits + noise, kept), tf.float32)
    highest = 0x7F800000
    if dtype == tf.float16:
        # Its denormal numbers, in units of 2^-37, of which the smallest has 2^13.
        small = magnitude < tf.constant(0x38800000, tf.uint32)
        units = tf.cast(tf.where(small, tf.abs(x), 0.0) * 2.0**37, tf.uint32)
        denormal = tf.cast(_shifted(units + noise, 13), tf.float32) * 2.0**-24
        result = tf.where(small, tf.where(x < 0, -denormal, denormal), result)
        highest = 0x47800000
    result = tf.where(magnitude >= tf.constant(highest, tf.uint32), x, result)
    return tf.cast(result, dtype)
