"""The routes of the page.

    GET  /                    the page
    GET  /stages              each stage's size and settings, the samplers, the limits
    POST /orders              an order as JSON: {"id": …}, or a sentence with status 400, 408, 413 or 429
    GET  /jobs/ID             server-sent events: how far it is, and the picture as it forms
    DELETE /jobs/ID           cancels it, whether it waits or is being drawn
    GET  /pictures/ID.png     the picture, with its settings in its metadata
    GET  /history             what has been drawn, the newest first

An order that nobody follows any more is dropped after ``Limits.patience``: who ordered it has left.

Other sites' pages are kept out (``origins.py``): orders are taken as JSON only, and under this server's own names only,
which keeps out names that others make point at this machine.
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
from imagen_jax.sampling.sampler import STEP_RULES
from imagen_jax.sampling.spacings import SPACINGS
from imagen_jax.storage.json_text import parse_json
from imagen_jax.web.clients import UploadError, Uploads, is_json, refuse, refuse_upload
from imagen_jax.web.jobs import OVER, Jobs
from imagen_jax.web.orders import Limits, describe_stages, read_order

PAGE = pathlib.Path(__file__).with_name("page")
LOOKS_A_SECOND = 10

FORGOTTEN = "there is no such picture, or it is forgotten"


class Page:
    """What each route does.

    Args:
        jobs: what draws.
        limits: how much one page may ask for.
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
        }

    async def tell_stages(self, request: Request) -> Response:
        """What may be asked for."""
        return JSONResponse(self.facts)

    async def take_order(self, request: Request) -> Response:
        """Checks an order and puts it into the queue."""
        if not is_json(request):
            return refuse("an order is sent as application/json", 415)
        stages = self.jobs.cascade.stages
        async with self.uploads.body(request) as body:
            try:
                order = await asyncio.to_thread(lambda: read_order(parse_json(body), stages, self.limits))
            except (UserError, ValueError) as error:
                return refuse(str(error) if isinstance(error, UserError) else "the order is no JSON", 400)
        try:
            return JSONResponse({"id": self.jobs.add(order).name}, 202)
        except UserError as error:
            return refuse(str(error), 429)

    async def follow(self, request: Request) -> Response:
        """Tells of a job until it is over."""
        name = request.path_params["name"]
        if self.jobs.describe(name) is None:
            return refuse(FORGOTTEN, 404)
        headers = {"Cache-Control": "no-store"}
        events = events_of(self.jobs, name, lambda: request.app.state.ends)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def cancel(self, request: Request) -> Response:
        """Cancels a job; one that is over, or unknown, is left as it is."""
        self.jobs.cancel(request.path_params["name"])
        return Response(status_code=204)

    async def give_picture(self, request: Request) -> Response:
        """A finished picture."""
        picture = self.jobs.picture(request.path_params["name"])
        if not picture:
            return refuse(FORGOTTEN, 404)
        return Response(picture, media_type="image/png")

    async def tell_history(self, request: Request) -> Response:
        """All finished pictures."""
        return JSONResponse(self.jobs.history())


def make_app(jobs: Jobs, limits: Limits, before: Sequence[Middleware]) -> Starlette:
    """Makes the application.

    Args:
        jobs: what draws.
        limits: how much one page may ask for.
        before: what requests go through first, see ``watching_for_exit.keep_out``.
    """
    page = Page(jobs, limits)
    app = Starlette(
        routes=[
            Route("/stages", page.tell_stages),
            Route("/orders", page.take_order, methods=["POST"]),
            Route("/jobs/{name}", page.follow),
            Route("/jobs/{name}", page.cancel, methods=["DELETE"]),
            Route("/pictures/{name}.png", page.give_picture),
            Route("/history", page.tell_history),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=before,
        exception_handlers={UploadError: refuse_upload},
    )
    app.state.ends = False
    return app


async def events_of(jobs: Jobs, name: str, ends: Callable[[], bool]) -> AsyncIterator[str]:
    """Tells of a job until it is over; only what is new.

    Args:
        jobs: what draws.
        name: of the job; the job itself is not held, for a client that does not read would keep it.
        ends: whether the server is about to end.
    """
    seen: dict[str, Any] = {"preview": ""}
    while not ends() and (told := jobs.describe(name)) is not None:
        if told != seen:
            # A preview is said once.
            news = {key: value for key, value in told.items() if key != "preview" or value != seen["preview"]}
            seen = told
            yield f"data: {json.dumps(news)}\n\n"
        if told["state"] in OVER:
            return
        await asyncio.sleep(1 / LOOKS_A_SECOND)
