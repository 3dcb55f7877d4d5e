"""The programs other than ``train``, ``sample`` and ``evaluate``, one a file: ``python -m imagen_jax COMMAND``.

``python -m imagen_jax`` lists them. Nothing imports a command. Every file defines flags and a ``main``, and the work is
done in the rooms below.
"""
