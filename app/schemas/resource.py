"""What every response body is made of: resources, pages, faults, and how they become JSON."""

from collections.abc import Mapping
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

T = TypeVar("T")

Number = Annotated[
    float,
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]}),
]
"""A float; one that is not finite is written as a string."""


class Resource(BaseModel):
    """What a response carries."""

    model_config = ConfigDict(ser_json_inf_nan="strings", protected_namespaces=())


def answer(model: Resource, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A resource as a response."""
    return Response(as_json(model), status, headers, "application/json")


def as_json(model: Resource) -> bytes:
    """A resource as the bytes of a body."""
    return model.__pydantic_serializer__.to_json(model, by_alias=True)


class Page(Resource, Generic[T]):
    """One page of a list; `next_cursor` is null on the last."""

    data: list[T]
    next_cursor: str | None = None


class FaultOut(Resource):
    """One thing wrong with a body."""

    pointer: str = Field(description="RFC 6901 JSON pointer into the body.")
    code: str
    message: str


class ProblemOut(Resource):
    """An error (RFC 9457). Some codes bring further members, such as `allowed_actions`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="Stable, snake_case.")
    request_id: str | None
    errors: list[FaultOut] | None = Field(None, description="Every fault of the body, where the body is at fault.")


class HealthOut(Resource):
    """Whether the process is up, or its parts answer."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
