"""A FastAPI app with one route that returns nothing, run as `edge-qprompt serve` runs its app.

python benchmarks/empty_route.py PORT
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI

from server.commands.serve import uvicorn_options
from server.settings import Limits

app = FastAPI()


@app.get("/empty")
async def empty() -> None:
    """Nothing."""


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), **uvicorn_options(Limits().connections))
