"""This package is ours; without the file a library that installs its own `tests` would be imported instead."""
