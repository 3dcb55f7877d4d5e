"""The routes of the rating page.

    GET  /                     the page
    POST /next                 {"rater"}: the rater's next pair and progress
    POST /answers              {"rater", "pair", "alignment", "fidelity"}: stores an answer, then responds as /next
    GET  /pictures/NAME.png    an image, re-encoded without metadata, which would reveal the model

A pair has a "left" and a "right" side and never names the models. The names of pairs and images are derived from a
secret (``blinding.py``), and no route returns results. Requests from other sites' pages are rejected as in ``app.py``.
A rater is identified by a name alone: anyone who can open the page can answer under any name.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from absl import logging
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from imagen_jax.data.opened_images import DamagedImageError
from imagen_jax.data.pixels import decode_pixels, encode_png
from imagen_jax.errors import UserError, check_names
from imagen_jax.storage.json_text import parse_json
from imagen_jax.storage.paths import Path, to_path
from imagen_jax.web.blinding import Dealt, deal, image_name
from imagen_jax.web.clients import UploadError, Uploads, is_json, refuse, refuse_upload
from imagen_jax.web.pairs import Pair
from imagen_jax.web.ratings import ANSWERS, RatingStore

PAGE = to_path(__file__).with_name("rating_page")
MAX_NAME_LENGTH = 100
FIELDS = ("rater", "pair", "alignment", "fidelity")
"""Fields that a request may have."""

MAX_BODY_BYTES = 10_000
"""Max size of a request's body in bytes."""

UPLOADS_AT_ONCE = 200
"""Max number of request bodies that are read at once."""

PAIRS_IN_MEMORY = 200_000
"""Max number of cached pairs, summed over all raters; the order of other raters is computed again."""

MAX_DECODINGS = 2
"""Max number of images that are decoded at once; decoding a large one takes a gigabyte."""


