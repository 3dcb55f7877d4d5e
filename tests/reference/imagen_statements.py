"""Imagen's formulas once more, in NumPy and float64, one example at a time: what the code under test must equal."""

import math

import numpy as np


def cosine_alpha_sigma(time: float) -> tuple[float, float]:
    """α and σ of the cosine schedule."""
    return math.cos(math.pi * time / 2), math.sin(math.pi * time / 2)


def ddpm_signal_variance(step: int) -> float:
    """ᾱ after ``step`` of the thousand steps of Ho et al. 2020, as the plain product."""
    product = 1.0
    for index in range(step):
        product *= 1.0 - (1e-4 + (0.02 - 1e-4) * index / 999)
    return product


def improved_ddpm_signal_variance(step: int) -> float:
    """ᾱ after ``step`` of the thousand steps of Nichol & Dhariwal 2021, as the plain product of 1 - β."""
    product = 1.0
    for index in range(step):
        before, after = (math.cos((number / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for number in (index, index + 1))
        product *= 1.0 - min(1.0 - after / before, 0.999)
    return product


def enlarge_to_corners(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear enlargement of one image whose corner pixels stay in the corners, pixel by pixel."""
    large = np.zeros((size, size, image.shape[2]))
    for row in range(size):
        for column in range(size):
            y, x = row * (image.shape[0] - 1) / (size - 1), column * (image.shape[1] - 1) / (size - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            down, across = y - top, x - left
            upper = (1 - across) * image[top, left] + across * image[top, right]
            lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
            large[row, column] = (1 - down) * upper + down * lower
    return large


def augment_conditioning(image: np.ndarray, noise: np.ndarray, level: float) -> tuple[np.ndarray, float]:
    """One low-resolution image as a super-resolution model gets it, and its log-SNR; cosine schedule.

    In training each example has a level of its own, in sampling all have the chosen one; the rest is the same.
    """
    alpha, sigma = cosine_alpha_sigma(level)
    return alpha * image + sigma * noise, math.log(alpha**2 / sigma**2)


def dynamic_threshold(image: np.ndarray, percentile: float) -> np.ndarray:
    """Dynamic thresholding of one image, as the paper's appendix words it."""
    magnitudes = np.sort(np.abs(image).ravel())
    place = percentile / 100 * (len(magnitudes) - 1)
    below = math.floor(place)
    above = min(below + 1, len(magnitudes) - 1)
    bound = magnitudes[below] + (place - below) * (magnitudes[above] - magnitudes[below])
    bound = max(bound, 1.0)
    return np.minimum(np.maximum(image, -bound), bound) / bound


def guided_noise(conditional: np.ndarray, unconditional: np.ndarray, weight: float) -> np.ndarray:
    """ε̃ = w ε(z, c) + (1 - w) ε(z)."""
    return weight * conditional + (1 - weight) * unconditional


def posterior(noisy, image, alpha_t, sigma_t, alpha_s, sigma_s):
    """Mean and variance of q(z_s | z_t, x), by multiplying the two Gaussians q(z_t | z_s) and q(z_s | x)."""
    ratio = alpha_t / alpha_s
    transition_variance = sigma_t**2 - ratio**2 * sigma_s**2
    precision = ratio**2 / transition_variance + 1 / sigma_s**2
    mean = (ratio * noisy / transition_variance + alpha_s * image / sigma_s**2) / precision
    return mean, 1 / precision


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Softmax attention of one head: ``(queries, c), (keys, c), (keys, c) -> (queries, c)``."""
    out = np.zeros((len(query), value.shape[1]))
    for row, q in enumerate(query):
        scores = np.array([q @ k / math.sqrt(len(q)) for k in key])
        weights = np.exp(scores - scores.max())
        out[row] = (weights / weights.sum()) @ value
    return out
