"""One cell of the matrix: a stored dataset, a loader and its spec, a step, a cache state. Imports no TensorFlow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Any, Literal

from loaders.base import LoaderSpec
from storage.base import PAYLOADS, Payload
from storage.errors import UsageError

DEFAULT_STEP = "feature_extraction"
DEFAULT_MODEL = "MobileNetV2"
FINE_TUNE_AT = 100
"""The layer of MobileNetV2 from which the notes fine-tune, and the usual one of any base that has more layers."""


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """What is trained while the loader is timed.

    Attributes
    ----------
    step
        ``none`` (loading alone), ``emulated:RATE`` (RATE images/s without burning CPU), ``feature_extraction``
        (frozen base), ``fine_tune`` (from ``fine_tune_at``), ``full``.
    model
        A ``keras.applications`` name, or the path of a ``.keras`` file.
    weights
        ``none``, ``imagenet``, or the path of a weights file of the base.
    fine_tune_at
        The first layer of the base that ``fine_tune`` trains. None: 100, or in a base of no more layers the layer that
        leaves as large a share of it frozen (``bench.model.fine_tune_at``).
    jit_compile, mixed_precision, steps_per_execution
        As Keras names them. Explicit, since "auto" compares two compilers. With ``steps_per_execution`` = k, k batches are
        asked for and then stepped on in one go: a record's entries are such groups.
    """

    step: str = DEFAULT_STEP
    model: str = DEFAULT_MODEL
    weights: str = "none"
    fine_tune_at: int | None = None
    jit_compile: bool = False
    mixed_precision: bool = False
    steps_per_execution: int = 1

    def __post_init__(self) -> None:
        kind, _, rate = self.step.partition(":")
        if kind not in ("none", "emulated", "feature_extraction", "fine_tune", "full"):
            raise UsageError(f"step must be none, emulated:RATE, feature_extraction, fine_tune or full; got {self.step!r}")
        if (kind == "emulated") != bool(rate) or (rate and not _positive(rate)):
            raise UsageError(f"step emulated:RATE takes images/s above 0, such as emulated:1800; got {self.step!r}")
        if self.steps_per_execution < 1:
            raise UsageError(f"steps_per_execution must be at least 1, got {self.steps_per_execution}")

    @property
    def group(self) -> int:
        """How many batches the step takes in one go; steps that train nothing take each by itself."""
        return self.steps_per_execution if self.trains else 1

    @property
    def trains(self) -> bool:
        """Whether a model is trained: not when loading alone, not on an emulated accelerator."""
        return self.step != "none" and self.rate is None

    @property
    def plain(self) -> StepSpec:
        """The same step without a layer that goes without saying: MobileNetV2's usual one, and any where nothing is fine-tuned.

        What layer is usual in another base shows when that is built: there, a layer that is named stays named.
        """
        says = self.step == "fine_tune" and (self.model, self.fine_tune_at) != (DEFAULT_MODEL, FINE_TUNE_AT)
        return self if says else replace(self, fine_tune_at=None)

    @property
    def rate(self) -> float | None:
        """Images/s of an emulated accelerator; None for any other step."""
        kind, _, rate = self.step.partition(":")
        return float(rate) if kind == "emulated" else None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is measured. Two cases are the same exactly if their ids are.

    ``format`` is a name in FORMATS, or ``memory`` for a limit; ``loader`` a name in LOADERS, or a limit
    (``limit:decode``, ``limit:gather``). ``name`` tells two otherwise equal cases apart (an A/A comparison).
    """

    format: str
    payload: Payload
    loader: str
    spec: LoaderSpec = field(default_factory=LoaderSpec)
    step: StepSpec = field(default_factory=StepSpec)
    cache: Literal["warm", "cold"] = "warm"
    name: str = ""

    def __post_init__(self) -> None:
        if self.payload not in PAYLOADS:
            raise UsageError(f"payload must be one of {', '.join(PAYLOADS)}; got {self.payload!r}")

    @cached_property
    def id(self) -> str:
        """FORMAT-PAYLOAD-LOADER-PLACEMENT, then whatever differs from the defaults: pytest id, CSV key, chart label."""
        return "-".join([f"{self.format}-{self.payload}-{self.loader}-{self.spec.placement}", *self._changes()])

    def is_named(self, text: str) -> bool:
        """Whether ``text`` is its id, with or without the step."""
        return text in (self.id, self.id.replace(f"-step={self.step.step}", ""))

    @property
    def alone(self) -> Case:
        """The same pipeline, loading alone."""
        return replace(self, step=StepSpec(step="none"))

    @property
    def leaves_work(self) -> bool:
        """Whether preprocessing is left to a model that nobody runs: loading alone does less so, and is no faster for it."""
        return self.step.step == "none" and self.spec.placement == "model"

    def _changes(self) -> list[str]:
        changed = {k: v for k, v in self.spec.changed().items() if k not in ("placement", "options")}
        changed |= dict(self.spec.options)
        defaults = StepSpec()
        changed |= {k: v for k, v in asdict(self.step).items() if v != getattr(defaults, k)}
        if self.cache != "warm":
            changed["cache_state"] = self.cache
        if self.name:
            changed["name"] = self.name
        return [f"{key}={_short(value)}" for key, value in changed.items()]

    def fields(self) -> dict[str, Any]:
        """Every field, flat, as ``results.csv`` has them: options as one ``key=value;…`` text, sizes as HEIGHTxWIDTH."""
        spec = asdict(self.spec)
        spec["image_size"] = _short(self.spec.image_size)
        spec["options"] = ";".join(f"{key}={value}" for key, value in self.spec.options)
        spec["cache_in_memory"] = spec.pop("cache")
        return {
            "case": self.id,
            "format": self.format,
            "payload": self.payload,
            "loader": self.loader,
            **spec,
            **asdict(self.step),
            "fine_tune_at": FINE_TUNE_AT if self.step.fine_tune_at is None else self.step.fine_tune_at,
            "cache": self.cache,
            "name": self.name,
        }


def _short(value: object) -> str:
    if isinstance(value, tuple | list):
        return "x".join(str(v) for v in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < inf
    except ValueError:
        return False
