"""Amortised guides q(z | x), built from any prior by tracing it once.

A guide here runs inside the ambient data plate, as a prior does: `posterior(x)` samples every latent site of the prior.
It knows sites and an encoder network; it knows nothing of decoders, likelihoods or estimators.
"""

from torch import nn

from ppl_vae.guides.diagonal import DiagonalGuide
from ppl_vae.guides.own import opens_data_plate
from ppl_vae.guides.point import PointGuide
from ppl_vae.guides.program import DataProgram
from ppl_vae.guides.sites import LatentSite, latent_sites

__all__ = ["POSTERIORS", "DataProgram", "DiagonalGuide", "LatentSite", "PointGuide", "latent_sites", "opens_data_plate"]

POSTERIORS: dict[str, type[nn.Module]] = {"diagonal_normal": DiagonalGuide, "point": PointGuide}
