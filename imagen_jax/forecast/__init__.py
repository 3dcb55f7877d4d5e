"""The cost of a stage and of a job, without running it: parameters, FLOPs, and memory and time on a TPU pod.

    topology -> devices that only compile -> jobs -> compiled program -> memory, costs, collectives -> the least time

``parameter_count`` (by part and by kind), ``flops`` (of any function: counted from its jaxpr, and as XLA reports them),
``stage_programs`` (a stage's forward pass and training step, as functions and shapes).
``chips`` (each generation of TPU, with sources), ``topologies`` (the devices of a pod that is not here), ``jobs``,
``programs``, ``collectives`` (from the program's text), ``roofline`` (the least time), ``report`` (all of it).
"""
