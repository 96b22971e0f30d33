"""A configuration in plain data -> a variational autoencoder, which is two Pyro programs.

Knows how the rooms above fit together: prior, network, likelihood and guide. Knows nothing of
estimators, training, files or plots. `vae.model(x)` and `vae.guide(x)` are ordinary Pyro programs
for `SVI`, `Predictive` or `NUTS`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae import checks
from ppl_vae.distributions import Incomplete, fillers
from ppl_vae.guides import (
    POSTERIOR,
    POSTERIORS,
    DataProgram,
    build_own_posterior,
    build_posterior,
    latent_sites,
    owner,
)
from ppl_vae.guides.encoding import check_encoded, encoding_site
from ppl_vae.guides.moments import mean
from ppl_vae.guides.program import named
from ppl_vae.handlers import call
from ppl_vae.handlers.corruption import evidence
from ppl_vae.handlers.embedded import EmbeddedModel
from ppl_vae.handlers.modes import evaluating
from ppl_vae.handlers.own_parameters import check_owned, stated
from ppl_vae.inputs import Data, in_memory
from ppl_vae.likelihoods import (
    LIKELIHOOD,
    DecoderDistribution,
    Likelihood,
    PixelLikelihood,
    build_likelihood,
)
from ppl_vae.likelihoods.start import Blocks, OutputStart
from ppl_vae.networks import (
    ACTIVATIONS,
    DECODER,
    ENCODER,
    INITIALIZATIONS,
    NETWORKS,
    Gaps,
    InUnits,
    OwnDecoder,
    decoder_network,
    encoder_network,
    gaps_shape,
    own_decoder,
    own_encoder,
)
from ppl_vae.parts.slot import copies
from ppl_vae.parts.user_code import fault, recorded_code
from ppl_vae.priors import PRIOR, build_prior, made_of_posterior
from ppl_vae.protocols import ClosedFormPosterior, CouplesData, InitialisedFromData, Posterior
from ppl_vae.tables import as_html, as_lines
from ppl_vae.weights import bayesian_pair, check_options

__all__ = ["VAE", "Decoder", "Guide", "Model", "VAEConfig", "build", "evaluating"]

# the parts of a VAE that may be the user's own
SLOTS = (PRIOR, LIKELIHOOD, POSTERIOR, ENCODER, DECODER)
# where the decoder's outputs start: at what the data say, at 0, or as the likelihood has it
OUTPUT_STARTS = ("auto", "data", "zero")
# rows of data looked at together, and at most: of more, every second or third and so on
START_BLOCK, START_ROWS = 10_000, 100_000
# data encoded at once: where q's mean has no closed form, hundreds of draws of each are held
ENCODED = 500


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Everything that determines the two programs, in plain data: what a checkpoint stores and a
    command line sets.

    With `output_start="data"` the first fit sets where the library's own decoder starts: its
    outputs are at the mean of each entry, its scales at the data's standard deviation, both
    networks work in units of the data, and a run is the same whatever unit x is in. "auto" does so
    where the likelihood has a scale, counts, or is a table, but not for pixels under a Bernoulli,
    where a scale is given, and under Bayesian weights, whose prior is in units of x.
    """

    event_shape: tuple[int, ...]
    latent_size: int = 10
    hidden_sizes: tuple[int, ...] = (500,)
    activation: str = "tanh"
    network: str = "mlp"
    network_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init: str = "fan_in"
    output_start: str = "auto"
    missing: bool = False
    likelihood: str = "bernoulli"
    likelihood_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prior: str = "standard_normal"
    prior_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    posterior: str = "diagonal_normal"
    posterior_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder: str | None = None
    encoder_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decoder: str | None = None
    decoder_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None
    weights_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field; raises `InputError`."""
        object.__setattr__(self, "event_shape", checks.sizes("event_shape", self.event_shape))
        object.__setattr__(self, "hidden_sizes", checks.sizes("hidden_sizes", self.hidden_sizes))
        object.__setattr__(self, "latent_size", checks.integer("latent_size", self.latent_size))
        choices: dict[str, Iterable[str]] = {
            "activation": ACTIVATIONS,
            "network": NETWORKS,
            "init": INITIALIZATIONS,
            "output_start": OUTPUT_STARTS,
        }
        for field, names in choices.items():
            checks.choice(field, getattr(self, field), names)
        checks.truth("missing", self.missing)
        for field in (
            "network_options",
            "likelihood_options",
            "prior_options",
            "posterior_options",
            "encoder_options",
            "decoder_options",
            "weights_options",
        ):
            checks.options(field, getattr(self, field), None)
        check_options(self.weights, self.weights_options)
        for slot in SLOTS:
            slot.check_name(getattr(self, slot.kind))


class Decoder(nn.Module):
    """z (*, latent_size) -> the distribution of x, batch shape (*,), event shape `event_shape`."""

    likelihood: Likelihood
    offset: Tensor | None
    factor: Tensor | None
    started: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        event_shape: tuple[int, ...],
        starts_from_data: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.likelihood = network, likelihood
        for name in ("offset", "factor", "started"):
            self.register_buffer(name, None)
        if starts_from_data:
            maps = likelihood.num_outputs, *event_shape
            self.register_buffer("offset", torch.zeros(maps))
            self.register_buffer("factor", torch.ones(maps))
            self.register_buffer("started", torch.tensor(False))
            likelihood.prepare_start()

    def forward(self, z: Tensor, x: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution; `x`, if given, is the batch a calibrated likelihood may fit its scale
        to in training.
        """
        outputs = self.network(z)
        if self.offset is not None and self.factor is not None:
            outputs = self.offset + self.factor * outputs
        return self.likelihood(outputs, x)

    @torch.no_grad()
    def start_from(self, blocks: Blocks) -> OutputStart | None:
        """Set where the outputs start, given the data, if nothing was learned yet."""
        if self.offset is None or self.factor is None or self.started is None or self.started:
            return None
        start = self.likelihood.start_from(blocks)
        self.offset.copy_(start.offset)
        self.factor.copy_(start.factor.expand_as(self.factor))
        self.started.fill_(True)  # a second fit, or a resumed one, goes on from what was learned
        return start


