"""The local web pages: one samples images, and one lets people compare the images of two models.

    page (HTML, script) -> clients (size and time limits) -> app (routes) -> orders (parsing, validation)
    -> jobs (queue, one worker), manipulation (what unCLIP does with an image) -> a cascade
    -> previews during sampling, the final image, the history

    two folders -> pairs -> blinding (order, sides, opaque names) -> rating_app (routes) and rating_page
    -> ratings (the database) -> evaluation.metrics.win_rates

Only this package imports ``starlette`` and ``uvicorn``.
"""
