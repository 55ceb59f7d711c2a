"""What is wrong with the data of a run."""

from d2v import metrics
from d2v.monitoring.faults import limits
from d2v.monitoring.faults.rule import Rule
from d2v.monitoring.faults.view import View


def _repeated(view: View) -> float | None:
    found = [view.median(metric) for metric in (metrics.DUPLICATE_FILES, metrics.DUPLICATE_FRACTION)]
    return max((value for value in found if value is not None), default=None)


def _pixels_outside(view: View) -> float | None:
    """How far dark and bright pixels lie outside [0, 1]."""
    low, high = view.median(metrics.PIXEL_LOW), view.median(metrics.PIXEL_HIGH)
    return None if low is None or high is None else max(-low, high - 1)


def _range_of_pixels(view: View) -> float | None:
    low, high = view.values(metrics.PIXEL_LOW), view.values(metrics.PIXEL_HIGH)
    return max(high) - min(low) if len(high) >= 3 else None


def _pitch(view: View) -> float | None:
    """In the middle of at least five batches, which may be of few voices each."""
    return view.median(metrics.PITCH) if len(view.values(metrics.PITCH)) >= 5 else None


def _speed(view: View) -> float | None:
    """Pitch of speech in Hz, where its spectrum is as flat as that of speech which is played too fast."""
    bands = view.median(metrics.HIGH_BANDS)
    return None if bands is None or bands < limits.FLAT_BANDS else _pitch(view)


_NORMALISE = (
    "The encoder expects (pixel - mean) / std with the mean and std of its checkpoint, or of ImageNet: leave "
    "data.mean and "
    "data.std out, so that they are taken from there; a data set or transform of your own should give bytes, or floats "
    "that are normalised like this"
)
_RATE = (
    "Check that the rate in the files' headers is the one they were recorded with (`d2v prepare speech --input DIR` "
    "counts "
    "the rates), and give waves from a data set of your own at 16 kHz. If these are no grown-up voices, nothing is "
    "wrong"
)

RULES = [
    Rule(
        "repeated-inputs",
        _repeated,
        limits.REPEATED,
        "the same inputs come again and again",
        "{value:.0%} of a batch are copies of another sample in it (healthy runs: at most {healthy:.0%})",
        "Look at the files under data.root for copies, and take them out (fdupes -r DIR lists them)",
        causes=("alike-pictures", "few-tokens", "constant-inputs"),
    ),
    Rule(
        "constant-inputs",
        lambda view: view.median(metrics.CONSTANT_FRACTION),
        limits.CONSTANT,
        "inputs are empty",
        "{value:.0%} of the samples of a batch hold one value only, or one token nearly everywhere (healthy runs: at "
        "most "
        "{healthy:.0%}): blank pictures, silence or blank pages",
        "Look at the data under data.root, and take what is blank out; in text, also see that documents are no white "
        "space",
        causes=("few-tokens", "coarse-sound"),
    ),
    Rule(
        "alike-pictures",
        lambda view: view.median(metrics.LIKENESS),
        limits.LIKENESS,
        "all pictures are alike",
        "small copies of the pictures of a batch have a mean correlation of {value:.2f} (healthy runs: at most "
        "{healthy:.2f}), as if one picture was repeated",
        "Look at the pictures under data.root: is it one picture, or one frame of a film, again and again? If they "
        "are meant "
        "to be alike (X-rays, aligned faces), nothing is wrong",
    ),
    Rule(
        "few-tokens",
        lambda view: view.median(metrics.TOKEN_TYPES),
        limits.TOKEN_TYPES,
        "the text has hardly any different tokens",
        "a batch holds {value:.0f} types as if equally frequent (healthy runs: at least {healthy:.0f})",
        "Print some of the text under data.root: labels, numbers or one line again and again are no text to learn "
        "from; and "
        "check data.tokenizer, if you named one",
    ),
    Rule(
        "coarse-sound",
        lambda view: view.median(metrics.LEVELS),
        limits.LEVELS,
        "sound is silent or stored with 8 bits",
        "a quarter of a second takes {value:.0f} different values (healthy runs: at least {healthy:.0f})",
        "Take recordings with 16 bits and at a usual level (`soxi FILE` shows both); silence that is amplified, and "
        "steps of "
        "8 bits, are learned as if they were speech",
    ),
    Rule(
        "clipped-sound",
        lambda view: view.median(metrics.CLIPPED_FRACTION),
        limits.CLIPPED,
        "sound is clipped",
        "{value:.1%} of a clip's values lie at its very top or bottom (healthy runs: at most {healthy:.2%})",
        "Record or convert with a lower level: what is cut off cannot be restored afterwards",
    ),
    Rule(
        "sound-too-fast",
        _pitch,
        limits.FAST,
        "speech is played too fast",
        "its pitch is {value:.0f} Hz in the middle (healthy runs: at most {healthy:.0f})",
        _RATE,
    ),
    Rule(
        "sound-too-fast",
        _speed,
        limits.FAST_AND_FLAT,
        "speech is played too fast",
        "its pitch is {value:.0f} Hz in the middle, and its upper frequencies are nearly as strong as its lower ones",
        _RATE,
    ),
    Rule(
        "sound-too-slow",
        _pitch,
        limits.SLOW,
        "speech is played too slowly",
        "its pitch is {value:.0f} Hz in the middle (healthy runs: at least {healthy:.0f})",
        _RATE,
    ),
    Rule(
        "spectrum-upside-down",
        lambda view: view.median(metrics.HIGH_BANDS),
        limits.HIGH_BANDS,
        "the spectrum is upside down",
        "the upper half of the frequencies is louder than the lower, by {value:.2f} deviations (healthy runs: at most "
        "{healthy:.2f}); natural sound is the other way round",
        "Let low frequencies come first: [B, 1, frames, mel bins] from low to high",
    ),
    Rule(
        "pixels-not-normalised",
        _pixels_outside,
        limits.OUTSIDE,
        "pixels are not normalised as the encoder expects",
        "they lie {value:.2g} outside of what black and white would be (healthy runs: at most {healthy:.2g})",
        _NORMALISE,
    ),
    Rule(
        "pixels-not-normalised",
        _range_of_pixels,
        limits.RANGE,
        "pixels are not normalised as the encoder expects",
        "they cover {value:.0%} of the way from black to white (healthy runs: at least {healthy:.0%})",
        _NORMALISE,
    ),
    Rule(
        "padding",
        lambda view: view.median(metrics.PADDING_FRACTION),
        limits.PADDING,
        "most of a batch is padding",
        "{value:.0%} of what is computed is padding (healthy runs: at most {healthy:.0%})",
        "Give data.max_seconds or block_size nearer to the usual length of a sample",
    ),
    Rule(
        "small-batch",
        lambda view: view.median(metrics.SAMPLES),
        limits.SAMPLES,
        "a step sees hardly any samples",
        "{value:.0f} a step (healthy runs: at least {healthy:.0f})",
        "Raise data.batch_size, or data.global_batch_size where memory does not allow it",
    ),
]
