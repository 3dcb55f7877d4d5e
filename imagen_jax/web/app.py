"""The routes of the page.

    GET  /                    the page
    GET  /stages              stages and their settings, samplers, spacings, max number of steps, attribution
    POST /orders              an order as JSON: {"id": …}, or a message with status 400, 408, 413, 415 or 429
    GET  /jobs/ID             server-sent events: progress, and previews of the image
    DELETE /jobs/ID           cancels the job, whether it waits or runs
    GET  /pictures/ID.png     the final image, with its settings in its metadata
    GET  /history             the jobs with a final image, newest first

An order without followers is dropped after ``Limits.patience`` seconds, because its client has left. Before its first
follower, it is kept for ``Limits.patience_at_first`` seconds.

Requests from other sites' pages are rejected (``origins.py``), and orders must be JSON. A server on a loopback address
accepts only its own host names, which prevents DNS rebinding (``listening.py``).
"""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from imagen_jax.errors import UserError
from imagen_jax.pretrained import attribution_of
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.storage.json_text import parse_json
from imagen_jax.web.clients import UploadError, Uploads, is_json, refuse, refuse_upload
from imagen_jax.web.jobs import OVER, Jobs
from imagen_jax.web.orders import Limits, can_manipulate, describe_stages, read_order

PAGE = pathlib.Path(__file__).with_name("page")
POLLS_PER_SECOND = 10

UNKNOWN_JOB = "there is no such image, or the server no longer keeps it: sample it again"


class Page:
    """The handlers of the routes.

    Args:
        jobs: the job queue.
        limits: limits of a page's requests.
    """

    def __init__(self, jobs: Jobs, limits: Limits):
        self.jobs, self.limits = jobs, limits
        self.uploads = Uploads(limits.body, limits.bodies, limits.body_seconds)
        cascade = jobs.cascade
        self.facts = {
            "stages": describe_stages(cascade.stages, [one.config.sampling.to_dict() for one in cascade.trained]),
            "samplers": list(STEP_RULES),
            "spacings": list(SPACINGS),
            "max_steps": limits.steps,
            "can_manipulate": can_manipulate(cascade.stages),
            "attribution": attribution_of(cascade.names),
        }

    async def send_stages(self, request: Request) -> Response:
        """Returns the stages and the possible settings of an order."""
        return JSONResponse(self.facts)

    async def take_order(self, request: Request) -> Response:
        """Validates an order and adds it to the queue."""
        if not is_json(request):
            return refuse("send the order as application/json", 415)
        stages = self.jobs.cascade.stages
        async with self.uploads.body(request) as body:
            try:
                order = await asyncio.to_thread(lambda: read_order(parse_json(body), stages, self.limits))
            except (UserError, ValueError) as error:
                return refuse(str(error) if isinstance(error, UserError) else "the order is not JSON", 400)
        try:
            return JSONResponse({"id": self.jobs.add(order).name}, 202)
        except UserError as error:
            return refuse(str(error), 429)

    async def follow(self, request: Request) -> Response:
        """Streams the changes of a job until it is over."""
        name = request.path_params["name"]
        if self.jobs.describe(name) is None:
            return refuse(UNKNOWN_JOB, 404)
        headers = {"Cache-Control": "no-store"}
        events = events_of(self.jobs, name, lambda: request.app.state.ends)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def cancel(self, request: Request) -> Response:
        """Cancels a job; does nothing if the job is over or unknown."""
        self.jobs.cancel(request.path_params["name"])
        return Response(status_code=204)

    async def send_image(self, request: Request) -> Response:
        """Returns a job's final image as a PNG."""
        image = self.jobs.image(request.path_params["name"])
        if not image:
            return refuse(UNKNOWN_JOB, 404)
        return Response(image, media_type="image/png")

    async def send_history(self, request: Request) -> Response:
        """Returns all jobs with a final image, newest first."""
        return JSONResponse(self.jobs.history())


def make_app(jobs: Jobs, limits: Limits, before: Sequence[Middleware]) -> Starlette:
    """Creates the application.

    Args:
        jobs: the job queue.
        limits: limits of a page's requests.
        before: middleware in front of the routes, see ``listening.keep_out``.
    """
    page = Page(jobs, limits)
    app = Starlette(
        routes=[
            Route("/stages", page.send_stages),
            Route("/orders", page.take_order, methods=["POST"]),
            Route("/jobs/{name}", page.follow),
            Route("/jobs/{name}", page.cancel, methods=["DELETE"]),
            Route("/pictures/{name}.png", page.send_image),
            Route("/history", page.send_history),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=before,
        exception_handlers={UploadError: refuse_upload},
    )
    app.state.ends = False
    return app


async def events_of(jobs: Jobs, name: str, ends: Callable[[], bool]) -> AsyncIterator[str]:
    """Yields the changes of a job as server-sent events until the job is over or the server stops.

    Args:
        jobs: the job queue.
        name: name of the job; a reference to the job itself would keep it in memory while a client does not read.
        ends: returns whether the server is about to stop.
    """
    seen: dict[str, Any] = {"preview": ""}
    while not ends() and (job := jobs.describe(name)) is not None:
        if job != seen:
            # Previews are large, so an unchanged one is not sent again.
            changes = {key: value for key, value in job.items() if key != "preview" or value != seen["preview"]}
            seen = job
            yield f"data: {json.dumps(changes)}\n\n"
        if job["state"] in OVER:
            return
        await asyncio.sleep(1 / POLLS_PER_SECOND)
