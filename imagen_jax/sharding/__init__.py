"""Where arrays live: one mesh of devices, and a placement for every array of the training state.

    config.mesh -> mesh (named axes) -> placement (each parameter, moment and average; each batch)
    a layer names the axes of its kernel -> axes (name -> mesh axis) -> stored in parts, gathered where it is used

``mesh`` (build and check the device mesh), ``axes`` (what layers call their axes, and what that means on a mesh),
``placement`` (which array of a state is cut along which axis), ``platforms`` (what kind of device a program is traced
for).
"""
