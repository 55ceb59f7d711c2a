"""Speech from text by eSpeak NG, in a process of its own.

eSpeak NG is licensed under the GPL, version 3 or later. It comes with the package ``espeakng-loader``, an optional
extra (``pip install espeakng-loader``) that nothing but the speech demo uses. It runs as a separate program, which
reads requests and writes samples: its state is global and not safe between threads, and a crash of the library must not
take the caller with it.
"""

import ctypes
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Never

import numpy as np

from d2v.errors import UserError, how_to_install

PACKAGE = "espeakng_loader"
# From espeak-ng's speak_lib.h: samples come by a callback, before espeak_Synth returns; text is UTF-8.
_SYNCHRONOUS, _UTF8 = 2, 1
_RATE, _VOLUME, _PITCH = 1, 2, 3
# Loud voices clip at the default of 100.
_QUIET = 60


@dataclass(frozen=True)
class Utterance:
    """What to say, and how."""

    text: str
    voice: str
    """A voice of eSpeak NG, and after a + one of its variants: ``en-us+f3``."""
    rate: int
    """Words a minute, 80 to 450; 175 is usual."""
    pitch: int
    """0 to 99; 50 is usual."""


def require_espeak() -> None:
    """Raise UserError, saying what to install, where eSpeak NG is missing."""
    if importlib.util.find_spec(PACKAGE) is None:
        command = how_to_install("demo-speech")
        raise UserError(f"Synthetic speech needs eSpeak NG (GPL-3), which is not installed: {command}")


def synthesise(utterances: Sequence[Utterance]) -> Iterator[tuple[np.ndarray, int]]:
    """Say one utterance after the other.

    Yields:
        Samples, float32 in [-1, 1], and how many there are a second (22,050).

    Raises:
        UserError: eSpeak NG is not installed, does not run on this machine, or has no such voice.
    """
    require_espeak()
    with tempfile.TemporaryFile() as requests, tempfile.TemporaryFile() as errors:
        pickle.dump(utterances, requests)
        requests.seek(0)
        # The pipe holds the child back, so that samples do not pile up.
        command = [sys.executable, "-m", __name__]
        with subprocess.Popen(command, stdin=requests, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            try:
                for number, utterance in enumerate(utterances):
                    try:
                        samples, rate = pickle.load(process.stdout)
                    except (EOFError, pickle.UnpicklingError):  # it ended early
                        _fail(process.wait(), errors, f"utterance {number}: {utterance}")
                    yield np.frombuffer(samples, dtype=np.int16).astype(np.float32) / 32768, rate
            finally:
                process.kill()


def _fail(code: int, errors: IO[bytes], what: str) -> Never:
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
    command = how_to_install("demo-speech")
    raise UserError(f"eSpeak NG failed with exit code {code} at {what}: {last}. Install it anew: {command}")


def _serve() -> None:
    """The program: reads all utterances from stdin, and writes 16-bit samples and their rate to stdout, one by one."""
    utterances = pickle.load(sys.stdin.buffer)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the library prints must not get between the samples
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    pieces: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def collect(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    number, pointer = ctypes.c_uint, ctypes.c_void_p
    library.espeak_Synth.argtypes = [pointer, ctypes.c_size_t, number, ctypes.c_int, number, number, pointer, pointer]
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if sample_rate <= 0:
        sys.exit("espeak_Initialize found no data")
    library.espeak_SetSynthCallback(collect)
    for utterance in utterances:
        if library.espeak_SetVoiceByName(utterance.voice.encode()):
            sys.exit(f"it has no voice {utterance.voice}")
        for parameter, value in ((_RATE, utterance.rate), (_PITCH, utterance.pitch), (_VOLUME, _QUIET)):
            library.espeak_SetParameter(parameter, value, 0)
        pieces.clear()
        text = utterance.text.encode()
        if library.espeak_Synth(text, len(text) + 1, 0, 0, 0, _UTF8, None, None):
            sys.exit(f"it could not say {utterance.text!r}")
        library.espeak_Synchronize()
        pickle.dump((b"".join(pieces), sample_rate), out)
    out.flush()


if __name__ == "__main__":
    _serve()
