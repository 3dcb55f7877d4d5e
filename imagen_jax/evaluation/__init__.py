"""How good the images are.

images -> encoders (features) -> ``metrics/`` -> numbers -> ``reports/``
a protocol (which captions, which references, how many) runs this end to end -> ``protocols/``
"""
