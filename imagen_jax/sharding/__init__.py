"""Where arrays live: one mesh of devices, and a placement for every array of the training state.

    config.mesh -> mesh (named axes) -> placement (each parameter, moment and average; each batch)

``mesh`` (build and check the device mesh), ``placement`` (which array is cut along which axis).
May import: ``array_types``, ``errors``.
"""
