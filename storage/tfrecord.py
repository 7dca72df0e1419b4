"""TFRecord: a stream of ``tf.train.Example``, with the field names that TFDS and others use.

A record is its length, a masked CRC32C of the length, the data, a masked CRC32C of the data: each sample's checksum is the
record's own. There is no random access. Written and read here without TensorFlow,
whose import would cost each worker seconds.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import xxhash
from numpy.typing import NDArray

from storage.base import Layout, Sample, ShardInfo
from storage.checksum import digest, file_chunks
from storage.errors import DataError
from storage.files import ReadFile, sync
from storage.media import header

if TYPE_CHECKING:
    import tensorflow as tf

_LENGTH, _SUM = struct.Struct("<Q"), struct.Struct("<I")
_BYTES_LIST, _INT64_LIST = 1, 3
"""What a tf.train.Feature holds, by the number of its field."""


class TfRecord:
    """The format ``tfrecord``."""

    name = "tfrecord"
    suffix = ".tfrecord"

    def write_shard(self, samples: Iterable[Sample], path: Path, layout: Layout) -> ShardInfo:  # noqa: ARG002
        """Write one file at ``path``, record by record."""
        count, size, state = 0, 0, xxhash.xxh3_128()
        with path.open("wb", buffering=1 << 18) as file:
            for sample in samples:
                before, image, after = _example(sample)
                length = _LENGTH.pack(len(before) + len(image) + len(after))
                for part in (length + _masked(length) + before, image.data, after + _masked(before, image, after)):
                    state.update(part)  # now, while it is in the processor's cache
                    size += file.write(part)
                count += 1
        sync(path)
        return ShardInfo(file="", samples=count, bytes=size, digest=f"xxh3:{state.hexdigest()}")

    def digest(self, path: Path, shard: ShardInfo) -> str:  # noqa: ARG002
        """What the shard's digest is now."""
        return digest(file_chunks(path))

    @contextmanager
    def open_shard(self, path: Path, shard: ShardInfo) -> Iterator[TfRecordShard]:
        """Open one file for streaming."""
        if not path.is_file():
            raise DataError(f"{path} is missing")
        with ReadFile(path) as file:
            yield TfRecordShard(path, shard, file)


TFRECORD = TfRecord()


