r"""
The arithmetic that a training step of BERT4Rec cannot do without: the floor that its time is held against.

Only matrix products count (a multiplication and an addition are two operations), only for real events (no padding), only
where something is read later: the last block gives its output at hidden positions alone, and those alone meet the
catalogue. With hidden size d, feed-forward size f, L blocks, V scores, a window of n events of which m are hidden:

    whole block         8 n d^2       queries, keys, values, output projection
                      + 4 n^2 d       attention scores, weighted values
                      + 4 n d f       feed-forward
    last block          4 n d^2       keys and values of all events
                      + 4 m d^2       queries and output projection of the hidden ones
                      + 4 m n d       attention scores, weighted values
                      + 4 m d f       feed-forward
    head                2 m d^2       dense layer before the scores
                      + 2 m d V       scores over the catalogue
    forward             (L - 1) whole blocks + last block + head
    step                3 x forward   backward: one product for each of the two operands of every product

Embedding look-ups, norms, activations, softmax, dropout, the optimiser and everything in Python count as nothing: they are
what a share below 100 % consists of. m is rho n, at least 1.
"""

from __future__ import annotations

import numpy as np

FORMULA = (
    "3 [(L-1)(8nd² + 4n²d + 4ndf) + 4nd² + m(4d² + 4nd + 4df + 2d² + 2dV)], summed over users: n events of the window, "
    "m = max(1, ρn) hidden, d hidden size, f feed-forward size, L blocks, V scores; 3: forward and twice that backward"
)


def useful_operations(
    lengths: np.ndarray,
    vocab_size: int,
    *,
    mlm_probability: float,
    hidden_size: int,
    intermediate_size: int,
    num_hidden_layers: int,
) -> float:
    r"""
    Operations of one pass over all users, forward and backward, as the formula above says.

    Args:
        lengths (`np.ndarray` of shape `(num_users,)`): Events of each window.
        vocab_size (`int`): Scores of the head.
        mlm_probability (`float`): Share of the events that are hidden, rho.
        hidden_size, intermediate_size, num_hidden_layers (`int`): The architecture.

    Returns:
        `float`: floating-point operations.

    Example:
        >>> sizes = {"hidden_size": 1, "intermediate_size": 1, "num_hidden_layers": 1}
        >>> useful_operations(np.array([1]), 10, mlm_probability=0.2, **sizes)  # 3 * (4 + (4 + 4 + 4 + 2 + 20))
        114.0
    """
    n, d, f = np.asarray(lengths, dtype=np.float64), hidden_size, intermediate_size
    m = np.maximum(1.0, mlm_probability * n)
    whole_block = 8 * n * d**2 + 4 * n**2 * d + 4 * n * d * f
    last_block = 4 * n * d**2 + m * (4 * d**2 + 4 * n * d + 4 * d * f)
    head = m * (2 * d**2 + 2 * d * vocab_size)
    return float(3 * ((num_hidden_layers - 1) * whole_block + last_block + head).sum())