class RatingPage:
    """The handlers of the routes.

    Args:
        store: the database of ratings.
        pairs: the pairs to rate.
    """

    def __init__(self, store: RatingStore, pairs: Sequence[Pair]):
        self.store, self.pairs = store, pairs
        self.uploads, self._decoding = Uploads(MAX_BODY_BYTES, UPLOADS_AT_ONCE), asyncio.Semaphore(MAX_DECODINGS)
        self._lock = threading.Lock()
        self._dealt: OrderedDict[str, dict[str, Dealt]] = OrderedDict()
        self._images = {
            image_name(store.secret, pair, side, number): file
            for pair in pairs
            for side, files in (("a", pair.a), ("b", pair.b))
            for number, file in enumerate(files)
        }

    async def send_next(self, request: Request) -> Response:
        """Returns the next pair that a rater has not rated."""
        return await self._answer(request, self._find_next)

    async def take_answer(self, request: Request) -> Response:
        """Stores an answer, then returns the next pair."""
        return await self._answer(request, self._keep_answer)

    async def send_image(self, request: Request) -> Response:
        """Returns an image's pixels as a PNG without metadata."""
        file = self._images.get(request.path_params["name"])
        if file is None:
            return refuse("there is no such image: load the page again", 404)
        try:
            async with self._decoding:
                encoded = await asyncio.to_thread(encode_bare, file)
        except (OSError, DamagedImageError) as error:
            logging.error("%s can't be shown any more: %s", file, error)
            return refuse("the image can't be read any more: tell the person who runs this page", 404)
        # Browsers prefetch the image while the previous pair is shown. Its name always denotes the same pixels.
        return Response(encoded, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    async def _answer(self, request: Request, act: Any) -> Response:
        if not is_json(request):
            return refuse("send the request as application/json", 415)
        async with self.uploads.body(request) as body:
            pass
        try:
            requested = parse_json(body)
            if not isinstance(requested, dict):
                raise UserError("a request must be a JSON object")
            check_names(requested, FIELDS, "field of a request:")
            rater = read_name(requested.get("rater"))
        except (UserError, ValueError) as error:
            return refuse(str(error) if isinstance(error, UserError) else "the request is not JSON", 400)
        try:
            return await asyncio.to_thread(act, rater, requested)
        except UserError as error:
            logging.error("%s", error)
            return refuse("the database fails, so this answer is not stored: tell the person who runs this page", 503)

    def _find_next(self, rater: str, requested: dict[str, Any]) -> Response:
        rated = self.store.rated(rater)
        waiting = [dealt for dealt in self._deal(rater).values() if dealt.pair.key not in rated]
        progress: dict[str, Any] = {"rated": len(self.pairs) - len(waiting), "total": len(self.pairs)}
        if waiting:
            progress |= self._show(waiting[0])
        if waiting[1:]:
            soon = self._show(waiting[1])
            progress["soon"] = [*soon["left"], *soon["right"]]
        return JSONResponse(progress)

    def _keep_answer(self, rater: str, requested: dict[str, Any]) -> Response:
        name, answers = requested.get("pair"), [requested.get(question) for question in ("alignment", "fidelity")]
        dealt = self._deal(rater).get(name) if isinstance(name, str) else None
        if dealt is None:
            return refuse("you have no such pair: load the page again", 400)
        if any(answer not in ANSWERS for answer in answers):
            return refuse(f"both answers must be one of {', '.join(ANSWERS)}", 400)
        self.store.keep(rater, dealt.pair.key, dealt.left, *map(str, answers))
        return self._find_next(rater, requested)

    def _deal(self, rater: str) -> dict[str, Dealt]:
        """Returns a rater's pairs in the rater's order, by their names in the browser."""
        with self._lock:
            dealt = self._dealt.pop(rater, None) or {
                one.name: one for one in deal(self.store.secret, rater, self.pairs)
            }
            self._dealt[rater] = dealt
            while len(self._dealt) > max(1, PAIRS_IN_MEMORY // max(1, len(self.pairs))):
                self._dealt.popitem(last=False)
            return dealt

    def _show(self, dealt: Dealt) -> dict[str, Any]:
        """Returns a pair as a JSON-serialisable dict for the browser."""
        sides = dict(zip(("left", "right"), "ab" if dealt.left == "a" else "ba", strict=True))
        images = {
            position: [
                f"pictures/{image_name(self.store.secret, dealt.pair, side, number)}.png"
                for number in range(len(dealt.pair.a))
            ]
            for position, side in sides.items()
        }
        return {"pair": dealt.name, "prompt": dealt.pair.prompt, **images}


def make_rating_app(store: RatingStore, pairs: Sequence[Pair], before: Sequence[Middleware]) -> Starlette:
    """Creates the application.

    Args:
        store: the database of ratings.
        pairs: the pairs to rate.
        before: middleware in front of the routes, see ``listening.keep_out``.
    """
    page = RatingPage(store, pairs)
    return Starlette(
        routes=[
            Route("/next", page.send_next, methods=["POST"]),
            Route("/answers", page.take_answer, methods=["POST"]),
            Route("/pictures/{name}.png", page.send_image),
            Mount("/", StaticFiles(directory=str(PAGE), html=True)),
        ],
        middleware=before,
        exception_handlers={UploadError: refuse_upload},
    )


def read_name(name: Any) -> str:
    """Returns a rater's name without surrounding whitespace.

    Raises:
        UserError: the name is empty, is no string, exceeds ``MAX_NAME_LENGTH`` or contains surrogates.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError("the name is missing: write your name")
    if len(name) > MAX_NAME_LENGTH:
        raise UserError(f"the name has {len(name)} characters: write at most {MAX_NAME_LENGTH}")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise UserError("the name contains characters that are not valid Unicode: write it without them")
    return name.strip()


def encode_bare(file: Path) -> bytes:
    """Returns an image file's pixels as a PNG without metadata.

    Raises:
        OSError: the file can't be read.
        DamagedImageError: the file is no longer a valid image.
    """
    return encode_png(decode_pixels(file.read_bytes()))
