"""What all sections of a run file have in common: the types of their values, and how YAML's values are taken."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


def _without_surprises(name: str) -> str:
    """Raises for what a name or path can have and nobody means: the line break that YAML's > and | leave, for one."""
    if name != name.strip() or not name.isprintable():
        reason = "it has blanks around it, or characters such as a line break"
        raise PydanticCustomError("form", "{reason}; write it without them", {"reason": reason})
    return name


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_surprises)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_as_meant(cls, given: Any, about: ValidationInfo) -> Any:
        # pydantic takes true for 1. YAML 1.1 reads 1e3 as text.
        kinds = _kinds(cls.model_fields[about.field_name or ""].annotation)
        if isinstance(given, bool) and bool not in kinds:
            expected = "a number" if kinds & {int, float} else "text" if str in kinds else "no truth value"
            raise PydanticCustomError(
                "truth_value", f"YAML reads yes, no, on, off, true and false as truth values; expected {expected}"
            )
        if isinstance(given, str) and "\0" in given:
            raise PydanticCustomError("nul", "a name or path cannot have a NUL character")
        in_a_list = float in kinds and isinstance(given, list)  # pydantic reads such text itself elsewhere
        return read_exponent(given) if int in kinds or in_a_list else given


def read_exponent(given: Any) -> Any:
    """The number for text such as 5e8, which YAML 1.1 takes for text; in maps and lists too. All else as it is."""
    if isinstance(given, Mapping):
        return {key: read_exponent(value) for key, value in given.items()}
    if isinstance(given, list):
        return [read_exponent(value) for value in given]
    if isinstance(given, str) and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]{1,2}", given):
        number = float(given)
        return int(number) if number.is_integer() else number
    return given


def _kinds(annotation: Any) -> set[Any]:
    """The types that a field admits, and those of a Literal's values: {int, NoneType} for `Positive | None`."""
    if typing.get_origin(annotation) is Literal:
        return {type(value) for value in typing.get_args(annotation)}
    members = typing.get_args(annotation)
    return {kind for member in members for kind in _kinds(member)} if members else {annotation}
