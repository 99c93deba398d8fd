"""A FastAPI view that checks one header and returns the prepared answer, for comparison with the service.

A separate virtual environment has FastAPI, uvicorn, uvloop and httptools. This file imports nothing of the project, so
that uvicorn can load it there. FastAPI reads the annotations, so they are not postponed.
"""

import json
import os
import subprocess
import venv
from pathlib import Path
from typing import Annotated

ANSWER, KEY = "REFERENCE_ANSWER", "REFERENCE_AUTHORIZATION"
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools")


def install(folder: Path) -> Path:
    """Create a virtual environment with the packages in `folder`. Return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def command(python: Path, port: int) -> list[str]:
    """Return the command that starts the view on `port` with one process."""
    app = ["--app-dir", str(Path(__file__).parent), "--factory", "fastapi_reference:create_app"]
    options = [
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--no-access-log",
        "--log-level",
        "error",
    ]
    return [str(python), "-m", "uvicorn", *app, *options]


def create_app() -> object:
    """Return the application."""
    from fastapi import FastAPI, Header, HTTPException, Response

    answer = json.loads(Path(os.environ[ANSWER]).read_text())
    headers, body, key = dict(answer["headers"]), answer["body"].encode(), os.environ[KEY]
    app = FastAPI()

    async def profile(authorization: Annotated[str | None, Header()] = None) -> Response:
        if authorization != key:
            raise HTTPException(401)
        return Response(body, headers=headers)

    app.add_api_route("/v1/profile", profile, response_class=Response)
    app.add_api_route("/healthz", lambda: {}, response_class=Response)
    return app
