"""What is varied within a run: ``--vary NAME=V1,V2``. The matrix gets the product of all variations.

NAME is a field of ``LoaderSpec`` or ``StepSpec``, or an option that only some loaders have. A single value is no variation
but a setting: ``--workers 4`` is ``--vary workers=4``. Imports no TensorFlow, unless an option is a loader's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bench.case import StepSpec
from bench.quiet import load_tensorflow
from loaders import LOADERS
from loaders.base import HasOptions, LoaderSpec, Option, own_options
from storage.errors import DataError, UsageError

Value: TypeAlias = bool | int | float | str | tuple[int, int]
EXPECTED = {bool: "on or off", int: "a whole number", int | None: "a whole number", float: "a number"}
FROM_FILES = {"model": (), "weights": ("none", "imagenet")}
"""Fields of the step that may name a file, and the words that are none."""


@dataclass(frozen=True)
class Variation:
    """One name and the values it takes. ``of`` says whose: the loader's spec, the step's, or a loader's own option."""

    name: str
    values: tuple[Value, ...]
    of: Literal["spec", "step", "option"]


@dataclass(frozen=True)
class Setting:
    """One cell of the product: what changes in the spec, in the step, and among the loader's own options."""

    spec: Mapping[str, Any]
    step: Mapping[str, Any]
    options: Mapping[str, Option]


def variations(texts: Iterable[str], loaders: Sequence[str], option: str = "--vary") -> tuple[Variation, ...]:
    """``NAME=V1,V2`` each. UsageError for a name that neither specs nor these loaders have, or a value that does not fit.

    Errors name the ``option`` that the user gave.
    """
    found: dict[str, Variation] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        parts = tuple(dict.fromkeys(part.strip() for part in values.split(",") if part.strip()))
        if not equals or not parts:
            raise UsageError(f"--vary takes NAME=VALUE,VALUE, such as workers=1,2; got {text!r}")
        if name in found:
            raise UsageError(f"--vary: {name} is given twice; name all its values at once: --vary {name}=V1,V2")
        try:
            found[name] = _variation(name, parts, [loader for loader in loaders if loader in LOADERS])
        except UsageError as error:
            words = str(error)
            own = option != "--vary" and words.startswith(f"{name} ")
            raise UsageError(f"{option}{words.removeprefix(name)}" if own else f"{option}: {words}") from error
    return tuple(found.values())


def size(text: str | None, name: str = "--image-size") -> tuple[int, int]:
    """``160`` or ``120x160`` (height x width). UsageError, about ``name``, for anything else."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text or "160")
    if match is None or not int(match[1]) or (match[2] is not None and not int(match[2])):
        raise UsageError(f"{name} must be N or HEIGHTxWIDTH in pixels, such as 160 or 120x160; got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def settings(varied: Sequence[Variation]) -> list[Setting]:
    """The product of all variations, in reading order; one empty setting where nothing is varied."""
    cells = []
    for values in product(*(one.values for one in varied)):
        of: dict[str, dict[str, Any]] = {"spec": {}, "step": {}, "option": {}}
        for one, value in zip(varied, values, strict=True):
            of[one.of][one.name] = value
        cells.append(Setting(of["spec"], of["step"], of["option"]))
    return cells


def unknown_options(loader: str, options: Iterable[str]) -> list[str]:
    """Those of the named options that a loader does not have."""
    wanted = list(options)
    known = own_options(LOADERS[loader]) if wanted and loader in LOADERS else {}
    return [name for name in wanted if name not in known]


def files_by_name(varied: Sequence[Variation]) -> tuple[tuple[Variation, ...], tuple[Path, ...]]:
    """Models and weights that are files, by their bare names (records keep no paths), and where the files are.

    Raises DataError for a file that is not there, UsageError for two of the same name.
    """
    files: dict[str, Path] = {}
    named = []
    for one in varied:
        if one.of == "step" and one.name in FROM_FILES:
            paths = [Path(str(value)) for value in one.values if _is_file(one.name, str(value))]
            for path in paths:
                if not path.is_file():
                    raise DataError(f"--{one.name}: there is no file {path}")
                if files.setdefault(path.name, path.resolve()) != path.resolve():
                    raise UsageError(f"--{one.name}: two files are named {path.name}; records tell them by their names")
            one = replace(one, values=tuple(Path(str(value)).name for value in one.values))
        named.append(one)
    return tuple(named), tuple(files.values())


def _is_file(name: str, value: str) -> bool:
    return value not in FROM_FILES[name] and (name != "model" or value.endswith(".keras"))


def _variation(name: str, parts: tuple[str, ...], loaders: Sequence[str]) -> Variation:
    owners: tuple[tuple[Literal["spec", "step"], Any], ...] = (("spec", LoaderSpec), ("step", StepSpec))
    for of, owner in owners:
        if name in _names(owner):
            hint = get_type_hints(owner)[name]
            values = tuple(_value(name, part, hint) for part in parts)
            for value in values:
                owner(**{name: value})  # It checks itself.
            return Variation(name, values, of)
    load_tensorflow()
    offering = [loader for loader in loaders if name in own_options(LOADERS[loader])]
    if not offering:
        own = [option for loader in loaders for option in own_options(LOADERS[loader])]
        valid = dict.fromkeys([*_names(LoaderSpec), *_names(StepSpec), *own])
        raise UsageError(f"unknown name {name!r}; expected one of: {', '.join(valid)}")
    values = tuple(_value(name, part, own_options(LOADERS[offering[0]])[name]) for part in parts)
    for value in values:
        for loader in offering:
            cast(HasOptions, LOADERS[loader]).options(**{name: value})
    return Variation(name, values, "option")


def _names(owner: Any) -> list[str]:
    return [f.name for f in fields(owner) if f.name != "options"]


def _value(name: str, text: str, hint: Any) -> Any:
    """A text as what a field holds. Sizes are N or HEIGHTxWIDTH, switches on or off."""
    if name == "image_size":
        return size(text, name)
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError as error:
        choices = "one of " + ", ".join(map(str, get_args(hint))) if get_origin(hint) is Literal else str(hint)
        raise UsageError(f"{name} must be {EXPECTED.get(hint, choices)}; got {text!r}") from error