class TfRecordShard:
    """One file, read from front to back; every record's checksums are verified on the way."""

    def __init__(self, path: Path, shard: ShardInfo, file: ReadFile) -> None:
        self.path = path
        self._samples = shard.samples
        self._file = file

    def __len__(self) -> int:
        return self._samples

    def __iter__(self) -> Iterator[Sample]:
        count = 0
        for count, data in enumerate(self._records(), 1):
            yield _sample(data, f"{self.path}: record {count - 1}")
        if count != self._samples:
            raise DataError(f"{self.path}: expected {self._samples} records, found {count}; the shard is damaged")

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Where each record's data begins, and how long it is, int64 (n, 2), as far as lengths can be trusted.

        A million records take half a second: lengths are followed first, and their checksums compared all at once.
        """
        end = os.fstat(self._file.fileno()).st_size
        if not end:
            return np.empty((0, 2), np.int64)
        at, found = 0, array("q")
        with mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ) as content:
            while at + 16 <= end:
                after = at + 16 + _LENGTH.unpack_from(content, at)[0]
                if after > end:
                    break
                found.append(at)
                at = after
            heads = np.frombuffer(found, np.int64)
            stored = np.frombuffer(content, np.uint8)
            sound = _sound_heads(stored[heads[:, None] + np.arange(12)])
            del stored
        count = len(heads) if sound.all() else int(np.argmin(sound))
        ends = np.append(heads[1:], at)[:count]
        return np.stack([heads[:count] + 12, ends - heads[:count] - 16], axis=1)

    @cached_property
    def crc32c(self) -> NDArray[np.uint32]:
        """CRC32C of each record's data, as it was written; only of those that can be found."""
        sums: list[int] = []
        with self.path.open("rb") as file:
            for start, length in self._places.tolist():
                file.seek(start + length)
                masked = (_SUM.unpack(file.read(4))[0] - 0xA282EAD8) & 0xFFFFFFFF
                sums.append(((masked >> 17) | (masked << 15)) & 0xFFFFFFFF)
        return np.array(sums, np.uint32)

    def stored(self, index: int) -> bytes:
        """The bytes that a record's CRC32C covers: its data."""
        start, length = self._places[index].tolist()
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def key(self, index: int) -> str:
        """The key of one sample. DataError if its record cannot be parsed."""
        return _sample(self.stored(index), f"{self.path}: record {index}").key

    def at(self, index: int) -> Sample:
        """One sample, found by where records begin; a first pass over their headers learns that. Several threads may call it."""
        return _sample(self._verified(index)[1], f"{self.path}: record {index}")

    def image_place(self, index: int) -> tuple[int, int, int]:
        """Start and size in the file of one image, and its label. DataError if its record is damaged."""
        start, data = self._verified(index)
        sample = _sample(data, f"{self.path}: record {index}")
        image = sample.image if isinstance(sample.image, bytes) else sample.image.tobytes()
        return start + data.index(image), len(image), sample.label

    def _verified(self, index: int) -> tuple[int, bytes]:
        """Where one record's data begins, and the data. DataError if they do not match their checksum."""
        if index >= len(self._places):
            raise DataError(
                f"{self.path}: record {index} cannot be found: the header of record {len(self._places)} is damaged"
            )
        start, length = self._places[index].tolist()
        data = os.pread(self._file.fileno(), length + 4, start)
        if len(data) != length + 4 or _masked(data[:-4]) != data[-4:]:
            raise DataError(f"{self.path}: record {index} does not match its checksum")
        return start, data[:-4]

    def _records(self) -> Iterator[bytes]:
        left = self.path.stat().st_size
        with self.path.open("rb", buffering=1 << 20) as file:
            number = 0
            while head := file.read(12):
                if len(head) < 12 or _masked(head[:8]) != head[8:]:
                    raise DataError(f"{self.path}: the header of record {number} is damaged")
                (length,) = _LENGTH.unpack(head[:8])
                left -= 12
                if length + 4 > left:
                    raise DataError(f"{self.path}: record {number} claims {length} bytes, {left} are left; truncated?")
                data = file.read(length)
                if _masked(data) != file.read(4):
                    raise DataError(f"{self.path}: record {number} does not match its checksum")
                left -= length + 4
                number += 1
                yield data


