"""Recorded and compiled programs: one recorder for everything that runs a Pyro program often."""

from ppl_vae.graphs.compiling import compiled
from ppl_vae.graphs.noise import Noise, lift_noise
from ppl_vae.graphs.recording import (
    NotRecordable,
    changed_attributes,
    plain_attributes,
    record,
    record_twice,
    stateless,
)
from ppl_vae.graphs.rewrites import rewritten
from ppl_vae.graphs.tiers import TIERS, tier_by_work

__all__ = [
    "TIERS",
    "Noise",
    "NotRecordable",
    "changed_attributes",
    "compiled",
    "lift_noise",
    "plain_attributes",
    "record",
    "record_twice",
    "rewritten",
    "stateless",
    "tier_by_work",
]
