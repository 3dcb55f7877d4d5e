"""How large a stage is and how much it computes, without computing it.

``parameters`` (by part and by kind), ``operations`` (of any function: counted from its jaxpr, and what XLA says of the
compiled program), ``programs`` (a stage's forward pass and training step, as functions and shapes).

May import: ``stages`` and what stands before it.
"""
