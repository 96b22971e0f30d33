"""The guide first, for a prior that is made of it: the order of things when p(z) borrows q(z|x).

Knows the registry of guides and plain real sites; knows nothing of what the prior does with q(z|x).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae import checks
from ppl_vae.guides.sites import LatentSite, real_site
from ppl_vae.guides.vectors import is_real
from ppl_vae.protocols import ClosedFormPosterior, Posterior

__all__ = ["check_encoded", "encoding_site"]


def encoding_site(
    posteriors: Mapping[str, type[Posterior]],
    posterior: Any,
    prior: str,
    size: int,
    where: str | None,
) -> LatentSite:
    """The site that the guide of a prior made of it is built over, a real z.

    Args:
        posteriors: the library's guides by name.
        posterior: the name of the guide.
        prior: the name of the prior, named in errors.
        size: number of coordinates of z.
        where: which weights are random ("decoder", "output" or "all"); None if none is.

    Raises:
        InputError: unless the guide is a `ClosedFormPosterior`, and where the encoder's weights are
            random, since the prior would be made of weights drawn after it.
    """
    able = [name for name, kind in posteriors.items() if issubclass(kind, ClosedFormPosterior)]
    if posterior not in able:
        expected = f"one with q(z|x) in closed form: {', '.join(able)}"
        checks.refuse(f"posterior with prior '{prior}'", posterior, expected)
    if where == "all":
        checks.refuse(
            f"weights_options.where with prior '{prior}'", "'all'", "'decoder' or 'output'"
        )
    return real_site("z", size)


def check_encoded(prior: str, sites: Sequence[LatentSite]) -> None:
    """Refuse a prior that has not the one site that its guide was built over.

    Args:
        prior: the name of the prior.
        sites: its latent sites.

    Raises:
        InputError: unless that is one site, a real "z".
    """
    if [(site.name, is_real(site)) for site in sites] != [("z", True)]:
        names = ", ".join(site.name for site in sites)
        checks.refuse(
            f"prior '{prior}', which is made of the guide", f"sites {names}", "one site, a real 'z'"
        )
