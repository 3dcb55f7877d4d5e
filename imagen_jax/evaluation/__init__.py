"""Measures the quality of images.

images -> encoders (features) -> ``metrics/`` -> numbers -> ``reports/``
a protocol (the captions, the references and the number of images) runs this end to end -> ``protocols/``
"""
