"""What a page runs: scripts and data inlined so that no text can leave its tag, and the policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from markupsafe import Markup

DANGEROUS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""What could end a script element or a line, as JSON may also write it."""


def template_text(name: str) -> str:
    """One of the files beside the page's templates, also from an installed wheel."""
    return (files("bench.report") / "templates" / name).read_text(encoding="utf-8")


def as_json(value: Any) -> Markup:
    """For ``<script type="application/json">``: no ``<``, so nothing in it ends the element. ValueError for NaN and infinity."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Markup("".join(DANGEROUS.get(letter, letter) for letter in text) if DANGEROUS.keys() & set(text) else text)


def as_script(code: str) -> Markup:
    """A script of our own or a library's, fit to stand inside ``<script>``. ``<\\/`` means the same in strings and patterns."""
    return Markup(re.sub(r"<(?=/script|script|!--)", r"\\x3c", code, flags=re.IGNORECASE))


def vega() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script, of the Vega-Lite version that Altair writes for. Takes seconds, once."""
    return vega_soon().result()


def vega_soon() -> Future[Markup]:
    """The same, made beside what the caller does meanwhile. A failure is not kept: the next caller tries anew."""
    if not _made or (_made[-1].done() and _made[-1].exception() is not None):
        pool = ThreadPoolExecutor(1, "vega")
        _made[:] = [pool.submit(_vega)]
        pool.shutdown(wait=False)
    return _made[-1]


_made: list[Future[Markup]] = []
"""By this process, once."""


def _vega() -> Markup:
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return as_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))


def policy(*scripts: str) -> str:
    """A Content-Security-Policy: exactly these scripts, inline styles, inlined pictures; no request to anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