def records(path: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
    """One file as TensorFlow reads it: (number, record) from number ``start`` on, int64 and string."""
    import tensorflow as tf

    return tf.data.TFRecordDataset(path, buffer_size=1 << 20).enumerate(start)


def parse(serialized: tf.Tensor, image_size: tuple[int, int] | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Records (string, (n,)) at once: images, string (n,) or, raw, uint8 (n, height, width, 3); and int64 labels."""
    import tensorflow as tf

    image = "image/encoded" if image_size is None else "image/raw"
    features = {image: tf.io.FixedLenFeature([], tf.string), "image/class/label": tf.io.FixedLenFeature([], tf.int64)}
    parsed = tf.io.parse_example(serialized, features)
    images = parsed[image]
    if image_size is not None:
        images = tf.reshape(tf.io.decode_raw(images, tf.uint8), (-1, *image_size, 3))
    return images, parsed["image/class/label"]


def _sound_heads(heads: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether each record's length, 8 bytes, has the checksum behind it: uint8 (n, 12) in, bool (n,) out."""
    table: NDArray[np.uint32] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(0x82F63B78)
    crc = np.full(len(heads), 0xFFFFFFFF, np.uint32)
    for column in range(8):
        crc = table[(crc ^ heads[:, column]) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    masked = ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)
    return np.asarray(masked == np.ascontiguousarray(heads[:, 8:]).view("<u4")[:, 0])


def _masked(*parts: bytes | NDArray[np.uint8]) -> bytes:
    """The masked CRC32C of tensorflow/core/lib/hash/crc32c.h, over all parts in order."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return _SUM.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _example_type() -> Any:
    """The message tf.train.Example (tensorflow/core/example/example.proto), built from its description."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="feedbench/example.proto", package="feedbench", syntax="proto3")
    kind = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        added = file.message_type.add(name=name)
        for field, number, label, type_, type_name in fields:
            added.field.add(name=field, number=number, label=label, type=type_, type_name=type_name or None)
        return added

    one, many = kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    message("BytesList", ("value", 1, many, kind.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, many, kind.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, many, kind.TYPE_INT64, ""))
    feature = message(
        "Feature",
        ("bytes_list", 1, one, kind.TYPE_MESSAGE, ".feedbench.BytesList"),
        ("float_list", 2, one, kind.TYPE_MESSAGE, ".feedbench.FloatList"),
        ("int64_list", 3, one, kind.TYPE_MESSAGE, ".feedbench.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, many, kind.TYPE_MESSAGE, ".feedbench.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=kind.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=kind.TYPE_MESSAGE, type_name=".feedbench.Feature")
    message("Example", ("features", 1, one, kind.TYPE_MESSAGE, ".feedbench.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("feedbench.Example"))


def _example(sample: Sample) -> tuple[bytes, NDArray[np.uint8], bytes]:
    """A serialized tf.train.Example: what comes before the image's bytes, these as they are, and what comes after.

    The same as protobuf's own deterministic serialization, features sorted by name, which copies the image three times.
    """
    if isinstance(sample.image, bytes):
        name, image = "image/encoded", np.frombuffer(sample.image, np.uint8)
        kind, _, height, width = header(sample.image)
        own: dict[str, bytes | int] = {"image/format": kind.removeprefix("image/").encode()}
    else:
        name, image = "image/raw", sample.image.reshape(-1)
        height, width, channels = sample.image.shape
        own = {"image/format": b"raw", "image/channels": channels}
    values: dict[str, bytes | int] = {
        **own,
        "image/height": height,
        "image/width": width,
        "image/filename": sample.key.encode("utf-8", "surrogateescape"),
        "image/class/label": sample.label,
        "image/class/text": sample.key.split("/")[0].encode("utf-8", "surrogateescape"),
    }
    before = b"".join([_feature(key, values[key]) for key in sorted(values) if key < name])
    before += _opening(name, _BYTES_LIST, len(image))
    after = b"".join([_feature(key, values[key]) for key in sorted(values) if key > name])
    return _field(1, len(before) + len(image) + len(after)) + before, image, after


@lru_cache(256)
def _feature(name: str, value: bytes | int) -> bytes:
    """One entry of the map ``features``."""
    if isinstance(value, bytes):
        return _opening(name, _BYTES_LIST, len(value)) + value
    packed = _varint(value)
    return _opening(name, _INT64_LIST, len(packed)) + packed


@lru_cache(256)
def _opening(name: str, kind: int, length: int) -> bytes:
    """What comes before the ``length`` bytes of an entry's only value: in a list, in the Feature's ``kind``, in the entry."""
    opening = b""
    for number in (1, kind, 2):
        opening = _field(number, length + len(opening)) + opening
    key = name.encode()
    opening = _field(1, len(key)) + key + opening
    return _field(1, length + len(opening)) + opening


def _field(number: int, length: int) -> bytes:
    """What comes before a field of ``length`` bytes."""
    return bytes([number << 3 | 2]) + _varint(length)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    varint = bytearray()
    while value > 0x7F:
        varint.append(value & 0x7F | 0x80)
        value >>= 7
    varint.append(value)
    return bytes(varint)


def _sample(data: bytes, where: str) -> Sample:
    from google.protobuf.message import DecodeError

    try:
        feature = _example_type().FromString(data).features.feature
        key = feature["image/filename"].bytes_list.value[0].decode("utf-8", "surrogateescape")
        label = int(feature["image/class/label"].int64_list.value[0])
        encoded = feature["image/encoded"].bytes_list.value
        if encoded:
            return Sample(key, label, bytes(encoded[0]))
        shape = [int(feature[f"image/{side}"].int64_list.value[0]) for side in ("height", "width", "channels")]
        return Sample(key, label, np.frombuffer(feature["image/raw"].bytes_list.value[0], np.uint8).reshape(shape))
    except (DecodeError, IndexError, ValueError) as error:
        raise DataError(f"{where} is not an image example: {error}") from error
