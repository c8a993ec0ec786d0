"""Photos as the bodies of requests: the bytes of an image file, or a form with some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile

from edge_qprompt.errors import PhotoError
from server.body import MULTIPART, Body
from server.problem import HTTPProblem
from server.routes.names import only

IMAGE_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")  # what curl --data-binary says
NAME_CHARS = 255
FIELDS = ("image",)
BINARY = {"type": "string", "format": "binary"}
KINDS = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")


def image_body(most: int) -> dict[str, Any]:
    """What OpenAPI says of a body of so many photos."""
    images = {"image": {"type": "array", "items": BINARY, "minItems": 1, "maxItems": most}}
    form = {"type": "object", "required": ["image"], "additionalProperties": False, "properties": images}
    return {"required": True, "content": {**{kind: {"schema": BINARY} for kind in KINDS}, MULTIPART: {"schema": form}}}


@dataclass(frozen=True)
class Photo:
    """Bytes of an image file, and its name where it has one."""

    data: bytes
    name: str | None


async def photos_of(body: Body, most: int) -> list[Photo]:
    """The photos of a body, one at least.

    Raises:
        HTTPProblem: 415 it is something else; 422 it is a form with more than `most`, or without any; as of `Body`.
        PhotoError: one is empty.
    """
    if body.media_type != MULTIPART:
        if not (body.media_type.startswith("image/") or body.media_type in IMAGE_TYPES):
            raise HTTPProblem(415, f"a photo is not {body.media_type}: send an image/... type or {MULTIPART}")
        photos = [Photo(await body.read(), None)]
    else:
        async with body.form(files=most, fields=most) as form:
            only(form, FIELDS, "file or field")
            parts = [part for part in form.getlist("image") if isinstance(part, UploadFile)]
            photos = [Photo(await part.read(), (part.filename or "")[:NAME_CHARS] or None) for part in parts]
        if not photos:
            raise HTTPProblem(422, "the form has no file `image`: send at least one")
    if empty := next((photo for photo in photos if not photo.data), None):
        raise PhotoError(f"{empty.name or 'the photo'} is empty: send the bytes of an image file")
    return photos
