"""Ways to a posterior over weights, each as a list of candidates among which validation data
choose.

Knows the package's face and its sampling room; must not know what is asked of the posteriors.
"""

import time

import torch
from models import trained
from torch.distributions import kl_divergence

from ppl_vae import fit
from ppl_vae.sampling import (
    ConstantSteps,
    CyclicalSteps,
    bayesian_vae,
    ensemble,
    fitted,
    mixture,
    stochastic_gradient_hmc,
    swag,
)

__all__ = [
    "CHECK",
    "DRAWS",
    "FITTED",
    "FIVE_TIMES",
    "LONGER",
    "METHODS",
    "POINTS",
    "UNIT_NORMAL",
    "candidate",
    "candidates",
]

BATCH_SIZE = 100
POINTS = ("point, early stopped", "point, weight decay")
LONGER = "point, five times the updates"
MEAN_FIELD = {"weights": "mean_field"}
ALL_WEIGHTS = {"prior": "normal", "where": "all", "biases": True}
# name -> candidates: fields of VAEConfig, arguments of fit, and "sampler" (a key of SAMPLERS) with
# what it takes
METHODS = {
    "point, early stopped": [{"early_stopping": True}],
    "point, weight decay": [{"weight_penalty": penalty} for penalty in (0.03, 0.1, 0.3, 1.0, 3.0)],
    LONGER: [{"sampler": "longer", "weight_penalty": penalty} for penalty in (1.0, 0.3, 3.0)],
    "ensemble of 5": [
        {"sampler": "ensemble", "weight_penalty": penalty} for penalty in (0.3, 1.0, 0.1)
    ],
    "SGHMC": [
        {"sampler": "sghmc", "temperature": temperature, "step_size": step_size}
        for temperature, step_size in (
            (0.1, 0.02),
            (0.03, 0.005),
            (0.03, 0.0015),
            (0.3, 0.02),
            (1.0, 0.02),
        )
    ]
    + [{"sampler": "cyclical", "temperature": temperature} for temperature in (0.1, 1.0)],
    "SWAG": [{"sampler": "swag", "step_size": step_size} for step_size in (0.01, 0.003, 0.05)],
    "SWAG, ensemble of 5": [
        {"sampler": "swags", "step_size": step_size} for step_size in (0.003, 0.01)
    ],
    "SGHMC, ensemble of 5": [
        {"sampler": "chains", "temperature": temperature, "step_size": step_size}
        for temperature, step_size in ((0.03, 0.005), (0.1, 0.02))
    ],
    "matrix-normal": [{"weights": "matrix_normal"}],
    "mean-field": [MEAN_FIELD],
    "tempered": [{**MEAN_FIELD, "temperature": temperature} for temperature in (0.1, 0.3, 0.03)],
    "dropout": [
        {"network_options": {"dropout": rate}, "early_stopping": True} for rate in (0.05, 0.15, 0.3)
    ],
    "low rank": [{"weights": "low_rank"}],
    "scale mixture": [
        {**MEAN_FIELD, "weights_options": {"prior": "scale_mixture", "narrow_scale": 0.05}}
    ],
    "mean-field N(0, I), all weights": [
        {**MEAN_FIELD, "weights_options": {**ALL_WEIGHTS, "estimator": estimator}}
        for estimator in ("naive", "local")
    ],
    "mean-field N(0, I), decoder": [{**MEAN_FIELD, "weights_options": {"prior": "normal"}}],
    "mean-field N(0, I) from MAP": [{"sampler": "from_map"}],
    "KL alone": [{"sampler": "kl_alone"}],
}
DRAWS, FITTED = list(METHODS)[:8], list(METHODS)[8:]
FIVE_TIMES = [LONGER, *(name for name in METHODS if "ensemble of 5" in name)]
UNIT_NORMAL = [name for name in METHODS if "N(0, I)" in name]
CHECK = [*POINTS, *UNIT_NORMAL, "KL alone"]
# where a run is thinned: two candidates at most, but five decays, three of a long run, three
# settings of one chain, one plain ensemble
MOST = {
    "smoke": ({}, 1),
    "laptop": ({"point, weight decay": 5, LONGER: 3, "ensemble of 5": 1, "SGHMC": 3}, 2),
    "paper": ({}, None),
}


def candidates(method, scale):
    """The settings of a method among which validation data choose at this scale."""
    exceptions, most = MOST[scale]
    return METHODS[method][: exceptions.get(method, most)]


def candidate(x, validation, seed, scale, steps, settings):
    """(posterior, measured) of one candidate after `steps` updates (5 times as many for the methods
    of `FIVE_TIMES`).

    measured: `kl_weights`, KL(theta) / N in nats; `objective`, the training bound with it; `ms`,
    processor time a step.
    """
    began, settings = time.process_time(), dict(settings)
    posterior, row = SAMPLERS[settings.pop("sampler", "fit")](
        x, validation, seed, scale, steps, settings
    )
    milliseconds = 1e3 * (time.process_time() - began) / steps
    return posterior, {
        "kl_weights": row.get("kl_weights", 0.0),
        "objective": row["lower_bound"],
        "ms": milliseconds,
    }


