"""The speech demo: a small transcribed data set of synthetic speech, laid out as LibriSpeech.

The voices are those of eSpeak NG (GPL-3; see ``espeak.py``), which only this demo uses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2v.data.sound.audio_reader import SAMPLE_RATE, resample
from d2v.demo.demo_folder import DemoFolder, DemoSummary
from d2v.demo.espeak import Utterance, require_espeak, synthesise
from d2v.demo.sentences import DIGITS, write_sentences
from d2v.errors import UserError

# (voice, words a minute, pitch) of each speaker; LibriSpeech's own speakers have lower numbers than FIRST_SPEAKER.
# Left out are the variants with breath (f2, f3, f5, ...): eSpeak NG makes breath from other random numbers each time.
VOICES = (
    ("en-us", 160, 45),
    ("en-us+linda", 165, 50),
    ("en", 150, 35),
    ("en+m2", 170, 60),
    ("en-gb-scotland", 155, 40),
    ("en-gb-x-rp+f4", 150, 50),
    ("en-gb-x-gbclan", 165, 55),
    ("en-gb-x-gbcwmd+m7", 155, 30),
    ("en-029", 145, 50),
    ("en-us-nyc+belinda", 170, 45),
    ("en-us+klatt3", 150, 65),
    ("en-us+Michael", 175, 40),
    ("en-us+Annie", 150, 40),
    ("en-029+Andrea", 160, 60),
    ("en-us+quincy", 145, 35),
    ("en-gb-scotland+aunty", 165, 55),
)
HELD_OUT_VOICES = (
    ("en-us+m5", 155, 50),
    ("en+f1", 160, 45),
    ("en-us-nyc+Reed", 150, 55),
    ("en-gb-x-rp+steph", 165, 50),
)
FIRST_SPEAKER = 9001
_CHAPTERS = {"train": 1, "val": 2}
# What makes clips of one voice and sentence differ, uniform between these: relative rate, pitch, peak in decibels, and
# noise in decibels below the speech.
_RATE, _PITCH, _PEAK, _NOISE = (0.9, 1.1), (-6, 6), (-12.0, -1.0), (-45.0, -25.0)


@dataclass(frozen=True)
class Clip:
    """One file to write."""

    path: Path
    """Below the root."""
    speaker: int
    text: str


def prepare_voices(
    root: str | Path,
    train_sentences: int = 60,
    val_sentences: int = 10,
    train_digits: int = 4,
    val_digits: int = 8,
    seed: int = 0,
    silence: tuple[float, float] = (0.05, 0.25),
) -> DemoSummary:
    """Write sentences as a LibriSpeech tree, and isolated digits as folders of classes, all FLAC at 16 kHz.

    ``train/`` and ``val/`` hold SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and the transcripts of the chapter: the same
    voices say other sentences. ``digits/train/ZERO/`` and ``digits/val/ZERO/``, ... hold digits; those to validate are
    said by voices that are nowhere else. A finished tree of the same parameters is left alone, an unfinished or
    different one is made anew; the same parameters give the same files.

    Args:
        root: folder to fill; it must be new, empty or of an earlier call.
        train_sentences: sentences of each voice for training.
        val_sentences: sentences of each voice for validation.
        train_digits: how often each voice says each digit for training.
        val_digits: how often each held-out voice says each digit for validation.
        seed: decides the sentences and how they are said.
        silence: least and most seconds of it at either end of a clip.

    Raises:
        UserError: eSpeak NG is missing, or the folder holds something else.
    """
    counts = {
        "train_sentences": train_sentences,
        "val_sentences": val_sentences,
        "train_digits": train_digits,
        "val_digits": val_digits,
    }
    if min(counts.values()) < 1:
        raise UserError(f"{', '.join(f'{name} {count}' for name, count in counts.items())}: all must be above 0.")
    voices = (*VOICES, *HELD_OUT_VOICES)
    wanted = {**counts, "seed": seed, "silence": silence, "voices": voices}
    folder = DemoFolder(root, "speech", wanted, ("train", "val", "digits"))
    found = folder.finished()
    created = found is None
    if found is None:
        require_espeak()
        clips = _plan(counts, seed)
        folder.clear()
        hours = _write_clips(folder.root, clips, seed, silence) / 3600
        _write_transcripts(folder.root, clips)
        (folder.root / "README.txt").write_text(_readme(counts, hours))
        (folder.root / "SPEAKERS.TXT").write_text(_speakers())
        found = {"hours": hours, "sentences": {}, "digits": {}}
        for split, speakers in (("train", VOICES), ("val", HELD_OUT_VOICES)):
            found["sentences"][split] = counts[f"{split}_sentences"] * len(VOICES)
            found["digits"][split] = counts[f"{split}_digits"] * len(DIGITS) * len(speakers)
        found = folder.finish(found)
    sentences, digits = found["sentences"], found["digits"]
    text = (
        f"{found['hours'] * 60:.0f} minutes of synthetic speech by {len(voices)} voices of eSpeak NG (GPL-3): "
        f"{sentences['train']:,} sentences to train on and {sentences['val']:,} to validate, {digits['train']:,} and "
        f"{digits['val']:,} digits"
    )
    return DemoSummary(folder.root, created, found, text)


def _plan(counts: dict[str, int], seed: int) -> list[Clip]:
    """All files of the tree; no sentence comes twice."""
    num_sentences = (counts["train_sentences"] + counts["val_sentences"]) * len(VOICES)
    sentences = iter(write_sentences(num_sentences, seed))
    held_out = FIRST_SPEAKER + len(VOICES)
    speakers = range(FIRST_SPEAKER, held_out)
    clips = []
    for split, chapter in _CHAPTERS.items():
        for speaker in speakers:
            for number in range(counts[f"{split}_sentences"]):
                path = Path(split, str(speaker), str(chapter), f"{speaker}-{chapter}-{number:04d}.flac")
                clips.append(Clip(path, speaker, next(sentences)))
    for split in _CHAPTERS:
        for digit in DIGITS:
            for speaker in speakers:
                for number in range(counts[f"{split}_digits"]):
                    path = Path("digits", split, digit, f"{speaker}-{digit}-{number:02d}.flac")
                    clips.append(Clip(path, speaker, digit))
        speakers = range(held_out, held_out + len(HELD_OUT_VOICES))
    return clips


def _write_clips(root: Path, clips: list[Clip], seed: int, silence: tuple[float, float]) -> float:
    """Synthesise, vary, resample and write; returns the seconds of speech written."""
    import soundfile
    import torch

    from d2v.progress_bar import Progress

    seconds = 0.0
    generator = np.random.default_rng([seed, 1])
    spoken = synthesise([_utterance(clip, generator) for clip in clips])
    for clip, (samples, rate) in zip(
        Progress(clips, desc="synthesising speech (eSpeak NG)", unit="clip"), _checked(spoken, clips), strict=True
    ):
        samples = _vary(resample(torch.from_numpy(samples), rate).numpy(), silence, generator)
        path = root / clip.path
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        seconds += len(samples) / SAMPLE_RATE
    return seconds


def _utterance(clip: Clip, generator: np.random.Generator) -> Utterance:
    voice, rate, pitch = (*VOICES, *HELD_OUT_VOICES)[clip.speaker - FIRST_SPEAKER]
    return Utterance(
        clip.text.lower(), voice, round(rate * generator.uniform(*_RATE)), pitch + round(generator.uniform(*_PITCH))
    )


def _checked(spoken: Iterator[tuple[np.ndarray, int]], clips: list[Clip]) -> Iterator[tuple[np.ndarray, int]]:
    """Raise a UserError if something that was spoken is silence."""
    for clip, (samples, rate) in zip(clips, spoken, strict=True):
        if not len(samples) or np.abs(samples).max() < 0.01:
            raise UserError(f"eSpeak NG made no sound of {clip.text!r} for {clip.path}; install espeakng-loader anew")
        yield samples, rate


def _vary(speech: np.ndarray, silence: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """Silence at both ends, a little noise, and a peak well below full scale."""
    ends = [round(generator.uniform(*silence) * SAMPLE_RATE) for _ in range(2)]
    padded = np.pad(speech, ends)
    level = speech.std() * 10 ** (generator.uniform(*_NOISE) / 20)
    padded = padded + level * generator.standard_normal(len(padded), dtype=np.float32)
    return padded * (10 ** (generator.uniform(*_PEAK) / 20) / np.abs(padded).max())


def _write_transcripts(root: Path, clips: list[Clip]) -> None:
    """Write one file in each folder of clips: on each line the name of a clip, a space, its words."""
    folders: dict[Path, list[str]] = {}
    for clip in clips:
        folders.setdefault(_transcript(clip), []).append(f"{clip.path.stem} {clip.text}\n")
    for path, lines in folders.items():
        (root / path).write_text("".join(lines))


def _transcript(clip: Clip) -> Path:
    """``SPEAKER-CHAPTER.trans.txt`` as in LibriSpeech, ``ZERO.trans.txt`` of digits."""
    folder = clip.path.parent
    name = folder.name
    if clip.path.parts[0] in _CHAPTERS:
        name = f"{folder.parent.name}-{name}"
    return folder / f"{name}.trans.txt"


def _speakers() -> str:
    """The content of LibriSpeech's file of this name: one line a speaker."""
    lines = ["; ID | SUBSETS | VOICE\n"]
    for number, (voice, rate, pitch) in enumerate((*VOICES, *HELD_OUT_VOICES)):
        subsets = "train, val, digits/train" if number < len(VOICES) else "digits/val"
        said_by = f"eSpeak NG {voice}, {rate} words a minute, pitch {pitch} (synthetic)"
        lines.append(f"{FIRST_SPEAKER + number} | {subsets} | {said_by}\n")
    return "".join(lines)


def _readme(counts: dict[str, int], hours: float) -> str:
    return (
        "SYNTHETIC SPEECH for trying d2v out, and no recordings of people.\n\n"
        f"{hours * 60:.0f} minutes, written by `d2v prepare demo speech`: said by the program eSpeak NG\n"
        "(https://github.com/espeak-ng/espeak-ng, GPL version 3 or later) as the package espeakng-loader carries it,\n"
        "resampled to 16 kHz. Accuracies and word error rates on it say nothing about real speech.\n\n"
        f"train/, val/    a LibriSpeech tree: {len(VOICES)} voices, each with {counts['train_sentences']} and "
        f"{counts['val_sentences']} sentences of a small grammar;\n"
        "                the same voices in both, no sentence twice\n"
        f"digits/train/   isolated digits by the same voices, a folder a digit\n"
        f"digits/val/     isolated digits by {len(HELD_OUT_VOICES)} voices that are nowhere else\n"
        "SPEAKERS.TXT    which voice each speaker is\n"
    )
