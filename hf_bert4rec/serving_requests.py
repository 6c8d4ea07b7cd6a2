"""
What a request to recommend may hold, and how its body becomes queries: limits, schema, one sentence for what is wrong.

*Source:* none.

*Differences:* the body is read here and not by FastAPI, which would read one of any size, take `NaN` for JSON, and answer
with a list of findings instead of a sentence.
"""

# No `from __future__ import annotations`: pydantic is imported in a function, where text could not be resolved.

import json
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from .pipeline_recommendation import NextItemRecommendationPipeline, Query

MAX_DETAIL = 500


@dataclass(frozen=True)
class ServingLimits:
    r"""
    What one request, and all that wait, may ask for.

    Raises:
        ValueError: If a limit is less than 1, or a full request could not wait.

    Example:
        >>> ServingLimits(max_top_k=50).max_histories
        128
    """

    max_body_bytes: int = field(default=1 << 23, metadata={"help": "bytes of a request's body"})
    max_list_length: int = field(
        default=10_000, metadata={"help": "ids in a list: a history, allowed_items, denied_items"}
    )
    max_histories: int = field(default=128, metadata={"help": "histories of a request"})
    max_top_k: int = field(default=1_000, metadata={"help": "top_k of a request"})
    max_batch_size: int = field(default=128, metadata={"help": "histories scored together"})
    max_waiting: int = field(
        default=1_024,
        metadata={"help": "histories that may wait for the model; further requests are refused with 503"},
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            if (value := getattr(self, option.name)) < 1:
                raise ValueError(f"{option.name} is {value}; give at least 1.")
        if self.max_waiting < self.max_histories:
            raise ValueError(
                f"max_waiting is {self.max_waiting}, less than the {self.max_histories} histories that a request may "
                "hold; give more, or a lower max_histories."
            )


class BadRequest(ValueError):
    """What is wrong with a request, in a sentence, and its HTTP status."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, " ".join(detail.split())[:MAX_DETAIL]


def request_model(limits: ServingLimits, num_items: int) -> Any:
    """The pydantic model of a body."""
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

    id_schema = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    of_ids = {"type": "array", "items": id_schema, "maxItems": limits.max_list_length}
    ids = Annotated[
        list, Field(max_length=limits.max_list_length), AfterValidator(_checked_ids), WithJsonSchema(of_ids)
    ]
    max_top_k = min(limits.max_top_k, num_items)
    one_of_two: Any = {"oneOf": [{"required": ["history"]}, {"required": ["histories"]}]}

    class RecommendationRequest(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=one_of_two)

        history: ids = Field(default_factory=list, description="Item ids, oldest first.")
        histories: list[ids] = Field(
            default_factory=list, max_length=limits.max_histories, description="Several, instead of `history`."
        )
        top_k: int = Field(
            default=min(10, max_top_k),
            ge=1,
            le=max_top_k,
            description="Items for each; fewer where fewer are allowed.",
        )
        filter_seen: bool = Field(default=True, description="Whether items of the history are left out.")
        allowed_items: ids | None = Field(default=None, description="Only these are recommended.")
        denied_items: ids | None = Field(default=None, description="These are not recommended.")
        unknown_items: Literal["skip", "error"] = Field(
            default="skip",
            description="Whether items of a history that the model does not know are skipped or refused.",
        )

    return RecommendationRequest


def answers_type() -> Any:
    """What comes back for `history` or for `histories`, for the documentation."""
    from pydantic import BaseModel, Field

    class Recommendation(BaseModel):
        item_id: int | str
        title: str | None = Field(default=None, description="Where the model has titles.")
        score: float = Field(description="Before the softmax.")

    class Answer(BaseModel):
        recommendations: list[Recommendation] = Field(description="Best first.")
        num_unknown: int = Field(description="Items of the history that the model does not know.")
        is_popularity: bool = Field(description="Whether no known item was left, so that the most popular come.")

    return Answer | list[Answer]


def read_request(body: bytes, model: Any, recommender: NextItemRecommendationPipeline) -> tuple[list[Query], bool]:
    r"""
    The queries of a body, and whether they came as a list (`histories`).

    Raises:
        BadRequest: 400 where the body is no JSON, 422 where it asks for what cannot be, 404 where it names items that
            must be known and are not.
    """
    try:
        given = _validated(_parsed(body), model)
        chosen = given.model_fields_set & {"history", "histories"}
        if len(chosen) != 1:
            raise BadRequest(422, "Give either 'history', a list of item ids, or 'histories', a list of such lists.")
        names = ("top_k", "filter_seen", "allowed_items", "denied_items", "unknown_items")
        options = {name: getattr(given, name) for name in names}
        is_list = chosen == {"histories"}
        try:
            return recommender.queries(given.histories if is_list else [given.history], **options), is_list
        except ValueError as error:  # types and numbers were checked: what is left is an item that is not there
            raise BadRequest(404, str(error)) from None
    except RecursionError:
        raise BadRequest(400, "The body is nested too deeply; a request needs three levels.") from None


def _parsed(body: bytes) -> Any:
    """Strict JSON in UTF-8."""
    try:
        value = json.loads(
            body.decode(), parse_float=_number, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
        if b"\\u" in body:  # halves of a surrogate pair can come as escapes alone
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise BadRequest(400, f"The body is no JSON: {error.msg} at character {error.pos}.") from None
    except UnicodeDecodeError as error:
        raise BadRequest(400, f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except UnicodeEncodeError:
        raise BadRequest(400, "The body holds half of a surrogate pair, which is no Unicode.") from None
    except BadRequest:
        raise
    except ValueError:
        raise BadRequest(400, "The body holds a number with too many digits; write such an id as text.") from None


def _number(text: str) -> float | int:
    """To JSON 7.0 and 7 are the same."""
    value = float(text)
    return int(value) if value.is_integer() else value


def _no_constant(name: str) -> None:
    raise BadRequest(400, f"The body is no JSON: it holds {name}.")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise BadRequest(400, f"The body has {twice!r} twice; give it once.")
    return found


def _checked_ids(ids: list) -> list:
    from pydantic_core import PydanticCustomError

    if not {int, str}.issuperset(map(type, ids)):
        place = next(place for place, value in enumerate(ids) if type(value) not in (int, str))
        found = {"kind": type(ids[place]).__name__, "place": place}
        raise PydanticCustomError("item_id", "ids are text or integers, found {kind} at position {place}", found)
    return ids


def _validated(value: Any, model: Any) -> Any:
    from pydantic import ValidationError

    if not isinstance(value, dict):
        raise BadRequest(422, "The body must be a JSON object with 'history' or 'histories'.")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name, *places = found["loc"]
        if found["type"] == "extra_forbidden":
            names = ", ".join(model.model_fields)
            raise BadRequest(422, f"There is no parameter {name!r:.60}; there are {names}.") from None
        where = f"{name}{''.join(f'[{place}]' for place in places)}"
        message = found["msg"].replace(" after validation", "")
        message = message[5:] if message.startswith("Input ") else f": {message}"
        is_plain = isinstance(found["input"], int | float | str | None)
        shown = f", found {found['input']!r:.60}" if is_plain else ""
        raise BadRequest(422, f"{where}{message}{shown}.") from None
