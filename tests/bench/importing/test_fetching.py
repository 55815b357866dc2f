"""Downloads, from a server on this machine: checked, unpacked and converted, or nothing of it."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from bench import testbeds
from bench.cli import cli
from bench.importing import fetching, hub, needed
from bench.testbeds import celebahq_ddpm
from bench.testbeds.data import fashion


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """``(folder, address)``: what is in the folder is served."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def cifar10_archive(*extra):
    """CIFAR-10's binary version with two images a file, as bytes; ``extra``: more members."""
    rows = np.random.default_rng(0).integers(0, 10, (2, 3073), dtype=np.uint8).tobytes()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in (*needed_files(), *extra):
            member = tarfile.TarInfo(name)
            member.size = len(rows)
            archive.addfile(member, io.BytesIO(rows))
    return made.getvalue()


def needed_files():
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    return [f"cifar-10-batches-bin/{name}" for name in names]


@pytest.fixture
def published(server, monkeypatch, tmp_path):
    """``publish(content)``: the archive at the address where CIFAR-10 is, with its hash."""
    folder, address = server
    monkeypatch.chdir(tmp_path)

    def publish(content, sha256=None):
        (folder / "cifar.tar.gz").write_bytes(content)
        monkeypatch.setattr(needed, "_CIFAR10", f"{address}/cifar.tar.gz")
        known = sha256 or hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(needed, "_CIFAR10_SHA256", known)

    return publish


TINY = {"train_count": 10, "held_out_count": 2}


def of_data(testbed):
    """The steps for its data alone; the rest would ask the hub."""
    data = testbed.data
    return lambda part: needed.steps_of(part) if part is data else []


def fetched(monkeypatch, **options):
    testbed = testbeds.build("cifar10-ddpm", TINY)
    monkeypatch.setattr(fetching, "steps_of", of_data(testbed))
    return testbed, fetching.fetch(testbed, **options)


def test_a_data_set_is_there_after_it_was_fetched_and_is_not_fetched_twice(
    published, monkeypatch, tmp_path
):
    published(cifar10_archive())
    _, (planned,) = fetched(monkeypatch, dry_run=True)
    assert planned.state == "to fetch"
    assert list(tmp_path.iterdir()) == []
    testbed, (result,) = fetched(monkeypatch)
    assert result.state == "fetched"
    assert testbed.data.missing() == []
    assert len(testbed.data.train_images()) == 10
    assert [path.name for path in (tmp_path / "data/cifar10").iterdir()] == ["cifar-10-batches-bin"]
    published(b"another, which nobody may ask for")
    _, (again,) = fetched(monkeypatch)
    assert again.state == "here"


def test_an_archive_that_is_in_the_way_is_no_reason_to_download_it_again(
    published, monkeypatch, tmp_path
):
    """What was unpacked before is not what the testbed takes: gigabytes later the line was the
    same.
    """
    published(b"another, which nobody may ask for", "0" * 64)
    (tmp_path / "data/cifar10/cifar-10-batches-bin").mkdir(parents=True)
    _, (result,) = fetched(monkeypatch)
    assert result.state == "failed"
    assert result.detail == "data/cifar10/cifar-10-batches-bin is there already; move it away"


def test_caltech_without_classes_waits_for_a_person_and_not_for_the_server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/caltech15/256_ObjectCategories").mkdir(parents=True)
    monkeypatch.setattr(needed, "_CALTECH", "http://127.0.0.1:9/nothing")
    testbed = testbeds.load("caltech15-sd")
    monkeypatch.setattr(fetching, "steps_of", of_data(testbed))
    states = [result.state for result in fetching.fetch(testbed)]
    assert states == ["here", "by hand"]


def test_a_mistyped_folder_of_weights_is_no_repository_of_the_hub():
    testbed = testbeds.build("cifar10-ddpm", {"weights": "no/such_folder"})
    (step,) = needed.steps_of(testbed.parts()["generator"])
    assert isinstance(step, needed.ByHand)


