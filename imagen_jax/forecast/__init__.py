"""What a job on a TPU pod will cost, foretold without the pod.

``chips`` (what each generation of TPU can do, and who says so).

May import: ``counting``, ``sharding``, ``stages`` and what stands before them.
"""