class Model(DataProgram):
    """p(theta) prod_i p(z_i) p(x_i | z_i, theta), x (M, *event_shape); scales by N/M in training
    mode.

    With `filler`, (*event_shape), numbers inside the support, NaN in x is what was not observed.
    """

    filler: Tensor | None

    def __init__(
        self,
        prior: Callable[[], Any],
        decoder: Decoder,
        num_data: int | None = None,
        filler: Tensor | None = None,
    ) -> None:
        super().__init__(num_data)
        self.prior, self.decoder = prior, decoder
        self.register_buffer("filler", filler, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on data x; returns the value of the site "x"."""
        self.announce_parameters()
        theta = self.draw_weights("decoder.")
        with self.data_plate(x), self.at_home():
            z = self.prior()
            distribution = call(self.decoder, theta, z, x)
            if self.filler is not None:
                distribution = Incomplete(distribution, self.filler)
            return pyro.sample("x", distribution, obs=x)

    def draw_latents(self) -> Any:
        """Run the prior alone, under whatever plates are open; returns z (*, latent_size)."""
        with self.at_home():
            return self.prior()


class Guide(DataProgram):
    """q(theta) prod_i q(z_i | x_i), x (M, *event_shape).

    `posterior(x)` runs inside the data plate as the prior does; with `opens_plate` it is a whole
    program of its own.
    """

    def __init__(
        self, posterior: Any, num_data: int | None = None, opens_plate: bool = False
    ) -> None:
        super().__init__(num_data)
        self.posterior, self.opens_plate = posterior, opens_plate

    def forward(self, x: Tensor) -> None:
        """Run the program on data x."""
        self.announce_parameters()
        theta = self.draw_weights("posterior.")
        if self.opens_plate:
            self.check_place()
        with contextlib.nullcontext() if self.opens_plate else self.data_plate(x):
            seen = evidence(x) if self.training else x
            if theta:
                seen = self.weights.repeated(seen, theta, "posterior.")
            with self.at_home():
                call(self.posterior, theta, seen)

    def mean_weights(self, prefix: str = "") -> dict[str, Tensor]:
        """E_q[theta], the weights under `prefix`; empty where the weights are points."""
        return {} if self.weights is None else named(self.weights.mean(), prefix)


class VAE(nn.Module, InitialisedFromData):
    """The pair of programs, `model` and `guide`, and what is asked of them: encode, decode, sample,
    reconstruct.
    """

    def __init__(self, config: VAEConfig, model: Model, guide: Guide) -> None:
        super().__init__()
        for name, program, kind in (("model", model, Model), ("guide", guide, Guide)):
            if not isinstance(program, kind):
                checks.refuse(
                    f"{name} of a VAE",
                    type(program).__name__,
                    f"a {kind.__name__}",
                    "use build(config, prior=..., posterior=...) for programs of your own",
                )
        self.config, self.model, self.guide = config, model, guide
        # set by `build`: its parts as they were made, and the user's files (path -> sha256) it ran
        self.built: dict[str, Any] = {}
        self.code: dict[str, str] = {}

    def __repr__(self) -> str:
        """Its parts as a table; `print(vae.model)` and `print(vae.guide)` show their modules."""
        return "\n".join(["VAE", *as_lines(("part", "what", "parameters"), self._rows())])

    def _repr_html_(self) -> str:
        return as_html(("part", "what", "parameters"), self._rows())

    def _rows(self) -> list[tuple[str, str, str]]:
        """(part, its name and options, number of its parameters)."""
        c, decoder = self.config, self.model.decoder
        network = c.network if c.encoder is None or c.decoder is None else ""
        widths = "-".join(map(str, c.hidden_sizes)) or "linear"
        names = {
            "prior": (c.prior, c.prior_options, self.model.prior),
            "likelihood": (c.likelihood, c.likelihood_options, decoder.likelihood),
            "encoder, posterior": (
                f"{c.encoder or f'{network} {widths}'}, {c.posterior}",
                {**c.encoder_options, **c.posterior_options},
                self.guide.posterior,
            ),
            "decoder": (c.decoder or f"{network} {widths}", c.decoder_options, decoder.network),
            "weights": (c.weights or "points", c.weights_options, self.guide.weights),
        }
        rows = [("data", f"{c.event_shape}, {c.latent_size} latents", "")]
        for part, (name, options, module) in names.items():
            told = ", ".join(f"{key}={value}" for key, value in options.items())
            owned = module.parameters() if isinstance(module, nn.Module) else ()
            size = sum(parameter.numel() for parameter in owned)
            rows.append((part, f"{name}({told})" if told else name, f"{size}" if size else ""))
        return rows

    def parts(self) -> dict[str, Any]:
        """Everything this VAE is put together from, by where it is."""
        programs = {"model.prior": self.model.prior, "guide.posterior": self.guide.posterior}
        modules = {name: module for name, module in self.named_modules() if name}
        return {"config": self.config, **programs, **modules}

    @property
    def num_data(self) -> int | None:
        """N, the number of data a training batch is drawn from; None until known."""
        return self.model.num_data

    @num_data.setter
    def num_data(self, value: int | None) -> None:
        if value is not None:
            value = checks.integer("num_data", value)
        self.model.num_data = self.guide.num_data = value

    @property
    def counts(self) -> bool:
        """Whether integers and bytes are data as they are: under a likelihood of counts, codes or
        columns, and not of grey levels.
        """
        return self.model.decoder.likelihood.counts

    @property
    def whole_numbers(self) -> bool:
        """Whether every value of x is a whole number: all counts, codes or truth values."""
        support = self.model.decoder.likelihood.support
        parts = support.cseq if isinstance(support, constraints.stack) else [support]
        return self.counts and all(part.is_discrete for part in parts)

    @property
    def grey(self) -> bool:
        """Whether bytes are grey levels, to be divided by 255: under a likelihood of pixels, and
        under one on [0, 1].
        """
        likelihood = self.model.decoder.likelihood
        of_pixels = isinstance(likelihood, PixelLikelihood)
        return not self.counts and (of_pixels or checks.on_unit_interval(likelihood.support))

    def binarized(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x' ~ Bernoulli(x), entry by entry; what was not observed stays NaN."""
        if not self.config.missing:
            return torch.bernoulli(x, generator=generator)
        gaps = x.isnan()
        drawn = torch.bernoulli(torch.where(gaps, torch.zeros_like(x), x), generator=generator)
        return torch.where(gaps, x, drawn)

    def checked(self, x: Data, subject: str = "x", minimum_rows: int = 1) -> Tensor:
        """x as a tensor (N, *event_shape) of data that the likelihood is defined on.

        Args:
            x: a tensor, an array, a frame of numbers or a map-style data set.
            subject: what to call it in an error.
            minimum_rows: the least N.

        Raises:
            InputError: for what is no such data, with what makes it so.
        """
        shape, tensor = self.config.event_shape, in_memory(subject, x)
        gaps = self.config.missing
        found = checks.data(subject, tensor, shape, minimum_rows, not self.grey, gaps)
        support = self.model.decoder.likelihood.support
        owner = f"likelihood '{self.config.likelihood}'"
        return checks.inside(subject, found, support, owner, integers=self.counts)

    @torch.no_grad()
    def start_from(self, data: Tensor) -> None:
        """Set where the decoder's outputs start and what unit both networks work in.

        Args:
            data: the training data x, (N, *event_shape), uint8 where they are bytes.
        """
        rows = torch.arange(0, len(data), -(-len(data) // START_ROWS))

        def blocks() -> Iterator[Tensor]:
            for index in rows.split(START_BLOCK):
                yield self.as_float(data[index.to(data.device)])

        start = self.model.decoder.start_from(blocks)
        if start is None:
            return
        for module in self.guide.modules():
            if isinstance(module, InUnits):
                module.center.copy_(start.center)
                module.scale.copy_(start.scale)

    def as_float(self, x: Tensor) -> Tensor:
        """x in the precision and on the device of the parameters, row after row in memory.

        Bytes are grey levels, divided by 255, under a likelihood of these (`grey`), else numbers.
        """
        like = next(self.parameters())
        # sums over a datum are then the same to the bit, however an array or a frame lay
        moved = x.to(like.device).to(like.dtype).contiguous()
        return moved / 255 if x.dtype == torch.uint8 and self.grey else moved

    @torch.no_grad()
    def encode(self, x: Data, num_samples: int | None = None) -> Tensor:
        """Posterior mean of z given x, (N, latent_size); with `num_samples=K`, draws (K, N,
        latent_size).
        """
        shape, gaps = self.config.event_shape, self.config.missing
        found = checks.data("x", in_memory("x", x), shape, integers=not self.grey, gaps=gaps)
        tensor = self.as_float(found)
        if num_samples is not None:
            return self._posterior_site(tensor, checks.integer("num_samples", num_samples))["value"]
        posterior = self.guide.posterior
        one_run = isinstance(posterior, Posterior) and posterior.mean_field
        num_draws = None if one_run else 100
        blocks = tensor.split(ENCODED)
        return torch.cat([self._posterior_mean(rows, num_draws) for rows in blocks])

    def _posterior_mean(self, x: Tensor, num_draws: int | None) -> Tensor:
        """E[z|x], (N, latent_size), over draws of what z depends on, if there is any such thing."""
        site = self._posterior_site(x, num_draws)
        if num_draws is None:
            return mean(site["fn"])
        return mean(site["fn"], site["value"]).mean(0)

    def _posterior_site(self, x: Tensor, num_samples: int | None) -> Any:
        plate = (
            pyro.plate("draws", num_samples, dim=-2) if num_samples else contextlib.nullcontext()
        )
        guide = (
            self.guide if num_samples else poutine.condition(self.guide, self.guide.mean_weights())
        )
        with evaluating(self), pyro.settings.context(module_local_params=True), plate:
            site: Any = poutine.trace(guide).get_trace(x).nodes["z"]
        if num_samples:
            site["value"] = site["value"].expand(num_samples, len(x), -1)
        return site

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """The distribution of x given z: batch shape z.shape[:-1], event shape `event_shape`;
        differentiable in z.

        z (*, latent_size), finite, of any precision, integers (codes) included. Bayesian weights
        are at their posterior mean, here and in `sample` and `reconstruct`. Raises `InputError`.
        """
        z = checks.latents("z", z, self.config.latent_size, next(self.parameters()))
        with evaluating(self):
            return call(self.model.decoder, self.guide.mean_weights("decoder."), z)

    @torch.no_grad()
    def sample(self, num_samples: int, mean: bool = False) -> Tensor:
        """Draws x ~ p(x), (num_samples, *event_shape); with `mean=True` the means of p(x|z) at z ~
        p(z).
        """
        size = checks.integer("num_samples", num_samples)
        with (
            evaluating(self),
            pyro.settings.context(module_local_params=True),
            pyro.plate("draws", size),
        ):
            z = self.model.draw_latents()
        x = self.decode(z)
        return x.mean if mean else x.sample()

    def as_prior(self, name: str = "vae", noise: bool = False) -> EmbeddedModel:
        """The generative model as a statement of another Pyro program, its parameters fixed.

        Called inside that program, it samples z ~ p(z) as its site "NAME.z" and returns E[x|z],
        (*plates, *event_shape). Bayesian weights are at their posterior mean.

        Args:
            name: what its sites' names begin with.
            noise: sample x ~ p(x|z) as the site "NAME.x", and return it, instead of its mean.

        Source: Compressed sensing using generative models (2017), section 2.

        >>> from pyro.infer import MCMC, NUTS
        >>> image = vae.as_prior("image")  # doctest: +SKIP
        >>> def model(y):  # doctest: +SKIP
        ...     pyro.sample("y", dist.Normal(image() @ blur, 0.1).to_event(1), obs=y)
        >>> MCMC(NUTS(model), 500).run(y)  # doctest: +SKIP
        """
        theta = self.guide.mean_weights("decoder.")
        return EmbeddedModel(self.model.prior, self.model.decoder, theta, name, noise)

    @torch.no_grad()
    def reconstruct(self, x: Data) -> Tensor:
        """The mean of p(x | z) at the posterior mean of z, (N, *event_shape)."""
        return self.decode(self.encode(x)).mean


def build(
    config: VAEConfig,
    prior: Any = None,
    posterior: Any = None,
    num_data: int | None = None,
    seed: int | None = None,
    *,
    likelihood: Any = None,
    encoder: Any = None,
    decoder: Any = None,
) -> VAE:
    """The VAE a configuration describes.

    Each part is a name, "file.py:Name", a class, a function or an object, and stands in for the
    configured one. An object is copied, so that no two VAEs share a parameter.

    Args:
        config: everything in plain data.
        prior: p(z), a program that runs inside the data plate and samples "z".
        posterior: q(z|x), a program that samples every latent site given x, inside the data plate
            or as a whole program with its own. A class is made with its options and, where it names
            them, `event_shape` and `latent_size`.
        num_data: N, where it is known already; `fit` sets it.
        seed: makes the initial parameters a function of it and leaves the global generator as it
            was.
        likelihood: p(x|z), a function from the decoder's output maps to a Pyro distribution.
        encoder: a module x (M, *event_shape) -> features (M, H).
        decoder: a module z (M, L) -> outputs (M, *event_shape) or (M, maps, *event_shape); under
            likelihood "decoder" one that returns a Pyro distribution of x.

    Raises:
        InputError: for anything that cannot be built.
    """
    if num_data is not None:
        num_data = checks.integer("num_data", num_data)
    given = {
        "prior": prior,
        "likelihood": likelihood,
        "posterior": posterior,
        "encoder": encoder,
        "decoder": decoder,
    }
    with _seeded(seed), recorded_code() as code:
        vae = _build(config, given, num_data)
    _check_precision(vae)
    _own_memory(vae)
    if any(getattr(vae.config, slot.kind) not in (None, *slot.builtin) for slot in SLOTS):
        _check_own_programs(vae)
    vae.built, vae.code = vae.parts(), dict(code)
    return vae


def _check_precision(vae: VAE) -> None:
    """`InputError` unless all parameters have the precision that the networks were built in."""
    expected = torch.get_default_dtype()
    for name, parameter in vae.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != expected:
            checks.refuse(
                f"parameter {name}",
                str(parameter.dtype),
                f"{expected}, as the networks have",
                "build in that precision; vae.double() makes all of a VAE double afterwards",
            )


def _own_memory(vae: VAE) -> None:
    """Give each element of a parameter or buffer a place of its own: an expanded tensor's share
    one, and cannot be loaded or trained.
    """
    for module in vae.modules():
        for parameter in module.parameters(recurse=False):
            if _overlaps(parameter):
                parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in list(module.named_buffers(recurse=False)):
            if _overlaps(tensor):
                module._buffers[name] = tensor.clone(memory_format=torch.contiguous_format)


def _overlaps(tensor: Tensor) -> bool:
    return any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride()))


def _check_own_programs(vae: VAE) -> None:
    """`InputError` where programs of the user's own reach parameters that no part has."""
    try:
        check_owned(vae, lambda: _traces(vae))
    except checks.InputError:
        raise
    except Exception as error:
        checks.refuse("prior and posterior", fault(error), "programs that run with gradients")


def _traces(vae: VAE) -> dict[str, poutine.Trace]:
    """The guide's trace and the model's at its draws, as training runs them."""
    x = torch.zeros(3, *vae.config.event_shape)
    with pyro.settings.context(module_local_params=True):
        posterior = poutine.trace(vae.guide).get_trace(x)
        model = poutine.trace(poutine.replay(vae.model, trace=posterior)).get_trace(x)
    return {"posterior": posterior, "model": model}


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    with contextlib.nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(checks.seed(seed))
        yield


def _build(config: VAEConfig, given: Mapping[str, Any], num_data: int | None) -> VAE:
    names: dict[str, Any] = {
        slot.kind: slot.reference(given[slot.kind], getattr(config, slot.kind)) for slot in SLOTS
    }
    c = dataclasses.replace(config, **names)
    found = [slot.find(given[slot.kind], names[slot.kind]) for slot in SLOTS]
    source, likelihood, own, own_encoding, own_decoding = copies(*found)
    posterior = given["posterior"]
    head = build_likelihood(likelihood, c.event_shape, c.likelihood_options)
    from_data = _starts_from_data(c, own_decoding, head)
    encoder, feature_size = _encoder(c, own_encoding, from_data)
    decoder = _decoder(c, own_decoding, head, from_data)
    offers = {
        "encoder": encoder,
        "feature_size": feature_size,
        "init": c.init,
        "activation": c.activation,
    }
    guide, borrowed = None, {}
    if made_of_posterior(source):  # the guide comes first and stays its own
        where = None if c.weights is None else c.weights_options.get("where")
        site = encoding_site(
            POSTERIORS, "custom" if posterior else c.posterior, c.prior, c.latent_size, where
        )
        guide = build_posterior(
            c.posterior, c.posterior_options, sites=[site], prior=None, **offers
        )
        assert isinstance(guide, ClosedFormPosterior)
        borrowed = {"encode": guide.encode}
    program = build_prior(
        source, c.prior_options, latent_size=c.latent_size, event_shape=c.event_shape, **borrowed
    )
    program = owner(program, c.latent_size)
    sites = latent_sites(program, c.latent_size)
    if guide is not None:
        check_encoded(c.prior, sites)
    if posterior is None and c.posterior in POSTERIORS:
        guide = guide or build_posterior(
            c.posterior, c.posterior_options, sites=sites, prior=program, **offers
        )
        model = Model(program, decoder, num_data, _filler(c, head))
        return _with_weights(VAE(c, model, Guide(guide, num_data)))
    own, opens_plate = build_own_posterior(
        own, c.posterior_options, sites, c.event_shape, c.latent_size
    )
    if shared := stated(program) & stated(own):
        checks.refuse(
            "posterior",
            f"pyro.param '{min(shared)}', which the prior has too",
            "names of its own",
            "a parameter of both is that of a module that both hold",
        )
    model = Model(program, decoder, num_data, _filler(c, head))
    return _with_weights(VAE(c, model, Guide(own, num_data, opens_plate)))


def _filler(c: VAEConfig, likelihood: Likelihood) -> Tensor | None:
    """Numbers to stand where nothing was observed, if data may have gaps."""
    if not c.missing:
        return None
    if any(isinstance(module, CouplesData) for module in likelihood.modules()):
        checks.refuse(
            "missing",
            f"likelihood '{c.likelihood}', which is fitted to whole batches",
            "one of each entry alone",
            "use 'normal_shared' or 'normal_pixelwise'",
        )
    return fillers(likelihood.support, c.event_shape)


def _starts_from_data(c: VAEConfig, own_decoder: Any, likelihood: Likelihood) -> bool:
    """Whether the decoder's outputs start at what the data say."""
    by_default = None if own_decoder is not None else likelihood.starts_from_data
    if c.output_start == "data" and by_default is None:
        checks.refuse(
            "output_start",
            f"'data' under likelihood '{c.likelihood}'"
            + (" with a decoder of your own" if own_decoder is not None else ""),
            "the library's own decoder and a likelihood of numbers in any unit, of counts or of "
            "categories",
            "a network of one's own starts where it says itself",
        )
    if c.output_start == "auto":
        return bool(by_default) and c.weights is None
    return c.output_start == "data"


def _encoder(c: VAEConfig, own: Any, in_units: bool) -> tuple[nn.Module, int]:
    if own is not None:
        encoder, size = own_encoder(own, c.encoder_options, c.event_shape)
        return (Gaps(encoder, c.event_shape) if c.missing else encoder), size
    checks.options("encoder_options without an encoder of your own", c.encoder_options, ())
    network = c.activation, c.init, dict(c.network_options)
    shape = gaps_shape(c.event_shape) if c.missing else c.event_shape
    body, size = encoder_network(c.network, shape, c.hidden_sizes, *network)
    if c.missing:
        body = Gaps(body, c.event_shape)
    return (nn.Sequential(InUnits(c.event_shape), body) if in_units else body), size


def _decoder(c: VAEConfig, own: Any, likelihood: Likelihood, from_data: bool) -> Decoder:
    shape = (c.latent_size, likelihood.num_outputs, c.event_shape)
    if own is None:
        checks.options("decoder_options without a decoder of your own", c.decoder_options, ())
        network = c.activation, c.init, dict(c.network_options)
        body = decoder_network(c.network, *shape, c.hidden_sizes, *network)
    else:
        body = own_decoder(own, c.decoder_options, *shape)
    returns_tensors = not isinstance(body, OwnDecoder) or body.makes_tensors
    if isinstance(likelihood, DecoderDistribution):
        likelihood.read(body, c.latent_size)
    elif not returns_tensors:
        checks.refuse(
            "decoder",
            f"no tensor, under likelihood '{c.likelihood}'",
            f"outputs for it, {(3, *shape[1:2], *c.event_shape)} for 3 latents",
            "likelihood='decoder' takes the distribution that a decoder returns",
        )
    return Decoder(body, likelihood, c.event_shape, from_data)


def _with_weights(vae: VAE) -> VAE:
    """The VAE with p(theta) and q(theta) in place of the weights that its configuration makes
    random.
    """
    if vae.config.weights is not None:
        programs = vae.model.decoder, vae.guide.posterior
        pair = bayesian_pair(vae.config.weights, vae.config.weights_options, *programs)
        vae.model.weights, vae.guide.weights = pair
    return vae
