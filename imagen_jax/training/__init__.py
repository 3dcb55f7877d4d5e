"""Training of anything: a ``task``, whose kinds are in ``imagen_jax.tasks``.

    batch -> step (loss, gradient, optimizer, EMA: one jitted pure function) -> state -> checkpoints, metrics
    loop: next batch, one step, and every n-th step a log line, a preview, a checkpoint

``state`` (parameters, optimizer state, average, step), ``optimizer`` (Adafactor, Adam, Muon, and learning rates),
``step``, ``task`` (what is trained), ``compiled_training`` (its step and the shapes of its arrays), ``loop``,
``workdir`` (the folder of a run), ``folder_kinds`` (which folders can be workdirs), ``result``; ``checkpoints/`` saves
and restores, ``monitoring/`` watches and reports. Only this package imports ``optax`` and ``orbax``.
"""