def _point_or_q(x, validation, seed, scale, steps, settings):
    vae, row = _trained(x, validation, seed, scale, steps, settings)
    return (fitted(vae, 20, seed) if vae.config.weights else ensemble([vae])), row


def _longer(x, validation, seed, scale, steps, settings):
    """A point that makes as many updates as an ensemble of five."""
    return _point_or_q(x, validation, seed, scale, 5 * steps, settings)


def _trained(x, validation, seed, scale, steps, settings):
    """A VAE and the last row of its history; KL(theta) is warmed up over the first half of the
    run.
    """
    epochs = _epochs(x, steps)
    settings = {"epochs": epochs, "batch_size": min(BATCH_SIZE, len(x)), **settings}
    stopping = settings.pop("early_stopping", False)
    temperature = settings.pop("temperature", 1.0)
    if "weights" in settings:
        settings["weight_kl_weight"] = f"linear:0:{temperature}:{max(1, epochs // 2)}"
    if stopping:
        settings["early_stopping"] = max(5, epochs // 10)
    vae, history = trained(x, seed, scale, validation if stopping else None, **settings)
    return vae, history.rows[-1]


def _epochs(x, steps):
    return max(1, round(steps / -(-len(x) // BATCH_SIZE)))


def _map(x, seed, scale, steps, settings):
    """The maximum a posteriori point under N(0, I) on all weights: where chains start, after half
    of the updates.
    """
    return _trained(x, None, seed, scale, steps // 2, {"weight_penalty": 1.0, **settings})


def _ensemble(x, validation, seed, scale, steps, settings):
    members = [_trained(x, None, 100 * seed + i, scale, steps, settings) for i in range(5)]
    return ensemble([vae for vae, _ in members]), members[0][1]


def _from_map(x, validation, seed, scale, steps, settings):
    vae = bayesian_vae(_map(x, seed, scale, steps, settings)[0], "mean_field", **ALL_WEIGHTS)
    how = {
        "epochs": _epochs(x, steps // 2),
        "batch_size": min(BATCH_SIZE, len(x)),
        "compile": _tier(scale),
    }
    return fitted(vae, 20, seed), fit(vae, x, seed=seed, progress=False, **how).rows[-1]


def _tier(scale):
    return "off" if scale == "smoke" else "record"


def _swag(x, validation, seed, scale, steps, settings):
    kernel = ConstantSteps(
        settings.pop("step_size"), temperature=0.0, burn_in=steps // 8, thin=max(1, steps // 80)
    )
    vae, row = _map(x, seed, scale, steps, settings)
    return swag(vae, x, kernel=kernel, seed=seed, compile=_tier(scale)), row


def _sghmc(x, validation, seed, scale, steps, settings):
    how = {name: settings.pop(name) for name in ("step_size", "temperature")}
    kernel = ConstantSteps(**how, burn_in=steps // 4, thin=max(1, steps // 80))
    vae, row = _map(x, seed, scale, steps, settings)
    return stochastic_gradient_hmc(vae, x, kernel=kernel, seed=seed, compile=_tier(scale)), row


def _cyclical(x, validation, seed, scale, steps, settings):
    kernel = CyclicalSteps(
        temperature=settings.pop("temperature"), cycle=max(8, steps // 10), draws_per_cycle=4
    )
    vae, row = _map(x, seed, scale, steps, settings)
    return stochastic_gradient_hmc(vae, x, kernel=kernel, seed=seed, compile=_tier(scale)), row


def _several(sample):
    """The same from the starts of five seeds, joined: draws around five modes, eight around
    each.
    """

    def joined(x, validation, seed, scale, steps, settings):
        parts = [
            sample(x, validation, 100 * seed + i, scale, steps, dict(settings)) for i in range(5)
        ]
        return mixture([posterior.thinned(8) for posterior, _ in parts]), parts[0][1]

    return joined


def _kl_alone(x, validation, seed, scale, steps, settings):
    """The published code of report 004: the likelihood at frozen weights, q(theta) moved by its KL
    alone.
    """
    vae, row = _map(x, seed, scale, steps, settings)
    model = bayesian_vae(vae, "mean_field", **ALL_WEIGHTS)
    q, p = model.guide.weights, model.model.weights
    optimizer = torch.optim.Adagrad(q.parameters(), 0.01)
    for _ in range(min(steps, 2000)):
        optimizer.zero_grad()
        priors = dict(zip(q.weight_names, (prior() for prior in p.priors)))
        kl = sum(kl_divergence(fn, priors[name]) for name, fn in q.distributions().items())
        kl.backward()
        optimizer.step()
    return ensemble([vae]), {**row, "kl_weights": kl.item() / len(x)}


SAMPLERS = {
    "fit": _point_or_q,
    "longer": _longer,
    "ensemble": _ensemble,
    "from_map": _from_map,
    "swag": _swag,
    "sghmc": _sghmc,
    "cyclical": _cyclical,
    "swags": _several(_swag),
    "chains": _several(_sghmc),
    "kl_alone": _kl_alone,
}
