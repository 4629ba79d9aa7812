"""Data behind URLs, read from a real server of the S3 protocol on this machine, and by http."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from distrain.cli.main import main
from distrain.data import storage
from distrain.data.formats import tfrecord
from distrain.errors import BadInput
from tests.data.datasets import FORMATS, Options, pixels, provider_of

COUNT, SIZE = 6, 10
BUCKET = "pictures"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose files are also in a bucket, under the same names."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    patch = pytest.MonkeyPatch()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        patch.setenv(name, value)
    folder = tmp_path_factory.mktemp("bucket")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for name in ("image_pairs", "npy", "hdf5_chunked", "tfrecords", "tfrecords_gzip"):
        (folder / name).mkdir()
        FORMATS[name](folder / name, *pixels(COUNT, SIZE))
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, str(path.relative_to(folder)))
    yield folder
    patch.undo()
    server.stop()
    storage._known_filesystem.cache_clear()


URL = f"s3://{BUCKET}"
REMOTE: dict[str, Options] = {
    "image_pairs": {
        "provider": "image_pairs",
        "images": f"{URL}/image_pairs/image/*.png",
        "labels": f"{URL}/image_pairs/label/{{000..005}}.png",
        "classes": 3,
    },
    "npy": {"provider": "arrays", "images": f"{URL}/npy/x?.npy", "labels": f"{URL}/npy/y?.npy", "classes": 3},
    "hdf5_chunked": {
        "provider": "hdf5",
        "files": f"{URL}/hdf5_chunked",
        "image_array": "set/x",
        "label_array": "set/y",
        "classes": 3,
    },
    "tfrecords": {"provider": "tfrecords", "files": f"{URL}/tfrecords/packed"},
    "tfrecords_gzip": {"provider": "tfrecords", "files": f"{URL}/tfrecords_gzip/packed/*.gz"},
}


@pytest.mark.parametrize("name", REMOTE)
def test_what_is_in_a_bucket_is_read_as_if_it_were_here(name: str, bucket: Path) -> None:
    images, labels = pixels(COUNT, SIZE)
    provider = provider_of(REMOTE[name])
    assert len(provider) == COUNT
    for index in range(COUNT):
        example = provider.read(index)
        np.testing.assert_array_equal(example.image[:, :, 0], images[index] / np.float32(255))
        np.testing.assert_array_equal(example.label, labels[index])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"files": f"{URL}/nothing"}, f"{URL}/nothing"),
        ({"files": f"{URL}/tfrecords/*.none"}, "no files, expected"),
        ({"files": "s3://no-such-bucket/shards"}, "no-such-bucket"),
        ({"files": "gopher://host/shards"}, "gopher"),
        ({"files": "s3://"}, "s3://"),
    ],
)
def test_what_is_not_there_is_one_line(options: dict[str, str], words: str, bucket: Path) -> None:
    with pytest.raises(BadInput, match=words.replace("?", ".")) as caught:
        provider_of({"provider": "tfrecords", **options})
    assert len(str(caught.value).splitlines()) == 1


def test_objects_that_go_or_change_under_a_run_are_told(bucket: Path) -> None:
    client = boto3.client("s3")
    for path in (bucket / "tfrecords" / "packed").iterdir():
        client.upload_file(str(path), BUCKET, f"copy/{path.name}")
    provider = provider_of({"provider": "tfrecords", "files": f"{URL}/copy"})
    provider.read(0)
    shard = "part-00000-of-00003.tfrecord"
    client.put_object(Bucket=BUCKET, Key=f"copy/{shard}", Body=(bucket / "tfrecords/packed" / shard).read_bytes()[:99])
    with pytest.raises(BadInput, match=f"{shard}"):
        provider.read(0)
    client.delete_object(Bucket=BUCKET, Key=f"copy/{shard}")
    with pytest.raises(BadInput, match=f"{shard}: (no such file|cannot be read)"):
        provider.read(0)


def test_shards_in_a_bucket_are_indexed_into_a_local_folder(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{URL}/tfrecords/packed/part-*.tfrecord"
    assert main(["data", "index", url]) == 2
    assert "expected --index-dir with a local folder" in capsys.readouterr().out
    assert main(["data", "index", url, "--index-dir", str(tmp_path)]) == 0
    provider = provider_of({"provider": "tfrecords", "files": url, "index": str(tmp_path)})
    assert len(provider) == COUNT
    assert provider.read(1).label.shape == (SIZE, SIZE)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (bucket / "tfrecords" / "packed" / path.name).read_bytes()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        pass


def test_files_of_a_web_server_are_read(tmp_path: Path) -> None:
    """One that cannot give parts of a file, as Python's own cannot: whole images still come."""
    images, labels = pixels(COUNT, SIZE)
    FORMATS["image_pairs"](tmp_path, images, labels)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        names = {kind: f"{base}/{kind[:-1]}/{{000..005}}.png" for kind in ("images", "labels")}
        provider = provider_of({"provider": "image_pairs", **names, "classes": 3})
        for index in range(COUNT):
            np.testing.assert_array_equal(provider.read(index).label, labels[index])
        missing = dict.fromkeys(names, f"{base}/image/009.png")
        with pytest.raises(BadInput, match=r"009.png: no such file"):
            provider_of({"provider": "image_pairs", **missing, "classes": 3})
        server.shutdown()


def test_what_a_protocol_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    storage._known_filesystem.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(BadInput, match="expected the extra 'gcs' of distrain installed"):
        provider_of({"provider": "tfrecords", "files": "gs://bucket/shards"})


def test_a_record_in_a_bucket_is_read_alone(bucket: Path) -> None:
    shard = tfrecord.open_shard(f"{URL}/tfrecords/packed/part-00001-of-00003.tfrecord")
    local = tfrecord.open_shard(str(bucket / "tfrecords" / "packed" / "part-00001-of-00003.tfrecord"))
    assert [bytes(shard.record(n)) for n in range(2)] == [bytes(local.record(n)) for n in range(2)]
