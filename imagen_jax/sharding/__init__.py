"""Shardings: one mesh of devices, and a sharding for every array of the training state.

    config.mesh -> mesh (named axes) -> shardings of each parameter, moment and average, and of each batch
    a layer names the axes of its kernel -> axes (name -> mesh axis) -> stored sharded, gathered for each use

- ``mesh``: builds and checks the device mesh.
- ``axes``: the logical axis names of layers, and the mesh axes that they are sharded over.
- ``placement``: the shardings of a training state and of a batch.
"""
