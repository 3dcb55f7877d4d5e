"""A stage whose network is a function, for tests of what happens around it."""

from imagen_jax.cascade.stage import Stage
from imagen_jax.diffusion.process import PREDICTIONS


class FunctionAsNetwork:
    """A network that predicts the clean sample.

    Args:
        make_denoiser: ``(params, conditions) -> denoise(noisy, log_snr)``.
    """

    def __init__(self, make_denoiser):
        self.make_denoiser = make_denoiser

    def apply(self, variables, noisy, log_snr, conditions, *, estimate=None, train=False, rngs=None):
        return self.make_denoiser(variables["params"], conditions)(noisy, log_snr)

    def __call__(self, noisy, log_snr, conditions, *, estimate=None, train=False):
        raise NotImplementedError("it is called by apply")


def stage_of(make_denoiser, shape, settings, low_resolution=None, **others):
    """Returns the stage of a function, see ``FunctionAsNetwork``."""
    network = FunctionAsNetwork(make_denoiser)
    return Stage(network, shape, settings, low_resolution, prediction=PREDICTIONS["x0"], **others)
