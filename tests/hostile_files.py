"""Files whose headers lie and files that unpack to gigabytes, each small on the disk, for those who test reading."""

import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GB = 10**9


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """What a .npy file begins with; nothing says that the numbers follow."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def npz(path: Path, rows: int, width: int, zeros: int) -> None:
    """Features of which the header promises ``rows`` x ``width``, and ``zeros`` bytes follow, deflated."""
    block = bytes(1 << 24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("embedding.npy", "w", force_zip64=True) as file:
            file.write(npy_header((rows, width), "<f4"))
            for start in range(0, zeros, len(block)):
                file.write(block[: zeros - start])
        with archive.open("id.npy", "w") as file:
            np.save(file, np.array(["a", "b"]))


def equal_rows(path: Path, rows: int, length: int, column: str = "text") -> None:
    """A parquet of equal texts, which a dictionary and run lengths make a few bytes of."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a " * (length // 2)]))
    pq.write_table(pa.table({column: text}), path, compression="zstd", row_group_size=rows)


def long_texts(path: Path, length: int) -> None:
    """A parquet of two texts; a dictionary of such long ones, or statistics, would take seconds to make."""
    ends = pa.py_buffer(np.arange(3, dtype=np.int32) * length)
    texts = pa.StringArray.from_buffers(2, ends, pa.py_buffer(b"a " * length))
    pq.write_table(pa.table({"text": texts}), path, compression="lz4", use_dictionary=False, write_statistics=False)


def safetensors(path: Path, header: bytes, length: int | None = None, data: bytes = b"") -> None:
    """A header of the stated length, or of its own."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def safetensors_of(path: Path, offsets: dict[str, tuple[int, int]], shape: list[int]) -> None:
    """float32 tensors that lie where ``offsets`` says."""
    entries = {name: {"dtype": "F32", "shape": shape, "data_offsets": list(at)} for name, at in offsets.items()}
    safetensors(path, json.dumps(entries).encode(), data=bytes(64))


def wav(path: Path, rate: int = 16_000, channels: int = 1, stated: int = 3200, bits: int = 16) -> None:
    """3,200 bytes of sound under a header that says what it likes."""
    size = min(stated + 36, 2**32 - 1)
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * frame % 2**32, frame % 2**16, bits)
    path.write_bytes(
        b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data"
        + struct.pack("<I", stated) + bytes(range(256)) * 12 + bytes(128)
    )  # fmt: skip


def flac(path: Path, samples: int, rate: int = 16_000, channels: int = 1) -> None:
    """A FLAC whose first block states ``samples`` and no frame follows."""
    packed = rate << 44 | (channels - 1) << 41 | 15 << 36 | samples
    block = struct.pack(">HH", 4096, 4096) + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    path.write_bytes(b"fLaC" + bytes([0x80]) + len(block).to_bytes(3, "big") + block)


def png(path: Path, width: int, height: int, rows: int = 0) -> None:
    """A grey PNG of which ``rows`` rows of zeros are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, data = zlib.compressobj(1), b""
    for _ in range(rows):
        data += packer.compress(bytes(width + 1))
    data += packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def tiff(path: Path, width: int, height: int) -> None:
    """A TIFF with a lying size and no pixels."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    tags.append((279, 4, min(width * height, 2**32 - 1)))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4))


def gif(path: Path, width: int = 65535, height: int = 65535) -> None:
    """A GIF of one frame as large as its header can say, with no pixels."""
    size = struct.pack("<HH", width, height)
    path.write_bytes(b"GIF89a" + size + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + size + b"\0\x02\x02L\x01\0;")


def zeros(path: Path, size: int, line: int = 0) -> None:
    """``size`` bytes of text, packed as the ending says; a line feed after each ``line`` bytes, or none."""
    block = b"a" * (1 << 20)
    if line:
        block = (b"a" * (line - 1) + b"\n") * ((1 << 20) // line)
    opened = {".gz": gzip.open, ".xz": lzma.open}[path.suffix]
    options = {"compresslevel": 1} if path.suffix == ".gz" else {"preset": 0}
    with opened(path, "wb", **options) as file:  # type: ignore[operator]
        for _ in range(size // len(block)):
            file.write(block)


def escaping_tar(path: Path, picture: bytes) -> None:
    """Members that lead out of the folder, links, a device, and one picture as it should be."""
    with tarfile.open(path, "w") as archive:
        for name in ("../../escaped.png", "/tmp/escaped.png", "good.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            archive.addfile(info, io.BytesIO(picture))
        for name, kind, target in (
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("device.png", tarfile.CHRTYPE, ""),
            ("pipe.png", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.devmajor, info.devminor = kind, target, 1, 5
            archive.addfile(info)


def lying_tar(path: Path, size: int) -> None:
    """One member that says to have ``size`` bytes."""
    info = tarfile.TarInfo("huge.png")
    info.size = size
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def laughs(levels: int = 30) -> str:
    """YAML of a billion laughs: each anchor holds the one before it ten times."""
    lines = ["trainer: &l0 [lol]"]
    lines += [f"k{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"
