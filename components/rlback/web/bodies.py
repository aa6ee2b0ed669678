"""What each form takes, for the OpenAPI document: read off the handlers, so that it cannot fall behind them.

A handler that has a parameter `sent` takes its fields by `sent.one("name", most=N)` and `sent.many("name")`; functions
of its module that are handed `sent` are looked into as well.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

MOST = 4_000  # characters of a field that names no other limit, as in `visit.Form.one`
#: What a few fields may hold, where the code checks it.
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("/gates/{id_}/decision", "verdict"): ("approve", "decline", "more-labels"),
    ("/runs/schedule", "act"): ("every", "pause", "resume"),
    ("/users/{name}", "act"): ("roles", "state", "password"),
    ("/users/{name}", "state"): ("active", "disabled"),
}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document with bodies, the errors' one shape, and how a script signs in."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    error = {"type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["status", "kind", "message", "remedy"],
        "properties": {"status": {"type": "integer"}, "kind": {"type": "string"}, "message": {"type": "string"},
                       "remedy": {"type": ["string", "null"]}},
    }}}  # fmt: skip
    parts = found.setdefault("components", {})
    parts.setdefault("schemas", {})["Error"] = error
    parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"token": []}]
    for route in _routes(app.routes):
        for method in route.methods or ():
            operation = found["paths"].get(route.path_format, {}).get(method.lower())
            if operation is None:
                continue
            operation["responses"].pop("422", None)
            shape = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            operation["responses"]["default"] = {"description": "What was refused, and what to do", "content": shape}
            if method == "POST" and "sent" not in inspect.signature(route.endpoint).parameters:
                file = {"schema": {"type": "string", "format": "binary"}}
                operation["requestBody"] = {"content": {"application/octet-stream": file}, "required": True}
            elif method == "POST":
                schema = _schema(route)
                content = {kind: {"schema": schema} for kind in ("application/json", "application/x-www-form-urlencoded")}
                operation["requestBody"] = {"content": content, "required": bool(schema["properties"])}
    app.openapi_schema = found
    return found


def _routes(routes: Any) -> list[APIRoute]:
    found: list[APIRoute] = []
    for route in routes:
        if isinstance(route, APIRoute):
            found.append(route)
        else:  # a router that was included, whatever this version of the framework makes of it
            inner = getattr(route, "original_router", route)
            found += _routes(getattr(inner, "routes", None) or ())
    return found


def _schema(route: APIRoute) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, (many, most) in fields_of(route.endpoint).items():
        text: dict[str, Any] = {"type": "string", "maxLength": most}
        if (choices := CHOICES.get((route.path_format, name))) is not None:
            text = {"type": "string", "enum": list(choices)}
        properties[name] = {"type": "array", "items": text, "maxItems": 100} if many else text
    return {"type": "object", "properties": properties}


def fields_of(handler: Callable[..., Any]) -> dict[str, tuple[bool, int]]:
    """Field -> (whether it may come several times, most characters)."""
    module = sys.modules[handler.__module__]
    functions = {
        node.name: node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.FunctionDef)
    }
    found: dict[str, tuple[bool, int]] = {}
    seen: set[str] = set()

    def look(name: str) -> None:
        if name in seen or name not in functions:
            return
        seen.add(name)
        for node in ast.walk(functions[name]):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "sent":
                if node.args and isinstance(node.args[0], ast.Constant) and node.func.attr in ("one", "many"):
                    found.setdefault(str(node.args[0].value), (node.func.attr == "many", _most(node, module)))
            elif isinstance(node.func, ast.Name) and any(isinstance(a, ast.Name) and a.id == "sent" for a in node.args):
                look(node.func.id)

    look(handler.__name__)
    return found


def _most(call: ast.Call, module: Any) -> int:
    for keyword in call.keywords:
        if keyword.arg == "most":
            expression = compile(ast.Expression(keyword.value), textwrap.shorten(module.__name__, 60), "eval")
            names = {n.id for n in ast.walk(keyword.value) if isinstance(n, ast.Name)}
            return int(eval(expression, {"__builtins__": {}}, {name: getattr(module, name) for name in names}))  # noqa: S307
    return MOST
