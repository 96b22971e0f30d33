"""Every guide with every prior: the pair trains, or is refused in one line; what trains resumes to
the bit.

Knows the two registries and which pairs are claimed; must not know how a guide or a prior is
written inside.
"""

import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae import VAE, InputError, VAEConfig, build, fit
from ppl_vae.elbo import estimator_from
from ppl_vae.guides import POSTERIORS
from ppl_vae.priors import PRIORS

IMAGES = {"network": "conv", "network_options": {"channels": [2]}, "hidden_sizes": ()}
FIELDS: dict[str, dict[str, Any]] = {
    "nvae": {**IMAGES, "prior_options": {"halvings": [1, 2], "channels": 4}},
    "ladder": {"prior_options": {"upper_sizes": [2]}},
    "vamp": {"prior_options": {"components": 3}},
}
# q has to have a density that the prior can be a mixture of
REFUSED = {(posterior, "vamp") for posterior in ("iaf", "implicit", "ladder", "residual", "point")}
# the residual guide corrects Normal vectors; a guide that runs the prior has no place for a draw
# outside the data plate
NORMAL = ("standard_normal", "two_level", "ladder", "nvae")
REFUSED |= {("residual", prior) for prior in PRIORS if prior not in NORMAL} | {
    ("ladder", "relevance")
}
PAIRS = [(posterior, prior) for posterior in POSTERIORS for prior in PRIORS]


def pair(posterior: str, prior: str) -> VAE:
    """A small VAE of 4 x 4 binary pixels."""
    fields = {"hidden_sizes": (5,), **FIELDS.get(prior, {})}
    return build(VAEConfig((4, 4), 4, prior=prior, posterior=posterior, **fields), seed=0)


def pixels() -> Tensor:
    """Binary data, (9, 4, 4)."""
    return torch.bernoulli(torch.full((9, 4, 4), 0.4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("posterior", "prior"), [each for each in PAIRS if each not in REFUSED])
def test_a_claimed_pair_trains_and_every_parameter_of_its_guide_learns(
    posterior: str, prior: str
) -> None:
    vae = pair(posterior, prior)
    before = {name: p.clone() for name, p in vae.guide.named_parameters()}
    history = fit(vae, pixels(), batch_size=4, epochs=3, compile="off", progress=False)
    assert math.isfinite(history.rows[-1]["lower_bound"])
    unmoved = {name for name, p in vae.guide.named_parameters() if torch.equal(p, before[name])}
    # gradients must pass a head that begins at 0 before they reach what feeds it, so three epochs
    # and not one
    assert unmoved == set()


@pytest.mark.parametrize(("posterior", "prior"), sorted(REFUSED))
def test_another_pair_is_refused_in_one_line_that_names_what_to_use(
    posterior: str, prior: str
) -> None:
    with pytest.raises(InputError, match=r"^posterior .*: got .*, expected .*") as error:
        fit(pair(posterior, prior), pixels(), epochs=1, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_a_run_stopped_and_resumed_is_the_run_that_was_not(posterior: str, tmp_path: Path) -> None:
    states = []
    for name, stops in (("whole", [4]), ("stopped", [2, 4])):
        for epochs in stops:
            vae = pair(posterior, "ladder")
            fit(
                vae,
                pixels(),
                batch_size=4,
                epochs=epochs,
                kl_weight="linear:0:1:3",
                compile="off",
                progress=False,
                checkpoint=tmp_path / name,
                resume=epochs != stops[0],
            )
        states.append(vae.state_dict())
    assert [
        name for name, value in states[0].items() if not torch.equal(value, states[1][name])
    ] == []


def test_a_guide_in_another_order_than_the_prior_is_refused_under_b_alone() -> None:
    vae = pair("diagonal_normal", "ladder")

    def backwards(x: Tensor) -> None:
        with poutine.block():
            sites = poutine.trace(vae.guide).get_trace(x).nodes
        with pyro.plate("data", len(x)):
            for name in ("z", "z_2"):
                pyro.sample(name, sites[name]["fn"])

    with torch.no_grad(), pyro.settings.context(module_local_params=True):
        assert (
            estimator_from("A")
            .terms(vae.eval().model, backwards, pixels())
            .lower_bound.isfinite()
            .all()
        )
        with pytest.raises(
            InputError, match="use estimator A or sample the guide's sites top-down"
        ):
            estimator_from("B").terms(vae.model, backwards, pixels())
