"""The API's description in OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

import zsbir
from zsbir.search.uploads import Limits
from zsbir.search.web.guard import Settings
from zsbir.search.web.request import IMAGES


def openapi(settings: Settings, limits: Limits) -> dict[str, Any]:
    """Return the description, with this server's limits in it."""
    k = {"type": "integer", "minimum": 1, "maximum": settings.max_k, "default": 20}
    mix = {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5}
    text = {"type": "string", "maxLength": 500}
    axis = {"type": "array", "items": {"type": "number"}, "minItems": 1}
    fields = {
        "strokes": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "items": axis, "minItems": 2, "maxItems": 3},
            "description": f"The lines drawn, each [xs, ys]; at most {limits.points} points.",
        },
        "text": text,
        "mix": {**mix, "description": "Weight of the text where there is a drawing as well."},
        "k": k,
        "like": {"type": "integer", "minimum": 0, "description": "Id of a photo: find others like it."},
    }
    hit = {
        "type": "object",
        "required": ["id", "score", "path"],
        "properties": {"id": {"type": "integer"}, "score": {"type": "number"}, "path": {"type": "string"}},
    }
    hits = {"type": "object", "required": ["hits"], "properties": {"hits": {"type": "array", "items": hit}}}
    content: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGES}
    content["application/json"] = {"schema": {"type": "object", "properties": fields, "additionalProperties": False}}
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    query = [
        {"name": name, "in": "query", "schema": schema} for name, schema in (("k", k), ("mix", mix), ("text", text))
    ]
    size = {"name": "size", "in": "query", "schema": {"enum": ["small", "large"], "default": "small"}}
    found = {"200": _answer("The photos, best first", "application/json", hits)}
    picture = {"200": _answer("A JPEG without metadata", "image/jpeg", {"type": "string", "format": "binary"})}
    health = {"type": "object", "required": ["status", "photos"]}
    paths: dict[str, Any] = {
        "/search": {
            "post": {
                "summary": "Find photos by a drawing, a text or another photo",
                "parameters": query,
                "requestBody": {"required": True, "content": content},
                "responses": {**found, **_errors(408, 413, 415, 422, 429, 503)},
            }
        },
        "/photo/{number}": {
            "get": {
                "summary": "A photo of the index",
                "parameters": [number, size],
                "responses": {**picture, **_errors(403, 404, 429, 503)},
            }
        },
        "/health": {"get": {"responses": {"200": _answer("It works", "application/json", health), **_errors(429)}}},
        "/metrics": {
            "get": {"responses": {"200": _answer("Counters", "text/plain", {"type": "string"}), **_errors(429)}}
        },
    }
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "zsbir", "version": zsbir.__version__, "description": "Draw, and find your photos."},
        "paths": paths,
    }
    if settings.token is not None:
        described["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        described["security"] = [{"token": []}]
    return described


def _answer(what: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {kind: {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {str(status): _answer("Why not", "application/json", schema) for status in (*statuses, 400, 401)}
