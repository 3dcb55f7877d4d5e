"""The routes of the page.

    GET  /                    the page
    GET  /stages              each stage's size and settings, the samplers, the limits
    POST /orders              an order as JSON: {"id": …}, or a sentence with status 400, 413 or 429
    GET  /jobs/ID             server-sent events: how far it is, and the picture as it forms
    DELETE /jobs/ID           takes it out of the queue
    GET  /pictures/ID.png     the picture, with its settings in its metadata
    GET  /history             what has been drawn, the newest first

Other sites' pages are kept out (``origins.py``): orders are taken as JSON only, and under this server's own names only,
which keeps out names that others make point at this machine.
"""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator, Sequence
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
from imagen_jax.web.jobs import DRAWING, OVER, WAITING, Job, Jobs
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
        cascade = jobs.cascade
        self.facts = {
            "stages": describe_stages(cascade.stages, [one.config.sampling.to_dict() for one in cascade.trained]),
            "samplers": list(STEP_RULES),
            "spacings": list(SPACINGS),
            "largest_steps": limits.steps,
        }

    async def tell_stages(self, request: Request) -> Response:
        """What may be asked for."""
        return JSONResponse(self.facts)

    async def take_order(self, request: Request) -> Response:
        """Checks an order and puts it into the queue."""
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return refuse("an order is sent as application/json", 415)
        body = await read_body(request, self.limits.body)
        if body is None:
            return refuse(f"an order is at most {self.limits.body / 2**20:g} MiB large: choose a smaller picture", 413)
        stages = self.jobs.cascade.stages
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
        job = self.jobs.find(request.path_params["name"])
        if job is None:
            return refuse(FORGOTTEN, 404)
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(events_of(self.jobs, job), media_type="text/event-stream", headers=headers)

    async def cancel(self, request: Request) -> Response:
        """Takes a job out of the queue."""
        job = self.jobs.find(request.path_params["name"])
        if job is not None:
            self.jobs.cancel(job)
        return Response(status_code=204)

    async def give_picture(self, request: Request) -> Response:
        """A finished picture."""
        job = self.jobs.find(request.path_params["name"])
        if job is None or not job.picture:
            return refuse(FORGOTTEN, 404)
        return Response(job.picture, media_type="image/png")

    async def tell_history(self, request: Request) -> Response:
        """All finished pictures."""
        return JSONResponse(self.jobs.history())


def make_app(jobs: Jobs, limits: Limits, before: Sequence[Middleware]) -> Starlette:
    """Makes the application.

    Args:
        jobs: what draws.
        limits: how much one page may ask for.
        before: what requests go through first, see ``listening.keep_out``.
    """
    page = Page(jobs, limits)
    return Starlette(
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
    )


def refuse(sentence: str, status: int) -> Response:
    """Says why not."""
    return JSONResponse({"problem": sentence}, status)


async def read_body(request: Request, most: int) -> bytes | None:
    """The body of a request; None where it is larger than allowed, of which no more is read than that."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


async def events_of(jobs: Jobs, job: Job) -> AsyncIterator[str]:
    """Tells of a job until it is over; only what is new."""
    seen: tuple[Any, ...] = ()
    preview = ""
    while True:
        state = (job.version, jobs.place(job) if job.state == WAITING else 0)
        if state != seen:
            seen = state
            told = {**job.describe(), "before": state[1]}
            if job.state == DRAWING and job.preview != preview:
                preview = told["preview"] = job.preview
            yield f"data: {json.dumps(told)}\n\n"
            if told["state"] in OVER:
                return
        await asyncio.sleep(1 / LOOKS_A_SECOND)
