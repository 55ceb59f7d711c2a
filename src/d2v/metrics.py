"""The names of all that is logged: the same in W&B, TensorBoard, metrics.csv, the progress bar and the pages."""

TRAIN_LOSS = "train/loss"
REGRESSION_LOSS = "train/regression_loss"
CLS_LOSS = "train/cls_loss"
EXPLAINED = "train/explained_variance"  # share of the targets' variance; 0: as well as their mean
TARGET_STD = "train/target_std"
TARGET_SIZE = "train/target_size"  # deviation within a target; 1 behind a layer norm
PREDICTION_STD = "train/prediction_std"
TARGET_RANK = "train/target_effective_rank"
EXTRACTOR_RANK = "train/extractor_effective_rank"
MASKED_FRACTION = "train/masked_fraction"
EMA_DECAY = "train/ema_decay"
GRAD_NORM = "train/grad_norm"
UPDATE_SIZE = "train/update_size"  # of one optimizer step, as a share of the student's weights
WEIGHT_SIZE = "train/weight_size"  # root mean square of the student's weights
WEIGHT_GROWTH = "train/weight_growth"  # this, over what it was before the first step
STILL_FRACTION = "train/still_fraction"  # of the student's weights, those that the step did not move
TEACHER_DISTANCE = "train/teacher_distance"  # from the student, as a share of its weights
TEACHER_RATE = "train/teacher_rate"  # share of the way to the student that the teacher went in the step
LEARNING_RATE = "train/lr"
SKIPPED_UPDATES = "train/skipped_updates"
LOSS_SCALE = "train/loss_scale"  # of fp16
PADDING_FRACTION = "throughput/padding_fraction"
WAIT_FRACTION = "throughput/wait_fraction"  # share of the time in which training waits for data
MFU = "throughput/mfu"
SKIPPED = "data/skipped"
SAMPLES = "data/samples_per_step"  # of all devices
DUPLICATE_FRACTION = "data/duplicate_fraction"  # of a batch's inputs, those equal to another
DUPLICATE_FILES = "data/duplicate_files"  # share of a batch's files whose content is that of another
CONSTANT_FRACTION = "data/constant_fraction"  # share of inputs that hold one value, or nearly only one token
LIKENESS = "data/likeness"  # mean correlation of a batch's pictures, made small
PIXEL_LOW = "data/pixel_low"  # dark and bright pixels in [0, 1], if they are normalised as the encoder expects
PIXEL_HIGH = "data/pixel_high"
LEVELS = "data/levels"  # different values among 4,096 neighbouring ones of a waveform
CLIPPED_FRACTION = "data/clipped_fraction"  # of a waveform's values, those at its very top or bottom
PITCH = "data/pitch"  # of voiced speech, in Hz
HIGH_BANDS = "data/high_bands"  # mean level of the upper half of a spectrum less that of the lower half, in deviations
TOKEN_TYPES = "data/token_types"  # of a batch: exponential of the entropy of how often each occurs
VAL_LOSS = "val/loss"
TEST_LOSS = "test/loss"
KNN_TOP1 = "probe/knn_top1"
LINEAR_TOP1 = "probe/linear_top1"
MASKS = "media/masks"
TOKENS = "media/tokens"
FEATURES = "media/features"
SIMILARITY = "media/similarity"
NEIGHBOURS = "media/neighbours"
SPECTRUM = "media/spectrum"


def media_titles() -> dict[str, str]:
    """What is written above each kind of media, in the order in which one looks at them."""
    return {
        MASKS: "Hidden from the student",
        TOKENS: "Tokens, hidden ones marked",
        FEATURES: "Features as colours: their three main directions",
        SIMILARITY: "How alike two places are",
        NEIGHBOURS: "Nearest neighbours",
        SPECTRUM: "Spectrum of the features",
    }


def per_second(unit: str) -> str:
    """Throughput in a unit of the data: images, audio_seconds or tokens."""
    return f"throughput/{unit}_per_second"


def of_encoder(metric: str, encoder: str) -> str:
    """The name of a metric that each encoder has for itself; a method's only encoder is called ``""``."""
    return f"{metric}/{encoder}" if encoder else metric
