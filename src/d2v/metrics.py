"""The names of all that is logged: the same in W&B, TensorBoard, metrics.csv, the progress bar and the pages."""

TRAIN_LOSS = "train/loss"
REGRESSION_LOSS = "train/regression_loss"
CLS_LOSS = "train/cls_loss"
TARGET_STD = "train/target_std"
PREDICTION_STD = "train/prediction_std"
TARGET_RANK = "train/target_effective_rank"
EXTRACTOR_RANK = "train/extractor_effective_rank"
MASKED_FRACTION = "train/masked_fraction"
EMA_DECAY = "train/ema_decay"
GRAD_NORM = "train/grad_norm"
LEARNING_RATE = "train/lr"
SKIPPED_UPDATES = "train/skipped_updates"
PADDING_FRACTION = "throughput/padding_fraction"
MFU = "throughput/mfu"
SKIPPED = "data/skipped"
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
        MASKS: "What is hidden from the student",
        TOKENS: "Tokens; those that are hidden from the student are marked",
        FEATURES: "Features: their three main directions as red, green and blue",
        SIMILARITY: "How alike the features of two places are",
        NEIGHBOURS: "Nearest neighbours: an input, and what is most like it",
        SPECTRUM: "Spectrum of the features",
    }


def per_second(unit: str) -> str:
    """Throughput in a unit of the data: images, audio_seconds or tokens."""
    return f"throughput/{unit}_per_second"


def of_encoder(metric: str, encoder: str) -> str:
    """The name of a metric that each encoder has for itself; a method's only encoder is called ``""``."""
    return f"{metric}/{encoder}" if encoder else metric
