"""The sampling flags of every command that samples; they have the names of the keys of ``config.sampling``."""

from absl import flags

from imagen_jax.errors import UserError

DTYPE = flags.DEFINE_string("dtype", None, "Compute dtype of the networks: float32 or bfloat16. Default: as trained.")

GUIDANCE = flags.DEFINE_list("guidance", None, "Guidance weight w; 1 for none. One value, or one per stage.")
GUIDANCE_INTERVAL = flags.DEFINE_list("guidance_interval", None, "Two log-SNRs; there is no guidance outside them.")
BATCHED_GUIDANCE = flags.DEFINE_bool("batched_guidance", None, "Call networks once with twice the batch: faster.")
STEPS = flags.DEFINE_list("steps", None, "Number of denoising steps. One value, or one per stage.")
SAMPLER = flags.DEFINE_list(
    "sampler",
    None,
    "ancestral, ddim, dpm_solver_2m, dpm_solver_2m_sde, heun, unipc; of a prior also analytic. One, or one per stage.",
)
SPACING = flags.DEFINE_list(
    "spacing", None, "Of the steps: uniform, log_snr, karras, discrete, both_ends, sections. One, or one per stage."
)
SECTIONS = flags.DEFINE_multi_string(
    "sections", None, "For the spacing sections, such as 10,10,3,2,2. Repeat it for one per stage."
)
GAMMA = flags.DEFINE_list("gamma", None, "For ancestral: 0 is the min variance, 1 the max.")
ETA = flags.DEFINE_list("eta", None, "For ddim: 0 adds no noise, 1 as much as ancestral.")
THRESHOLDING = flags.DEFINE_list(
    "thresholding", None, "none, static, dynamic or clip (to max_threshold). One value, or one per stage."
)
PERCENTILE = flags.DEFINE_list("percentile", None, "For dynamic thresholding, such as 99.5.")
CANDIDATES = flags.DEFINE_list(
    "candidates", None, "Embeddings that a prior draws, of which the best stays: 2 in DALL·E 2."
)
AUGMENTATION = flags.DEFINE_list("augmentation_level", None, "Noise on the low-resolution image, 0 to 1.")


def read_overrides() -> dict[str, list]:
    """Returns the keys of ``config.sampling`` that flags set, each with a list of values.

    Raises:
        UserError: a value must be a number and is not.
    """
    readers = {
        "guidance": (GUIDANCE, float),
        "steps": (STEPS, int),
        "sampler": (SAMPLER, str),
        "spacing": (SPACING, str),
        "sections": (SECTIONS, str),
        "gamma": (GAMMA, float),
        "eta": (ETA, float),
        "thresholding": (THRESHOLDING, str),
        "percentile": (PERCENTILE, float),
        "augmentation_level": (AUGMENTATION, float),
        "candidates": (CANDIDATES, int),
        "guidance_interval": (GUIDANCE_INTERVAL, float),
    }
    overrides: dict[str, list] = {}
    for key, (flag, read) in readers.items():
        if flag.value is not None:
            try:
                overrides[key] = [read(value) for value in flag.value]
            except ValueError:
                raise UserError(f"--{key}={','.join(flag.value)} is not a number: give one, as in --{key}=3") from None
    if "guidance_interval" in overrides:
        # The flag's two numbers are one interval for all stages.
        overrides["guidance_interval"] = [tuple(overrides["guidance_interval"])]
    if BATCHED_GUIDANCE.value is not None:
        overrides["batched_guidance"] = [BATCHED_GUIDANCE.value]
    return overrides
