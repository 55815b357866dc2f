"""``ro-crate-metadata.json``: who made a bundle, from what and on what, as RO-Crate 1.1 (JSON-LD),
which archives such as Zenodo read. It says nothing that a number rests on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.bundle.bag import PAYLOAD
from bench.bundle.layout import CRATE, to_json
from bench.contracts.card import Paper
from bench.record import Record

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
CONFORMS = "https://w3id.org/ro/crate/1.1"
_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".png": "image/png",
    ".py": "text/x-python",
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the submitter says. ``authors``: ``Name``, ``Name <mail>`` or ``Name (ORCID)``;
    ``licence``: an SPDX name or an address; ``paper``: an address, a DOI or a title; empty for the
    card's.
    """

    authors: Sequence[str] = ()
    licence: str = ""
    paper: str = ""


def crate(
    name: str,
    text: str,
    date: str,
    files: Iterable[str],
    described: Description,
    papers: Sequence[Paper],
    records: Sequence[Record],
) -> bytes:
    """The description of a bundle. ``files``: paths below ``data/``; ``date``: of the run."""
    authors = [_author(one) for one in described.authors]
    cited = [_cited(described.paper)] if described.paper else [_paper(paper) for paper in papers]
    machines, software = _machines(records), _software(records)
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": text,
        "datePublished": date[:10],
        "license": _licence(described.licence),
        "hasPart": [_id(PAYLOAD + path) for path in sorted(files)],
        "mentions": [_id("#run")],
    }
    if authors:
        root["author"] = [_id(one["@id"]) for one in authors]
    if cited:
        root["citation"] = [_id(one["@id"]) for one in cited]
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": "castlewalls run",
        "endTime": date,
        "instrument": [_id(one["@id"]) for one in (*software, *machines)],
        "result": _id("./"),
    }
    head = {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": _id(CONFORMS),
        "about": _id("./"),
    }
    parts = [_file(PAYLOAD + path) for path in sorted(files)]
    graph = [head, root, run, *authors, *cited, *software, *machines, *parts]
    return to_json({"@context": CONTEXT, "@graph": list({e["@id"]: e for e in graph}.values())})


def _id(name: str) -> dict[str, str]:
    return {"@id": name}


def _file(path: str) -> dict[str, Any]:
    kind = next((kind for end, kind in _TYPES.items() if path.endswith(end)), "")
    return {"@id": path, "@type": "File"} | ({"encodingFormat": kind} if kind else {})


def _author(text: str) -> dict[str, Any]:
    name, _, rest = text.partition("<") if "<" in text else text.partition("(")
    about, name = rest.strip(" )>"), name.strip()
    if "@" in about:
        return {"@id": f"mailto:{about}", "@type": "Person", "name": name, "email": about}
    if about:
        address = about if about.startswith("https://") else f"https://orcid.org/{about}"
        return {"@id": address, "@type": "Person", "name": name}
    return {"@id": f"#{name.replace(' ', '-')}", "@type": "Person", "name": name}


def _licence(text: str) -> Any:
    if not text:
        return "not stated"
    return _id(text if "://" in text else f"https://spdx.org/licenses/{text}")


def _cited(text: str) -> dict[str, Any]:
    address = f"https://doi.org/{text}" if text.startswith("10.") else text
    known = address if "://" in address else f"#{text.replace(' ', '-')[:60]}"
    return {"@id": known, "@type": "ScholarlyArticle", "name": text}


def _paper(paper: Paper) -> dict[str, Any]:
    address = f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else f"#{paper.title[:60]}"
    article = {"@id": address, "@type": "ScholarlyArticle", "name": paper.title}
    return article | {"creditText": paper.authors, "datePublished": str(paper.year)}


def _machines(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What the cells were made on, each once."""
    names = sorted(
        {
            ", ".join(
                str(record.provenance[key])
                for key in ("cpu", "device", "platform")
                if record.provenance.get(key)
            )
            for record in records
        }
        - {""}
    )
    return [
        {"@id": f"#machine-{number}", "@type": "IndividualProduct", "name": name}
        for number, name in enumerate(names, 1)
    ]


def _software(records: Iterable[Record]) -> list[dict[str, Any]]:
    versions = sorted({pair for record in records for pair in _versions(record.provenance)})
    return [
        {
            "@id": f"#{name}-{version}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
        }
        for name, version in versions
    ]


def _versions(provenance: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    packages = provenance.get("packages")
    known = dict(packages) if isinstance(packages, dict) else {}
    for name in ("castlewalls", "python"):
        known[name] = provenance.get(name)
    return ((str(name), str(version)) for name, version in known.items() if version)
