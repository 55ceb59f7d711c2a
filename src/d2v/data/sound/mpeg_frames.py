"""The true length of MPEG audio (MP3), which libsndfile guesses where no header states it, or believes where one lies.

Layout of frames: ISO/IEC 11172-3 and 13818-3; of the header that states a length: Xing's, which LAME calls Info.
"""

from typing import BinaryIO, NamedTuple

from d2v.errors import BrokenSample

_KBPS_1 = {
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
"""Rates of MPEG 1, by layer."""
_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS_2 = {1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256), 2: _LOW, 3: _LOW}
"""Rates of MPEG 2 and 2.5."""
_RATES = (44_100, 48_000, 32_000)
_LARGEST_FRAME = 4_096
_MOST_GARBAGE = 65_536
_TAGS_AT_END = 4_096  # ID3v1, lyrics and small APE tags
_HEADERS = (b"Xing", b"Info")
_STATES_FRAMES, _STATES_BYTES = 1, 2


class Frame(NamedTuple):
    """What the four bytes at the beginning of a frame say."""

    size: int
    """Bytes."""
    num_samples: int
    sample_rate: int
    header_at: int
    """Where the header that states a length lies, if this frame holds it."""


def frame_at(data: bytes, start: int) -> Frame | None:
    """The frame that begins at this byte; None if none does."""
    head = int.from_bytes(data[start : start + 4], "big")
    version, layer, rate = head >> 19 & 3, 4 - (head >> 17 & 3), head >> 10 & 3
    bits = head >> 12 & 15
    if head >> 21 != 0x7FF or version == 1 or layer == 4 or rate == 3 or bits in (0, 15):
        return None
    sample_rate, kbps = _RATES[rate], _KBPS_1[layer][bits]
    if version != 3:
        sample_rate, kbps = sample_rate >> (2 - version // 2), _KBPS_2[layer][bits]  # version 2 is 2, and 0 is 2.5
    num_samples = 1152
    if layer == 1:
        num_samples = 384
    elif layer == 3 and version != 3:
        num_samples = 576
    slot = 4 if layer == 1 else 1
    size = (num_samples // 8 // slot * kbps * 1000 // sample_rate + (head >> 9 & 1)) * slot
    is_mono = head >> 6 & 3 == 3
    side = {(True, False): 32, (False, True): 9}.get((version == 3, is_mono), 17)
    return Frame(size, num_samples, sample_rate, start + 4 + side)


def with_true_length(file: BinaryIO) -> bytes | None:
    """The content of an MP3 file with a header that states its true length; None if nothing has to be mended.

    Headers are missing in files cut from others or written by recorders, and wrong in files put one behind the other.
    Only a file that may be one of these is read to its end.

    Raises:
        BrokenSample: the file is shorter than its header says.
    """
    start = _after_tags(file)
    file.seek(start)
    head = file.read(_MOST_GARBAGE + 2 * _LARGEST_FRAME)
    first = _first_frame(head)
    if first is None:
        return None  # libsndfile will say what it is
    frame = frame_at(head, first)
    assert frame is not None
    stated, stated_bytes = _stated(head, frame)
    rest = file.seek(0, 2) - start - first
    if first == 0 and stated and 0 <= rest - stated_bytes <= _TAGS_AT_END:
        return None
    file.seek(start + first)
    data = file.read()
    count, sizes = _count(data, frame.size if stated else 0)
    if stated and count < 0.99 * stated:
        seconds = frame.num_samples / frame.sample_rate
        raise BrokenSample(
            f"it is truncated: it ends after {count * seconds:.2f} s, and its header says {stated * seconds:.2f} s"
        )
    constant = not stated and max(sizes, default=0) - min(sizes, default=0) <= 1
    if first == 0 and (constant or (stated and count <= 1.01 * stated)):
        return None
    return _header(data, count) + data[frame.size if stated else 0 :]


def _tag_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins here; 0 if none does."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 127
    return 10 + size


def _after_tags(file: BinaryIO) -> int:
    """Where the ID3v2 tags at the beginning end."""
    position = file.seek(0)
    while size := _tag_size(file.read(10)):
        position = file.seek(position + size)
    return position


def _first_frame(data: bytes) -> int | None:
    """Where the first frame that another one follows begins, behind at most 64 KB of garbage."""
    start = data.find(b"\xff")
    while 0 <= start < _MOST_GARBAGE:
        frame = frame_at(data, start)
        if frame is not None and (frame_at(data, start + frame.size) or start + frame.size == len(data)):
            return start
        start = data.find(b"\xff", start + 1)
    return None


def _stated(data: bytes, frame: Frame) -> tuple[int, int]:
    """Frames and bytes that the header in the first frame states; 0 for what it does not state."""
    numbers = [0, 0]
    if data[frame.header_at : frame.header_at + 4] in _HEADERS:
        flags = data[frame.header_at + 7]
        position = frame.header_at + 8
        for number, flag in enumerate((_STATES_FRAMES, _STATES_BYTES)):
            if flags & flag:
                numbers[number] = int.from_bytes(data[position : position + 4], "big")
                position += 4
    return numbers[0], numbers[1]


def _count(data: bytes, start: int) -> tuple[int, set[int]]:
    """Number of whole frames from a byte on, and their sizes."""
    count, sizes = 0, set()
    while 0 <= start < len(data):
        frame = frame_at(data, start)
        if frame is None:
            tag = _tag_size(data[start : start + 10])
            start = data.find(b"\xff", start + max(tag, 1))
            continue
        is_sound = data[frame.header_at : frame.header_at + 4] not in _HEADERS  # those of joined files are skipped
        start += frame.size
        if is_sound and start <= len(data):
            count += 1
            sizes.add(frame.size)
    return count, sizes


def _header(data: bytes, count: int) -> bytes:
    """A silent frame like the first one that states the number of frames behind it."""
    head = bytearray(data[:4])
    head[1] |= 1  # no checksum
    for bits in range(1, 15):
        head[2] = head[2] & 0x0D | bits << 4
        frame = frame_at(bytes(head), 0)
        if frame is not None and frame.size >= frame.header_at + 12:
            break
    assert frame is not None
    xing = b"Xing" + _STATES_FRAMES.to_bytes(4, "big") + count.to_bytes(4, "big")
    silent = (bytes(head).ljust(frame.header_at, b"\0") + xing).ljust(frame.size, b"\0")
    # A small ID3v2 tag comes first: without a name of a file, libsndfile knows MP3 by it.
    return b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + silent
