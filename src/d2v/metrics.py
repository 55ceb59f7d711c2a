"""The names of all that is logged: the same in W&B, TensorBoard, metrics.csv, the progress bar and the pictures."""

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


def per_second(unit: str) -> str:
    """Throughput in a unit of the data: images, audio_seconds or tokens."""
    return f"throughput/{unit}_per_second"


def of_encoder(metric: str, encoder: str) -> str:
    """The name of a metric that each encoder has for itself; a method's only encoder is called ``""``."""
    return f"{metric}/{encoder}" if encoder else metric
