"""Read the latent sites of a prior from one run of it, and say in words what is wrong with a bad
one.

Knows Pyro traces; knows nothing of networks or of how a guide will use a site.
"""

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from ppl_vae import checks
from ppl_vae.handlers.kl_weight import DATA_PLATE
from ppl_vae.handlers.modes import evaluating
from ppl_vae.handlers.own_parameters import with_own_parameters
from ppl_vae.parts.user_code import fault

__all__ = [
    "CONTAINERS",
    "LatentSite",
    "base_distribution",
    "check_names",
    "check_unmasked",
    "has_masked_distribution",
    "latent_sites",
    "owner",
    "real_site",
]

# names of dimensions of stored draws, and of those that arviz adds to them: it drops a variable of
# the name "sample" unsaid, and stops at the others in a summary or a figure
CONTAINERS = ("chain", "draw", "sample", "metric", "model", "column", "plot_axis", "ci_bound")
# those, and names of the site of data, of its own dimensions and of the plates that are opened
RESERVED = ("x", "data", "draws", "particles", "datum", "latent", *CONTAINERS)
# densities of angles that name the real line as their support
PERIODIC = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
SHAPE_WORDS = ("shape", "size", "dim", "broadcast", "expand")


@transform_to.register(MixtureSameFamilyConstraint)
@biject_to.register(MixtureSameFamilyConstraint)
def _support_of_components(constraint: MixtureSameFamilyConstraint) -> Transform:
    return biject_to(
        constraint.base_constraint
    )  # torch gives a mixture's own constraint no map onto it


@dataclass(frozen=True)
class LatentSite:
    """A latent site of the prior.

    Args:
        name: its name.
        event_shape: its event shape.
        support: the constraint that its values meet.
        family: the class of its distribution.
    """

    name: str
    event_shape: torch.Size
    support: Any
    family: type

    @property
    def unconstrained_shape(self) -> torch.Size:
        """Event shape before `biject_to(support)`; differs from `event_shape` on a simplex, say.

        `InputError` where no map from the real numbers carries the density: on a sphere, and for
        one of angles, which says that it is of the real line and is of one turn of it.
        """
        if issubclass(self.family, PERIODIC):
            self._refuse(f"{self.family.__name__}, whose density is of one turn of the real line")
        try:
            return biject_to(self.support).inverse_shape(self.event_shape)
        except NotImplementedError:
            self._refuse(
                f"{self.family.__name__}, whose support no map from the real numbers is on"
            )

    def _refuse(self, got: str) -> NoReturn:
        checks.refuse(
            f"site '{self.name}'",
            got,
            "a density of real numbers, or of what they are mapped onto one to one",
            "sample a Normal and take its direction, u / u.norm(dim=-1, keepdim=True), or give a "
            "posterior of your own for this site and judge it by method='importance'",
        )


def real_site(name: str, size: int) -> LatentSite:
    """A site of R^n, as a Normal with independent coordinates has it.

    Args:
        name: its name.
        size: n.
    """
    return LatentSite(
        name,
        torch.Size((size,)),
        dist.constraints.independent(dist.constraints.real, 1),
        dist.Normal,
    )


