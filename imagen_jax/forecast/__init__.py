"""What a job on a TPU pod will cost, foretold without the pod.

    topology -> devices that only compile -> jobs -> compiled program -> memory, costs, exchanges -> the least time

``chips`` (what each generation of TPU can do, and who says so), ``topologies`` (the devices of a pod that is not here),
``collectives`` (what the chips say to each other, from the program's text), ``roofline`` (the least time), ``report``
(all of it, as a dict and as lines).

May import: ``jobs`` and what stands before it.
"""
