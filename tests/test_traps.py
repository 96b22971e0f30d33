"""Pyro's traps, one test each, and stock Pyro on the two programs as they are.

Knows both programs and stock Pyro; must not know our own training loop, except where it is what
must be compared.
"""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam

from ppl_vae.checks import InputError
from ppl_vae.elbo import estimator_from, kl_report
from ppl_vae.handlers import KLWeight
from ppl_vae.training import fit
from tests.examples import PRIORS, pixels, tiny
from tests.truths import linear_gaussian

STOCK = {"A": Trace_ELBO, "B": TraceMeanField_ELBO}


def stock_loss(estimator, model, guide, x, seed=0):
    torch.manual_seed(seed)
    return STOCK[estimator]().loss(model, guide, x)


class TestTraps:
    @pytest.mark.parametrize("estimator", "AB")
    @pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, torch.tensor(2.0)])
    def test_1_a_weight_from_outside_scales_both_programs_and_may_be_zero(self, estimator, weight):
        """Stock losses under `KLWeight` are linear in the weight; a scale on the model alone B does
        not even see.
        """
        vae, x = tiny(num_data=40).train(), pixels(10)
        own = terms_at(vae, x, estimator)
        with KLWeight(weight):
            weighted = stock_loss(estimator, vae.model, vae.guide, x)
        expected = (-own.log_likelihood + weight * own.kl["z"].value).sum() * 40 / 10
        assert float(weighted) == pytest.approx(expected.item(), rel=1e-5)

    def test_1_the_trap_itself_is_still_there(self):
        """Under B a scale entered inside the model changes nothing: what the handler is for."""
        vae, x = tiny(), pixels(10)

        def weighed(x):
            with poutine.scale(scale=0.1):
                return vae.guide(x)

        scaled = poutine.scale(vae.model, 0.1)
        assert stock_loss("B", scaled, vae.guide, x) != pytest.approx(
            0.1 * stock_loss("B", vae.model, vae.guide, x)
        )
        with pytest.raises(InputError, match="different scales in model and guide"):
            estimator_from("B").terms(scaled, vae.guide, x)
        with pytest.raises(InputError, match="different scales in model and guide"):
            estimator_from("A").terms(vae.model, weighed, x)

    def test_1_one_scale_around_both_programs_is_no_difference(self):
        vae, x = tiny(), pixels(10)
        both = terms_at(vae, x, "B")
        torch.manual_seed(0)
        with poutine.scale(scale=0.5):
            half = estimator_from("B").terms(vae.model, vae.guide, x)
        torch.testing.assert_close(half.lower_bound, 0.5 * both.lower_bound)

    def test_2_a_kl_without_closed_form_is_reported_as_sampled(self):
        vae = tiny(PRIORS["mixture"])
        assert kl_report(vae.model, vae.guide, pixels(4), "B") == {"z": "sampled"}

    def test_3_our_terms_are_per_datum_whatever_n(self):
        """N/M inside a log-mean-exp (`RenyiELBO` under the plate) is no bound; per datum terms do
        not contain it.
        """
        x = pixels(4)
        few, many = (terms_at(tiny(num_data=n).train(), x, "A") for n in (4, 4000))
        assert torch.equal(few.lower_bound, many.lower_bound)
        vae = tiny(num_data=4000).train()
        torch.manual_seed(0)
        renyi = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True, max_plate_nesting=1)
        invalid = renyi.loss(vae.model, vae.guide, x) * 4 / 4000
        torch.manual_seed(0)
        valid = renyi.loss(vae.eval().model, vae.guide, x)
        assert abs(invalid - valid) > 0.1

    def test_4_and_5_weights_outside_the_plate_are_drawn_once_with_a_closed_form_kl(self):
        def program(x):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 100, subsample=x):
                z = pyro.sample("z", dist.Normal(theta, 1.0).expand([len(x), 1]).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        guide = poutine.block(program, hide=["x"])
        terms = estimator_from("B").terms(program, guide, torch.zeros(4, 1))
        assert set(terms.weight_kl) == {"theta"} and set(terms.kl) == {"z"}
        assert (
            terms.weight_kl["theta"].value.shape == ()
            and terms.weight_kl["theta"].kind == "analytic"
        )

    def test_6_and_7_another_order_of_sites_is_refused_under_b_and_fine_under_a(self):
        vae, x = tiny(PRIORS["scale_then_z"]), pixels(4)

        def bottom_up(x):
            with poutine.block():
                nodes = poutine.trace(vae.guide).get_trace(x).nodes
            with pyro.plate("data", len(x)):
                pyro.sample("z", nodes["z"]["fn"])
                pyro.sample("scale", nodes["scale"]["fn"])

        with pytest.raises(InputError, match="the model's order, scale, z"):
            estimator_from("B").terms(vae.model, bottom_up, x)
        with pytest.raises(InputError, match="the model's order, scale, z"):
            kl_report(vae.model, bottom_up, x, "B")
        assert estimator_from("A").terms(vae.model, bottom_up, x).lower_bound.shape == (4,)

    def test_8_an_elbo_of_the_two_programs_registers_every_parameter(self):
        vae = tiny()
        module = Trace_ELBO()(vae.model, vae.guide)
        assert {id(p) for p in module.parameters()} == {id(p) for p in vae.parameters()}

    def test_10_two_vaes_in_one_process_do_not_share_parameters(self):
        vaes = [tiny(seed=0), tiny(seed=1)]
        vaes.append(copy.deepcopy(vaes[0]))
        for vae in vaes:
            vae.model(pixels(4))
            vae.guide(pixels(4))
        store = pyro.get_param_store()
        registered = {id(p) for p in (store._params[name] for name in store)}
        assert registered == {id(p) for vae in vaes for p in vae.parameters()}

    def test_10_the_state_dict_holds_batch_norm_statistics_and_plain_names(self):
        vae = tiny(event_shape=(8, 8), network="conv")
        names = set(vae.state_dict())
        for program in ("model.", "guide."):
            own = {n.rpartition(".")[2] for n in names if n.startswith(program)}
            assert own == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
        assert all(n.startswith(("model.", "guide.")) for n in names)
        assert len(pyro.get_param_store()) == 0

    def test_12_nothing_is_made_on_the_first_call(self):
        vae = tiny(PRIORS["gamma_scale"])
        before = [id(p) for p in vae.parameters()]
        vae.model(pixels(4))
        vae.guide(pixels(4))
        assert [id(p) for p in vae.parameters()] == before

    def test_13_the_data_plate_draws_no_random_numbers(self):
        """The model run on given latents leaves the generator alone: no subsample is drawn."""
        vae, x = tiny(num_data=40).train(), pixels(10)
        conditioned = poutine.condition(vae.model, data={"z": torch.zeros(10, 2)})
        state = torch.get_rng_state()
        conditioned(x)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("estimator", "AB")
    def test_16_grey_pixels_train_under_a_bernoulli_and_no_setting_is_changed(self, estimator):
        """The fixture around every test compares all global settings; here validation is on for all
        others.
        """
        vae, x = tiny(), pixels(20) * 0.7
        with pyro.settings.context(
            validate_distributions_pyro=True, validate_distributions_torch=True
        ):
            fit(vae, x, estimator=estimator, epochs=2, progress=False)
            assert pyro.settings.get("validate_distributions_pyro")
            with pytest.raises(ValueError):
                dist.Bernoulli(torch.tensor(2.0))

    def test_17_a_mixture_over_whole_vectors_has_fewer_modes_than_one_over_coordinates(self):
        """Two modes in the plane, not four: no mass at (-1, 1)."""
        vae = tiny(PRIORS["mixture"])
        site = poutine.trace(vae.model).get_trace(pixels(1)).nodes["z"]["fn"]
        at = [
            site.log_prob(torch.tensor(v)).item() for v in ([1.0, 1.0], [-1.0, -1.0], [-1.0, 1.0])
        ]
        assert at[0] == pytest.approx(at[1]) and at[2] < at[0] - 5


def terms_at(vae, x, estimator, seed=0):
    torch.manual_seed(seed)
    return estimator_from(estimator).terms(vae.model, vae.guide, x)


def mean_bound(vae, x):
    torch.manual_seed(0)
    with torch.no_grad():
        return estimator_from("B", 500).terms(vae.model, vae.guide, x).lower_bound.mean().item()


class TestStockPyro:
    @pytest.fixture(autouse=True)
    def pyros_own_settings(self):
        """`MCMC` and `get_model_relations` leave torch's validation changed: put it back for
        them.
        """
        with pyro.settings.context(
            validate_distributions_torch=pyro.settings.get("validate_distributions_torch")
        ):
            yield

    @pytest.mark.parametrize("estimator", "AB")
    @pytest.mark.parametrize("prior", ["standard_normal", "gamma_scale"])
    def test_svi_trains_two_vaes_in_one_process(self, estimator, prior):
        """150 steps raise the bound, at 500 draws a datum known to 0.01 nats, by more than 0.25
        nats a datum.
        """
        x = pixels(40)
        for seed in (0, 1):
            vae = tiny(PRIORS[prior], num_data=len(x), seed=seed).train()
            before = {n: p.detach().clone() for n, p in vae.named_parameters()}
            bounds = [mean_bound(vae, x)]
            svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.03}), STOCK[estimator]())
            for _ in range(150):
                svi.step(x)
            bounds.append(mean_bound(vae, x))
            assert bounds[1] > bounds[0] + 0.25
            assert all(not torch.equal(before[n], p) for n, p in vae.named_parameters())

    def test_predictive_runs_on_both_programs(self):
        vae, x = tiny(), pixels(4)
        posterior = Predictive(vae.guide, num_samples=7)(x)
        assert posterior["z"].shape == (7, 4, 2)
        predictive = poutine.uncondition(vae.model)
        draws = Predictive(predictive, posterior_samples=posterior)(x)["x"]
        assert draws.shape == (7, 4, 6) and set(draws.unique().tolist()) == {0.0, 1.0}

    def test_trace_shows_the_sites_by_their_names(self):
        vae, x = tiny(PRIORS["scale_then_z"]), pixels(4)
        nodes = poutine.trace(vae.model).get_trace(x).nodes
        assert [n for n, s in nodes.items() if s["type"] == "sample"] == ["data", "scale", "z", "x"]
        assert nodes["x"]["is_observed"] and torch.equal(nodes["x"]["value"], x)

    def test_nuts_after_fit_samples_the_posterior_of_the_few_data_it_is_given(self):
        """Not tempered by N/M although `num_data` is set. 300 draws of 2 x 2 coordinates; means
        within 5 standard errors (inflated by 2 for autocorrelation), standard deviations within 25
        %: fails once in 10,000."""
        truth = linear_gaussian("exact")
        truth.vae.num_data = 1000
        x = truth.draw(2)
        pyro.set_rng_seed(0)
        mcmc = MCMC(NUTS(truth.vae.model), num_samples=300, warmup_steps=100, disable_progbar=True)
        mcmc.run(x)
        z, scale = mcmc.get_samples()["z"].double(), truth.posterior_variance.sqrt()
        assert ((z.mean(0) - truth.posterior_mean(x)).abs() < 10 * scale / 300**0.5).all()
        torch.testing.assert_close(z.std(0), scale.expand(2, 2), rtol=0.25, atol=0)

    def test_model_relations_can_be_rendered(self):
        from pyro.infer.inspect import get_model_relations

        vae, x = tiny(PRIORS["scale_then_z"]), pixels(4)
        relations = get_model_relations(vae.model, (x,))
        assert relations["sample_sample"] == {"scale": [], "z": ["scale"], "x": ["z"]}
        assert relations["plate_sample"]["data"] == ["scale", "z", "x"] and relations[
            "observed"
        ] == ["x"]

    def test_a_pyro_module_prior_and_guide_are_programs_like_any_other(self):
        class Prior(PyroModule):
            def forward(self):
                return pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

        class Posterior(PyroModule):
            def __init__(self):
                super().__init__()
                self.linear = PyroModule[torch.nn.Linear](6, 2)
                self.scale = PyroParam(torch.tensor(0.5), dist.constraints.positive)

            def forward(self, x):
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(self.linear(x), self.scale).to_event(1))

        vae, x = tiny(Prior(), Posterior(), num_data=40), pixels(40)
        twin = tiny(Prior(), Posterior(), num_data=40)
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
        untouched = {n: p.detach().clone() for n, p in twin.named_parameters()}
        svi.step(x)
        eager = copy.deepcopy(vae)
        for each, tier in ((vae, "record"), (eager, "off")):
            assert fit(each, x, epochs=3, progress=False, compile=tier).tier == tier
        assert all(torch.equal(p, vae.get_parameter(n)) for n, p in eager.named_parameters())
        assert terms_at(vae, x, "B").kl["z"].kind == "analytic" and vae.sample(3).shape == (3, 6)
        svi = SVI(twin.model, twin.guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
        svi.step(x)
        assert all(not torch.equal(p, untouched[n]) for n, p in twin.named_parameters())
        copied, before = (
            copy.deepcopy(twin),
            {n: p.detach().clone() for n, p in twin.named_parameters()},
        )
        SVI(copied.model, copied.guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO()).step(x)
        assert all(torch.equal(p, before[n]) for n, p in twin.named_parameters())
        assert all(not torch.equal(p, before[n]) for n, p in copied.named_parameters())