def base_distribution(fn: Any) -> Any:
    """The distribution under `to_event`, `expand` and `mask`.

    Args:
        fn: the distribution of a site.
    """
    while isinstance(fn, (dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return fn


def has_masked_distribution(fn: Any) -> bool:
    """Whether a distribution says itself, by `.mask`, that part of its density does not count.

    Args:
        fn: the distribution of a site.
    """
    while isinstance(fn, (dist.Independent, dist.MaskedDistribution)):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is not True:
            return True
        fn = fn.base_dist
    return False


def check_unmasked(name: str, site: Any) -> None:
    """Refuse a masked site.

    With part of log q or log p left out, no bound and no estimate of log p(x) is one.

    Args:
        name: the site's name.
        site: the site of a trace.

    Raises:
        InputError: for a mask on the site, or by its distribution.
    """
    everywhere = site["mask"] is None or site["mask"] is True
    if not everywhere or has_masked_distribution(site["fn"]):
        checks.refuse(
            f"site '{name}'",
            "a mask, which leaves part of its density out",
            "a density that counts for each datum",
            "enter poutine.mask around the estimator, not inside one program",
        )


def _check_unscaled(name: str, site: Any) -> None:
    scale = site["scale"]
    if torch.is_tensor(scale) or scale != 1.0:
        checks.refuse(
            f"site '{name}'",
            "a scale, which changes its log density",
            "a density that counts once for each datum",
            "give fit a kl_weight, or enter KLWeight around the estimator",
        )


def owner(prior: Callable[[], Any], latent_size: int) -> Callable[[], Any]:
    """The prior as owner of its parameters, those of its `pyro.param` statements included.

    Args:
        prior: the prior as a program.
        latent_size: number of coordinates of z.

    Raises:
        InputError: where it raises, and for a parameter that it does not own.
    """
    return with_own_parameters(prior, lambda: _trace(prior, latent_size + 1), "prior")


def latent_sites(prior: Callable[[], Any], latent_size: int) -> list[LatentSite]:
    """The latent sites of a prior in program order, "z" among them.

    Sites marked `infer={"enumerate": "parallel"}` are left out: the model sums them out, so no
    guide samples them.

    Args:
        prior: the prior as a program.
        latent_size: number of coordinates of z, whose event shape is `(latent_size,)`.

    Raises:
        InputError: where the prior raises, has no site "z" or returns something else, observes
            anything, or a site has the wrong shape, clashes or is discrete.
    """
    size = (
        latent_size + 1
    )  # no event size equals it, so a missing `.to_event(1)` cannot pass for a batch
    with evaluating(prior):  # what is added to the objective in training only is no part of p(z)
        trace = _trace(prior, size)
    sites = _sites(trace)
    _check_program(trace, sites)
    latents = {name: site for name, site in sites.items() if not site["is_observed"]}
    for name, site in latents.items():
        _check(name, site, size)
        check_unmasked(name, site)
        _check_unscaled(name, site)
    indices = {name for name, site in latents.items() if _is_index(name, site)}
    if indices:
        _trace(
            poutine.enum(prior, first_available_dim=-2),
            size,
            f"a program that runs with all values of {', '.join(sorted(indices))} at once, left "
            "of the plate",
            "look parameters up by index, as in locations[k], and branch on no index",
        )
    distributions: dict[str, Any] = {
        name: site["fn"] for name, site in latents.items() if name not in indices
    }
    return [
        LatentSite(
            n, d.event_shape, _of_one_datum(n, d.support, d.event_dim), type(base_distribution(d))
        )
        for n, d in distributions.items()
    ]


def check_names(subject: str, names: Iterable[str], reserved: Sequence[str] = RESERVED) -> None:
    """Refuse a site whose name the model, a plate or a container of draws has already.

    Args:
        subject: what the error is about.
        names: the names of the sites.
        reserved: the names that are taken.

    Raises:
        InputError: for such a name, and for one that files cannot store.
    """
    for name in names:
        if name in reserved or re.search(r"_dim_\d+$", name):
            checks.refuse(
                subject,
                f"a site named '{name}'",
                f"any name but {', '.join(reserved)} and SITE_dim_0, which data, plates and the "
                "dimensions of stored draws have",
                "rename the site",
            )
        if not name or not name.isprintable() or "/" in name:
            checks.refuse(
                subject,
                f"a site named {name!r}",
                "a name that files can store: printable, without '/'",
                "rename the site",
            )


def _check_program(trace: poutine.Trace, sites: dict[str, Any]) -> None:
    check_names("prior", sites)
    for name, site in sites.items():
        _check_random(name, site)
    seen = [
        n
        for n, site in sites.items()
        if site["is_observed"] and not site["infer"].get("_deterministic")
    ]
    if seen:
        checks.refuse(
            "prior",
            f"the observed site '{seen[0]}'",
            "latent sites alone, so that p(z) is a density",
            "leave out pyro.factor and obs=, or have them in training mode alone",
        )
    if "z" not in sites or sites["z"]["is_observed"]:
        names = ", ".join(n for n, site in sites.items() if not site["is_observed"]) or "none"
        checks.refuse("prior", f"sites {names}", "a latent site named 'z'", "pyro.sample('z', ...)")
    returned, z = trace.nodes["_RETURN"]["value"], sites["z"]["value"]
    if returned is not z and not (torch.is_tensor(returned) and torch.equal(returned, z)):
        got = (
            "no return value"
            if returned is None
            else "a return value that is not that of its site 'z'"
        )
        hint = "end it with 'return z'; a transformed value is a site of a TransformedDistribution"
        checks.refuse("prior", got, "a program that returns the value of 'z'", hint)


def _check_random(name: str, site: Any) -> None:
    """A latent that is a function of other sites has no density: no guide can have its KL."""
    deterministic = site["is_observed"] and site["infer"].get("_deterministic")
    delta = isinstance(base_distribution(site["fn"]), dist.Delta) and not site["is_observed"]
    if delta or (deterministic and name == "z"):
        checks.refuse(
            f"site '{name}'",
            "a Delta, a function of other sites" if delta else "a deterministic function of others",
            "a distribution with a density given the sites before it",
            "sample z itself, as one site or the last of a chain; a function of one variable is a "
            "TransformedDistribution",
        )


def _of_one_datum(name: str, support: Any, event_dim: int) -> Any:
    """The support without the dimension of the plate it was read in; bounds that are all one number
    as that number.
    """
    changed = {}
    for key, value in vars(support).items():
        if isinstance(value, Constraint):
            changed[key] = _of_one_datum(name, value, event_dim)
        elif torch.is_tensor(value) and value.dim() > event_dim:
            if (value != value[:1]).any():
                checks.refuse(
                    f"site '{name}'",
                    f"a support that differs between data: {key}",
                    "one for all data",
                    "sample on a fixed support and transform",
                )
            one = value[0].detach()
            changed[key] = one.flatten()[0].item() if (one == one.flatten()[0]).all() else one
    if all(value is getattr(support, key) for key, value in changed.items()):
        return support  # the very object, since real supports are known by identity
    support = copy.copy(support)
    vars(support).update(changed)
    return support


def _sites(trace: poutine.Trace) -> dict[str, Any]:
    return {
        n: site
        for n, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def _is_index(name: str, site: Any) -> bool:
    marked = site["infer"].get("enumerate") == "parallel"
    return marked and name != "z" and site["fn"].has_enumerate_support


def _trace(
    prior: Callable[[], Any],
    size: int,
    expected: str = "a program that runs inside a plate of data",
    hint: str = "",
) -> poutine.Trace:
    def program() -> Any:
        with pyro.plate(DATA_PLATE, size, dim=-1):
            return prior()

    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.get_param_store().scope():
            return poutine.trace(program).get_trace()
    except checks.InputError:
        raise
    except (Exception, SystemExit) as error:
        checks.refuse("prior", fault(error), expected, hint or _hint(error))


def _hint(error: BaseException) -> str:
    text = str(error)
    shapes = isinstance(error, ValueError | RuntimeError) and any(
        word in text for word in SHAPE_WORDS
    )
    if (
        not shapes or "satisfy the constraint" in text
    ):  # a parameter's value is wrong, not its shape
        return ""
    return (
        "declare event dimensions with .to_event(1), and give what is one number a datum a last "
        "dimension "
        "with .unsqueeze(-1)"
    )


def _check(name: str, site: Any, size: int) -> None:
    fn, hint, latent_size = site["fn"], "declare event dimensions with .to_event(1)", size - 1
    if name == "z" and tuple(fn.event_shape) != (latent_size,):
        declared = (
            f"make z of {latent_size} numbers: a prior that names an argument latent_size "
            "is given it"
        )
        checks.refuse(
            "site 'z'",
            f"event shape {tuple(fn.event_shape)}",
            f"({latent_size},), the latent_size",
            declared if fn.event_dim == 1 else hint,
        )
    if tuple(fn.batch_shape) != (size,):
        expected = "the data plate's batch shape alone, one value a datum"
        checks.refuse(
            f"site '{name}'",
            f"batch shape {tuple(fn.batch_shape)} in a plate of {size}",
            expected,
            hint,
        )
    if fn.support is not None and fn.support.is_discrete and not _is_index(name, site):
        checks.refuse(
            f"site '{name}'",
            f"discrete {type(base_distribution(fn)).__name__}",
            "a continuous distribution",
            "use a relaxed one (RelaxedBernoulliStraightThrough, RelaxedOneHotCategorical), a "
            "MixtureSameFamily that sums the index out, or mark an index before 'z' with "
            "infer={'enumerate': 'parallel'} to have it summed out",
        )
