"""The tables behind FORMATS, LOADERS, METRICS and CHARTS: a name, and where its implementation lives.

A row is ``name: "module:attribute"`` and is imported when it is first looked up, so that a table that names
TensorFlow-based loaders costs nothing to list. Third parties add rows through entry points of the table's group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from storage.errors import UsageError

T = TypeVar("T")


class UnknownNameError(UsageError, KeyError):
    """A name that a table does not have. The message lists those it has."""

    def __str__(self) -> str:
        return str(self.args[0])


class Table(Mapping[str, T], Generic[T]):
    """A read-only table from names to implementations, imported on first use.

    Parameters
    ----------
    kind
        What a row is, in the singular ("format"), for error messages.
    group
        The entry-point group whose members are further rows, such as ``feedbench.formats``.
    rows
        Name to ``"module:attribute"``.
    """

    def __init__(self, kind: str, group: str, rows: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self.built_in = dict(rows)
        self._loaded: dict[str, T] = {}

    @cached_property
    def _all(self) -> dict[str, str]:
        third_party = {entry.name: entry.value for entry in entry_points(group=self.group)}
        return {**self.built_in, **{name: target for name, target in third_party.items() if name not in self.built_in}}

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            # Built-in rows need no walk through the installed distributions.
            target = self.built_in.get(name) or self._all.get(name)
            if target is None:
                raise UnknownNameError(f"unknown {self.kind} {name!r}; expected one of: {', '.join(self)}")
            module, attribute = target.split(":")
            self._loaded[name] = cast(T, getattr(import_module(module), attribute))
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, name: object) -> bool:
        return name in self._all
