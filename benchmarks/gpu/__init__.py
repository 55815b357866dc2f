"""``python -m benchmarks gpu``: whether the path of a GPU gives what it promises, and what it
costs, on this machine, without a network.

Where torch sees no CUDA device everything that a CPU can do is done there at tiny sizes, and what
only a GPU has is named as not measured. Weights are the embedded ones, or random in the published
shapes: neither time nor memory depends on them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict

import click
import torch

from bench.diffusion.precision import exact_float32
from bench.engine.provenance import provenance
from bench.errors import UserError
from benchmarks.device import Device
from benchmarks.gpu.bits import same_bits
from benchmarks.gpu.finding import Finding, Sizes
from benchmarks.gpu.loops import loops, share
from benchmarks.gpu.memory import memory
from benchmarks.gpu.network import network
from benchmarks.gpu.packing import packing
from benchmarks.gpu.published import published
from benchmarks.subject import SEED

SECTIONS = {
    "bits": same_bits,
    "steps": loops,
    "network": network,
    "share": share,
    "memory": memory,
    "packing": packing,
    "published": published,
}


def lines(findings: Sequence[Finding], device: str) -> list[str]:
    """As Markdown."""
    text = [f"Measured on: {device}."]
    section = ""
    for one in findings:
        if one.section != section:
            section = one.section
            text += ["", f"{section}:", "", "| quantity | value | range | unit | |"]
            text.append("| --- | --- | --- | --- | --- |")
        text.append(line(one))
    return text


def line(one: Finding) -> str:
    """Its row of the table."""
    middle = sorted(one.values)[len(one.values) // 2] if one.values else None
    value = "" if middle is None else f"{middle:.3g}"
    spread = f"{min(one.values):.3g} to {max(one.values):.3g}" if len(one.values) > 1 else ""
    return f"| {one.quantity} | {value} | {spread} | {one.unit} | {one.note} |"


def measure(names: Sequence[str], device: Device, sizes: Sizes) -> list[Finding]:
    """All findings of the sections of these names, in their order."""
    exact_float32()
    torch.manual_seed(SEED)
    findings: list[Finding] = []
    for name, section in SECTIONS.items():
        if name in names:
            began = time.monotonic()
            for one in section(device, sizes):
                findings.append(one)
                click.echo(f"  {line(one)}", err=True)
            click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
    return findings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "names", nargs=-1, type=click.Choice([*SECTIONS]), metavar=f"[{'|'.join(SECTIONS)}]..."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def main(names: Sequence[str], as_json: bool) -> None:
    """The path of a GPU, proved and measured on this machine, without a network. Without names, all
    sections. Without a GPU, on the CPU at tiny sizes.

    \b
    python -m benchmarks gpu
    python -m benchmarks gpu bits memory --json
    """
    device = Device.here()
    try:
        findings = measure(names or [*SECTIONS], device, Sizes.of(device))
    except UserError as error:
        raise SystemExit(f"benchmarks: {error}") from error
    if as_json:
        document = {
            "device": device.describe(),
            "machine": provenance(),
            "findings": [asdict(one) for one in findings],
        }
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        click.echo("\n".join(lines(findings, device.describe())))
