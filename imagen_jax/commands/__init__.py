"""The programs other than ``sample``, one a file: ``python -m imagen_jax COMMAND``.

``python -m imagen_jax`` lists them. No module imports a command. Each file defines flags and a ``main``, which calls
the library's other packages.
"""
