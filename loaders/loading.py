"""One call from a stored dataset to what ``model.fit`` takes, with a loader by name, by a run's results, or by default."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from loaders import LOADERS
from loaders.base import Feed, LoaderSpec, own_options
from loaders.sample import batches_in
from storage import open_dataset
from storage.base import DatasetInfo
from storage.errors import DataError, UsageError

AUTO = "auto"
CHOICES = "choices.json"
DEFAULTS = ("threaded", "tfdata", "from_generator")
"""What is taken where no run has measured: the first that can serve. Why in this order: docs/threaded.md."""

SPEC_FIELDS = tuple(field.name for field in fields(LoaderSpec) if field.name != "options")


def load(
    path: str | Path, loader: str = AUTO, *, split: str = "train", results: str | Path | None = None, **settings: Any
) -> Feed:
    """A feed over one split of a stored dataset, ready for ``model.fit``.

    Parameters
    ----------
    path
        A stored dataset: the folder with ``dataset.json``.
    loader
        A name in ``LOADERS``, or ``auto``: what the run at ``results`` found fastest for this format and payload, with the
        settings that it was measured with; without one, the best default.
    split
        Of the dataset.
    results
        Of a run: its folder, or its ``choices.json``. Only for ``auto``.
    **settings
        Fields of ``LoaderSpec`` (``batch_size``, ``image_size``, ``placement``, ``augment``, ``shuffle``, ``seed``, …) and the
        loader's own options. ``image_size`` is the stored size where images are stored raw, if it is not given.

    Raises
    ------
    UsageError
        An unknown name, a value that does not fit, or a loader that cannot serve this dataset: the reason.
    DataError
        No dataset or no results where they should be.
    """
    _check("text or a pathlib.Path", str | os.PathLike, path=path, **({} if results is None else {"results": results}))
    _check("text", str, loader=loader, split=split)
    if results is not None and loader != AUTO:
        raise UsageError(f'results are for loader="auto"; got loader={loader!r} too: give one of them')
    dataset = open_dataset(path, split)
    try:
        reasons: dict[str, list[str]] = {}
        for name, measured in _candidates(dataset.info, loader, results):
            wanted = {**measured, **settings}
            unknown = [setting for setting in wanted if setting not in _known(name)]
            if unknown:
                reason = f"no setting {unknown[0]!r}"
            else:
                spec = _spec(name, dataset.info, wanted)
                unsupported = _no_batch(len(dataset), spec) or LOADERS[name].unsupported(dataset.info, spec)
                if unsupported is None:
                    return LOADERS[name].build(dataset, spec)
                reason = f"cannot serve {path}: {unsupported}"
            reasons.setdefault(reason, []).append(name)
        raise UsageError(_refusal(settings, reasons))
    except BaseException:
        dataset.close()
        raise


def _check(words: str, kind: Any, **given: Any) -> None:
    """UsageError for the first of some arguments that is of another type."""
    for name, value in given.items():
        if not isinstance(value, kind):
            raise UsageError(f"{name} must be {words}, got {value!r}")


def _candidates(info: DatasetInfo, loader: str, results: str | Path | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Loaders to try in turn, each with the settings that a run measured it with."""
    if loader != AUTO:
        LOADERS[loader]  # UsageError for a name that is none
        yield loader, {}
        return
    if results is not None:
        choice = _choices(Path(results)).get(f"{info.format}-{info.payload}")
        if choice is not None and choice[0] in LOADERS:  # a run elsewhere may have had others
            yield choice
    yield from ((name, {}) for name in DEFAULTS)


def _choices(results: Path) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """What a run chose, by ``FORMAT-PAYLOAD``: the loader's name and its settings. DataError if the file is no such thing."""
    file = results / CHOICES if results.is_dir() else results
    try:
        found = json.loads(file.read_bytes())
        if found["version"] != 1:
            raise DataError(f"{file} is of version {found['version']!r}; this feedbench reads version 1")
        return {
            name: (str(entry["loader"]), {**entry["spec"], **entry["options"]}) for name, entry in found["choices"].items()
        }
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}. A finished `feedbench run` leaves one in its folder.") from error
    except ValueError as error:
        raise DataError(f"{file} is not the choices of a run: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not the choices of a run. `feedbench report RUN` writes them anew.") from error


def _no_batch(samples: int, spec: LoaderSpec) -> str | None:
    """Why an epoch would have no batch, over which ``fit`` would train nothing, without a word; None if it has one."""
    if not spec.drop_remainder or batches_in(samples, spec):
        return None
    return f"drop_remainder leaves no batch of {spec.batch_size}: the split has {samples} samples"


def _known(loader: str) -> tuple[str, ...]:
    """The settings that a loader has."""
    return (*SPEC_FIELDS, *own_options(LOADERS[loader]))


def _refusal(settings: Mapping[str, Any], reasons: Mapping[str, Sequence[str]]) -> str:
    """Why none of the loaders that were tried is taken, by ``reasons``. A setting that none of them has is one mistake."""
    tried = list(dict.fromkeys(name for names in reasons.values() for name in names))
    known = list(dict.fromkeys(setting for name in tried for setting in _known(name)))
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, 1)
        instead = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        return f"{', '.join(tried)}: no setting {unknown[0]!r}; {instead}"
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items())


def _spec(loader: str, info: DatasetInfo, settings: Mapping[str, Any]) -> LoaderSpec:
    fields_ = {name: value for name, value in settings.items() if name in SPEC_FIELDS}
    if info.image_size is not None:
        fields_.setdefault("image_size", info.image_size)
    own = own_options(LOADERS[loader])
    return LoaderSpec(**fields_, options=tuple((name, value) for name, value in settings.items() if name in own))
