"""NumPyro's `SVI` with `TraceMeanField_ELBO`, jitted: a step a call, or a whole epoch in one
`fori_loop`.
"""

import itertools
import os
from collections.abc import Callable
from functools import partial

os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor

from peers import BATCH_SIZE, Workload

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def _initial(
    key: jax.Array, sizes: tuple[int, ...], heads: int
) -> list[tuple[jax.Array, jax.Array]]:
    pairs = [*itertools.pairwise(sizes[:-1]), *[(sizes[-2], sizes[-1])] * heads]
    keys = random.split(key, len(pairs))
    return [
        (random.normal(k, p) / np.sqrt(p[0]), jnp.zeros(p[1]))
        for k, p in zip(keys, pairs, strict=True)
    ]


def _apply(weights: list, heads: int, activation: Callable, h: jax.Array) -> list[jax.Array]:
    for matrix, bias in weights[:-heads]:
        h = activation(h @ matrix + bias)
    return [h @ matrix + bias for matrix, bias in weights[-heads:]]


def _programs(w: Workload) -> tuple[Callable, Callable]:
    activation, outputs = ACTIVATIONS[w.activation], 1 + w.normal
    encoder = _initial(random.PRNGKey(1), (w.data_size, *w.hidden_sizes, w.latent_size), 2)
    decoder = _initial(
        random.PRNGKey(2), (w.latent_size, *w.hidden_sizes[::-1], w.data_size), outputs
    )

    def model(x: jax.Array) -> None:
        weights = numpyro.param("decoder", decoder)
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(w.latent_size), 1.0).to_event(1))
            out = _apply(weights, outputs, activation, z)
            normal = dist.Normal(out[0], jnp.exp(0.5 * out[1])) if w.normal else None
            numpyro.sample("x", (normal or dist.BernoulliLogits(out[0])).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        weights = numpyro.param("encoder", encoder)
        with numpyro.plate("data", x.shape[0]):
            mean, log_variance = _apply(weights, 2, activation, x)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1))

    return model, guide


def trainer(w: Workload, x: Tensor, loop: bool = False) -> Callable[[int], int]:
    """A jitted update a step, or (`loop`) an epoch of updates, gathers included, in one call."""
    svi = SVI(*_programs(w), numpyro.optim.Adam(1e-3), TraceMeanField_ELBO())
    data, batches = jnp.asarray(x.numpy()), len(x) // BATCH_SIZE
    state = [svi.init(random.PRNGKey(0), data[:BATCH_SIZE])]
    update = jax.jit(lambda s, i: svi.update(s, data[i]))

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: object, order: jax.Array) -> object:
        def body(i: int, carry: object) -> object:
            rows = lax.dynamic_slice_in_dim(order, i * BATCH_SIZE, BATCH_SIZE)
            return svi.update(carry[0], data[rows])

        return lax.fori_loop(0, batches, body, (state, 0.0))

    def train(steps: int) -> int:
        done = 0
        while done < steps:
            order = np.random.permutation(len(x))[: batches * BATCH_SIZE]
            if loop:
                state[0], loss = epoch(state[0], jnp.asarray(order))
                float(loss)
            for index in [] if loop else order.reshape(batches, BATCH_SIZE):
                state[0], loss = update(state[0], index)
                float(loss)
            done += batches
        return done

    return train
