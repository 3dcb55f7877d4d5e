"""Serves a web page that samples from a cascade.

    imagen-jax serve [--stages=runs/base,runs/super_resolution]

It needs the extra ``web``: ``pip install ".[web]"`` in a checkout.
"""

from absl import flags

from imagen_jax.cascade.cascade import load_planned
from imagen_jax.cascade.network_flag import read_network
from imagen_jax.cascade.plans import plan_cascade
from imagen_jax.cascade.stage_flags import read_stages, read_text_encoder
from imagen_jax.runtime import processes
from imagen_jax.runtime.main import run_main

HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets the whole network in.")
ORIGINS = flags.DEFINE_list(
    "origins", [], "Public URLs of the page behind a proxy, such as https://hub.example, separated by commas."
)
PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0 for any free port.", 0, 65535)
DTYPE = flags.DEFINE_string(
    "dtype", None, "Compute dtype of the networks: float32 or bfloat16; default: that of their training."
)
MAX_STEPS = flags.DEFINE_integer(
    "max_steps", 250, "Max number of steps per stage that the page accepts.", lower_bound=1
)
MAX_QUEUE = flags.DEFINE_integer("max_queue", 8, "Max number of images in the queue.", lower_bound=1)


def main() -> None:
    """Serves the page until interrupted."""
    # Here, for a base install lacks what the page needs.
    from imagen_jax.web.app import make_app
    from imagen_jax.web.jobs import Jobs
    from imagen_jax.web.listening import keep_out, serve
    from imagen_jax.web.orders import Limits

    before = keep_out(HOST.value, ORIGINS.value)
    plan = plan_cascade(read_stages(), dtype=DTYPE.value, text_encoder=read_text_encoder(), network=read_network())
    limits = Limits(steps=MAX_STEPS.value, waiting=MAX_QUEUE.value)
    jobs = Jobs(load_planned(plan, batch_size=1), limits)
    serve(make_app(jobs, limits, before), HOST.value, PORT.value)
    # Where Ctrl-C is ignored, as under nohup, it stops the server but not the sampling thread, which may be compiling.
    processes.exit_now(0)


if __name__ == "__main__":
    run_main(main, "name the stages as in --stages=runs/base,runs/large", if_interrupted="the server has stopped")
