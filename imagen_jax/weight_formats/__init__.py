"""Import and export: stages in the formats of other projects, and in our own.

    folder in some format -> ``formats`` -> config and parameters -> a stage's folder, and back

``formats``: the table of formats; ``deepfloyd_if``: DeepFloyd IF as diffusers saves it; ``deepfloyd_tensors``: which
tensor of its files is which parameter.
"""
