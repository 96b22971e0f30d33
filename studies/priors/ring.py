"""A user's own prior: z near a ring (a sphere, beyond two latents), its direction a latent site of
its own.

    ppl-vae train --data digits --latent-size 2 --prior studies/priors/ring.py:ring --prior.radius 4

The guide for both sites, the KL terms, checkpoints and the command line follow from these lines
alone.
"""

import pyro
import pyro.distributions as dist


def ring(latent_size, radius=3.0, width=1.0):
    """u ~ N(0, I), z ~ N(radius u / ||u||, width^2 I), both (latent_size,)."""
    u = pyro.sample("direction", dist.Normal(0.0, 1.0).expand([latent_size]).to_event(1))
    on_ring = radius * u / u.norm(dim=-1, keepdim=True)
    return pyro.sample("z", dist.Normal(on_ring, width).to_event(1))
