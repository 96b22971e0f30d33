"""Index sites of a prior, summed out: against Pyro's enumeration, against sums by hand, in training
and evaluation.

Knows priors with discrete sites; must not know how they are summed.
"""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from ppl_vae import log_likelihood
from ppl_vae.elbo import estimator_from
from ppl_vae.testing import PriorBattery
from tests.examples import pixels, tiny


class IndexedMixture(nn.Module):
    """Three Normals, the index a site of its own."""

    def __init__(self, latent_size: int) -> None:
        super().__init__()
        self.logits, self.locations = (
            nn.Parameter(torch.randn(3)),
            nn.Parameter(torch.randn(3, latent_size)),
        )

    def forward(self) -> Tensor:
        k = pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
        return pyro.sample("z", dist.Normal(self.locations[k], 0.8).to_event(1))


class TestIndexedMixture(PriorBattery):
    prior = f"{__file__}:IndexedMixture"


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("estimator", ["A", "B"])
def test_an_index_summed_out_is_what_pyro_enumerates(estimator: str, num_particles: int) -> None:
    vae, x = tiny(IndexedMixture).eval(), pixels(7)
    torch.manual_seed(0)
    ours = estimator_from(estimator, num_particles).terms(vae.model, vae.guide, x).lower_bound
    torch.manual_seed(0)
    stock = TraceEnum_ELBO(
        num_particles, max_plate_nesting=min(2, num_particles), vectorize_particles=True
    )
    assert -ours.sum().item() == pytest.approx(stock.loss(vae.model, vae.guide, x), rel=1e-5)


def test_a_chain_of_indices_is_summed_out_of_every_site_that_depends_on_one() -> None:
    """k -> a -> j -> z, a and z both kept: the density agrees with the sum over all (k, j) by
    hand.
    """
    means, spread = torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 1.5, 3.0])
    enumerated = {"enumerate": "parallel"}

    def chain() -> Tensor:
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])), infer=enumerated)
        a = pyro.sample("a", dist.Normal(means[k], 1.0))
        j = pyro.sample(
            "j", dist.Categorical(logits=a[..., None] * torch.arange(3.0)), infer=enumerated
        )
        scale = (spread[j] + means[k].abs())[..., None]
        return pyro.sample("z", dist.Normal(torch.zeros(2), scale).to_event(1))

    vae, x = tiny(chain).eval(), pixels(4)
    torch.manual_seed(0)
    terms = estimator_from("A").terms(vae.model, vae.guide, x)
    torch.manual_seed(0)
    q = poutine.trace(vae.guide).get_trace(x)
    a, z, joint = q.nodes["a"]["value"], q.nodes["z"]["value"], []
    for k, j in itertools.product(range(2), range(3)):
        weights = (a[:, None] * torch.arange(3.0)).log_softmax(-1)[:, j] + math.log([0.3, 0.7][k])
        local = dist.Normal(means[k], 1.0).log_prob(a) + weights
        joint.append(local + dist.Normal(0.0, spread[j] + means[k].abs()).log_prob(z).sum(-1))
    log_q = q.nodes["a"]["fn"].log_prob(a) + q.nodes["z"]["fn"].log_prob(z)
    kl = sum(kl.value for kl in terms.kl.values())
    torch.testing.assert_close(kl, log_q - torch.stack(joint).logsumexp(0), rtol=1e-4, atol=1e-4)
    assert {name: kl.kind for name, kl in terms.kl.items()} == {
        "a": "enumerated",
        "z": "enumerated",
    }


def test_importance_sampling_sums_an_index_out_as_well() -> None:
    """log p(x) of a decoder that ignores z is log p(x|z) at any z, whatever the prior."""
    vae, x = tiny(IndexedMixture).eval(), pixels(3)
    for parameter in (*vae.model.decoder.parameters(), *vae.guide.parameters()):
        nn.init.zeros_(parameter)
    with torch.no_grad():
        vae.guide.posterior.heads.bias[2:] = math.log(
            9.0
        )  # q(z|x) = N(0, 9 I), which covers the prior
    values = log_likelihood(vae, x, num_samples=20_000, seed=0).values
    assert (values - 6 * math.log(0.5)).abs().max() < 0.05
