"""What the programs of tests import, imported once (``forked_programs``); none of it defines a command's flags."""

import warnings

import matplotlib.pyplot  # noqa: F401
import ml_collections.config_flags  # noqa: F401

import imagen_jax.evaluate
import imagen_jax.runtime.main
import imagen_jax.train  # noqa: F401

# JAX warns at each fork, for it has threads once it has devices; nothing here asks for a device.
warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
