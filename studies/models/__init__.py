"""The reports' models, by the settings their texts and code give: what several studies train alike.

Knows the package's face; must not know any one study's question. At `smoke` scale the images are
the bundled digits, cut short, so that no script needs a download there; its numbers then mean
nothing.
"""

import dataclasses

from ppl_vae import VAEConfig, build, fit, load_data

__all__ = ["FREY", "REPLICATION", "load", "trained"]

# Report 004: one hidden layer of 500 tanh units, weights N(0, 0.01^2), AdaGrad at 0.01, minibatches
# of 100 drawn anew each epoch (the report permuted fixed ones), one draw of z a datum, no prior
# over the weights.
REPLICATION = {
    "hidden_sizes": (500,),
    "activation": "tanh",
    "init": "normal_0.01",
    "optimizer": "adagrad",
    "learning_rate": 0.01,
    "batch_size": 100,
}
# Report 004's Frey Face model: 200 units, sigmoid means, a variance of its own for every pixel
# (ours has a floor).
FREY = {
    **REPLICATION,
    "hidden_sizes": (200,),
    "likelihood": "normal_pixelwise",
    "likelihood_options": {"mean": "sigmoid"},
}
FIELDS = {field.name for field in dataclasses.fields(VAEConfig)}


def load(name, scale, split=None):
    """The data set of that name; at `smoke` scale a few hundred digits in its place."""
    if scale != "smoke":
        return load_data(name, split=split)
    data = load_data("digits")
    parts = {
        f"{part}{labels}": getattr(data, f"{part}{labels}")[:300]
        for part in ("train", "validation", "test")
        for labels in ("", "_labels")
    }
    return dataclasses.replace(data, **parts)


def trained(x, seed, scale, validation=None, **settings):
    """A VAE of x (N, *event_shape) and its history; `settings` are fields of `VAEConfig` and
    arguments of `fit`.
    """
    config = VAEConfig(
        tuple(x.shape[1:]), **{name: value for name, value in settings.items() if name in FIELDS}
    )
    vae = build(config, seed=seed)
    how = {
        "seed": seed,
        "progress": False,
        "compile": {"smoke": "off", "laptop": "record"}.get(scale, "auto"),
    }
    how |= {name: value for name, value in settings.items() if name not in FIELDS}
    return vae, fit(vae, x, validation=validation, **how)