@pytest.mark.parametrize(
    ("content", "sha256", "message"),
    [
        (cifar10_archive(), "0" * 64, "invalid hash value"),
        (b"no archive", None, "could not be unpacked"),
        (cifar10_archive("../../outside.bin"), None, "could not be unpacked"),
        (cifar10_archive("/outside.bin")[:200], None, "could not be unpacked"),
    ],
    ids=["another file", "no archive", "a path that leads out", "cut short"],
)
def test_what_is_not_the_data_set_leaves_nothing_behind(
    published, monkeypatch, tmp_path, content, sha256, message
):
    published(content, sha256)
    _, (result,) = fetched(monkeypatch)
    assert result.state == "failed"
    assert message in result.detail and len(result.detail.splitlines()) == 1
    assert list((tmp_path / "data/cifar10").iterdir()) == []
    assert not (tmp_path.parent / "outside.bin").exists()


def test_a_server_that_is_not_there_is_one_line(published, monkeypatch):
    published(b"")
    monkeypatch.setattr(needed, "_CIFAR10", "http://127.0.0.1:9/nothing")
    _, (result,) = fetched(monkeypatch)
    assert result.state == "failed" and "could not be fetched" in result.detail


def test_published_pickles_become_safetensors(server, tmp_path):
    """As torchvision's ResNet-50, whose hash's beginning is in its name."""
    folder, address = server
    weights = {"fc.weight": torch.arange(6.0).reshape(2, 3)}
    torch.save(weights, folder / "resnet50.pth")
    sha256 = hashlib.sha256((folder / "resnet50.pth").read_bytes()).hexdigest()[:8]
    step = needed.File(
        what="weights",
        target=tmp_path / "weights/resnet50.safetensors",
        url=f"{address}/resnet50.pth",
        sha256=sha256,
        converted=True,
    )
    assert fetching._taken(step).state == "fetched"
    assert torch.equal(load_file(step.target)["fc.weight"], weights["fc.weight"])
    assert [path.name for path in step.target.parent.iterdir()] == ["resnet50.safetensors"]


def test_the_celebahq_weights_are_converted_into_the_folder_that_the_testbed_reads(
    tmp_path, monkeypatch, digits_ddpm
):
    """The repository has one .bin, no safetensors; the hub itself is stood in for."""
    monkeypatch.chdir(tmp_path)
    snapshot = tmp_path / "snapshot"
    digits_ddpm.unet.save_config(snapshot)
    torch.save(digits_ddpm.unet.state_dict(), snapshot / "diffusion_pytorch_model.bin")
    (snapshot / "scheduler_config.json").write_text(json.dumps(digits_ddpm.scheduler_config))
    asked = []
    monkeypatch.setattr(
        hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(snapshot)
    )
    testbed = testbeds.build("celebahq-ddpm")
    (step,) = needed.steps_of(testbed.generator)
    assert fetching._taken(step).state == "fetched"
    ((names, options),) = asked
    assert names == (celebahq_ddpm.HUB_ID,) and options["revision"] == celebahq_ddpm.REVISION
    assert testbed.generator.missing() == []
    made = load_file(step.target / "diffusion_pytorch_model.safetensors")
    for name, value in digits_ddpm.unet.state_dict().items():
        assert torch.equal(made[name], value)


@pytest.mark.parametrize("name", [name for name in testbeds.names()])
def test_whatever_is_missing_has_a_step(name, monkeypatch, tmp_path):
    """`doctor` sends people to `fetch`: each part that lacks something is named there, every file
    by a hash or a commit.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion, "PLACES", ("data/fashion-mnist",))  # as without Debian's package
    testbed = testbeds.build(name)
    for part in testbed.parts().values():
        steps = needed.steps_of(part)
        assert steps or not part.missing(), part
        for step in steps:
            if isinstance(step, needed.Repository):
                assert len(step.revision) == 40
            elif isinstance(step, needed.Archive):
                assert len(step.sha256) == 64
            elif isinstance(step, needed.File):
                assert len(step.sha256) >= 8
            else:
                assert step.remedy


def test_the_command_lists_what_is_missing_and_says_so_to_scripts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(cli, ["fetch", "celebahq-ddpm", "--dry-run", "--json"])
    assert outcome.exit_code == 1
    states = {one["what"]: one["state"] for one in json.loads(outcome.stdout)}
    assert states["CelebA-HQ"] == "by hand" and states[celebahq_ddpm.HUB_ID] == "to fetch"
    ready = CliRunner().invoke(cli, ["fetch", "digits-ddpm"])
    assert (ready.exit_code, ready.stdout) == (0, "digits-ddpm: nothing has to be fetched\n")
    assert CliRunner().invoke(cli, ["fetch", "nowhere"]).exit_code == 2
