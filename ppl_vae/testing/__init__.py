"""Check parts of your own: inherit a battery, name the part, and pytest runs every check on it.

    from ppl_vae.testing import LikelihoodBattery, PriorBattery

    class TestRing(PriorBattery):
        prior = "my_prior.py:Ring"
        options = {"radius": 4.0}

A part is a name, "file.py:Name", a class, a function or an object. The batteries need pytest
(`pip install 'ppl-vae[testing]'`), which the library itself does not.
"""

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ppl_vae.testing needs pytest: pip install 'ppl-vae[testing]'", name="pytest"
    ) from error

pytest.register_assert_rewrite("ppl_vae.testing.priors", "ppl_vae.testing.likelihoods")

from ppl_vae.testing.likelihoods import LikelihoodBattery  # noqa: E402
from ppl_vae.testing.priors import PriorBattery  # noqa: E402

__all__ = ["LikelihoodBattery", "PriorBattery"]
