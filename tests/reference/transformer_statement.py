"""A transformer of pre-norm blocks in NumPy, float64, one place of one head at a time."""

import math

import numpy as np


def norm(x, params):
    """LayerNorm over the last axis."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def linear(x, params):
    """``x W + b``, with the outputs in the kernel's own shape."""
    kernel = params["kernel"]
    return np.tensordot(x, kernel, axes=1) + params["bias"]


def exact_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def self_attention(x, params, seen):
    """``seen(place, other)``: whether a place attends to another one."""
    query, key, value = (linear(x, params[name]) for name in ("query", "key", "value"))
    places, heads, head_width = query.shape
    out = np.zeros((places, heads, head_width))
    for place in range(places):
        others = [other for other in range(places) if seen(place, other)]
        for head in range(heads):
            scores = np.array([query[place, head] @ key[other, head] for other in others]) / math.sqrt(head_width)
            weights = np.exp(scores - scores.max())
            out[place, head] = (weights / weights.sum()) @ value[others, head]
    return linear(out.reshape(places, -1), params["attention_out"])


def run_transformer(x, params, seen=lambda place, other: True):
    """The states of one example, ``(places, width)``, after the last norm."""
    for index in range(sum(name.startswith("layer_") for name in params)):
        of = params[f"layer_{index}"]
        x = x + self_attention(norm(x, of["attention_norm"]), of, seen)
        hidden = exact_gelu(linear(norm(x, of["perceptron_norm"]), of["expand"]))
        x = x + linear(hidden, of["contract"])
    return norm(x, params["last_norm"])
