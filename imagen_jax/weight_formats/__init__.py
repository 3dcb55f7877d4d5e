"""Imports and exports stages and CLIPs in the formats of other projects and in our own.

    folder in some format -> ``formats`` -> config and parameters -> a stage's folder, and back

``formats``: the registry of formats; ``deepfloyd_if``: DeepFloyd IF as diffusers saves it; ``deepfloyd_tensors``: the
mapping between its tensors and our parameters; ``clip``: whole CLIPs, which are no stages. ``karlo``: stages of Karlo,
with ``karlo_settings`` and ``karlo_tensors``, and ``karlo_pipeline``, all of them together with their CLIP.
"""
