"""What a user can get wrong: each gives exit code 2 and one message with the key or file, the value and what to do."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from d2v.commands.early_checks import checked_words
from d2v.configs import SHIPPED
from d2v.errors import UserError

D2V = Callable[..., tuple[int, str, str]]

FILES = {
    "syntax.yaml": "model: [1, 2\ntrainer: {\n",
    "list.yaml": "- 1\n",
    "section.yaml": "modle: {}\n",
    "number.yaml": "trainer: 3\n",
    "trainer_key.yaml": "trainer: {max_stepz: 3}\n",
    "student_key.yaml": "model: {init_args: {student: {trunk: {widht: 64}}}}\n",
    "callback.yaml": "trainer: {callbacks: [{class_path: NoSuch}]}\n",
    "data_only.yaml": "data: {class_path: d2v.modalities.vision.data.ImageNetDataModule, init_args: {root: x}}\n",
    "model_only.yaml": "data: null\n",
    "twice.yaml": "trainer:\n  max_steps: 3\n  max_steps: 4\n",
    "function.yaml": "model: {init_args: {head: {class_path: os.system, init_args: {command: touch ran}}}}\n",
    "hub.yaml": "model: {init_args: {head: {class_path: torch.hub.load, init_args: {repo_or_dir: a/b}}}}\n",
    "junk.ckpt": "not a checkpoint",
    "empty/.keep": "",
}

# What follows `d2v fit` and a whole recipe, and the message.
VALUES = [
    ("--config nope.yaml", r"--config nope\.yaml: neither a file here nor one that ships .*v2/vision\.yaml"),
    ("--config empty", r"--config empty: is a folder"),
    ("--config", r"--config: a value is missing"),
    ("--config --trainer.max_steps 3", r"--config: a value is missing"),
    ("--config=syntax.yaml", r"--config syntax\.yaml: line 2, column 8: not valid YAML"),
    ("-c list.yaml", r"--config list\.yaml: holds a list"),
    ("--config junk.ckpt", r"--config junk\.ckpt: holds a str"),
    ("--config section.yaml", r"--config section\.yaml: there is no section 'modle'; there are: .*model"),
    ("--config number.yaml", r"--config number\.yaml: trainer is 3"),
    ("--config trainer_key.yaml", r"trainer\.max_stepz: there is no such key; did you mean max_steps"),
    ("--config student_key.yaml", r"model\.student\.trunk\.widht: there is no such key; did you mean width\?"),
    ("--config callback.yaml", r"trainer\.callbacks: NoSuch names no class"),
    ("--config model_only.yaml", r"data: the config has no such section"),
    ("--foo 1", r"--foo: there is no such option"),
    ("stray", r"stray: belongs to no option"),
    ("--trainer.max_step 3", r"--trainer\.max_step: there is no such option; did you mean max_steps"),
    ("--data.rot x", r"data\.rot: ImageNetDataModule has no such key; did you mean root\?"),
    ("--model.studnt x", r"model\.studnt: Pretraining has no such key; did you mean student\?"),
    ("--model.student.trunk.widht 3", r"trunk\.widht: Pretraining has no such key; did you mean width\?"),
    ("--model.ema.begin 1", r"model\.ema\.begin: Pretraining has no such key; there are: start, end"),
    (
        "--model.student.trunk.activation 0.3",
        r"trunk\.activation: Pretraining has no such key; did you mean activation_",
    ),
    ("--model.student.trunk.wid=32", r"trunk\.wid: Pretraining has no such key; did you mean width"),
    ("--model.ema.an 0.7", r"model\.ema\.an: Pretraining has no such key; there are: start, end, anneal"),
    ("--model.collapse.min_t 0.5", r"model\.collapse\.min_t: Pretraining has no such key"),
    ("--model.masking.mask_rat 0.5", r"model\.masking\.mask_rat: .*did you mean mask_ratio"),
    ("--data.batch 4", r"data\.batch: ImageNetDataModule has no such key"),
    ("--model.masking.mask_ration 0.5", r"model\.masking\.mask_ration: .*did you mean mask_ratio\?"),
    ("--model.student.front.class_path d2v.No", r"model\.student\.front: .*module 'd2v' has no attribute 'No'"),
    ("--data.augment nowhere.Blur", r"data\.augment: No module named 'nowhere'; give the full path"),
    (
        "--model.student.front torch.nn.Linear",
        r"model\.student\.front: torch\.nn\.Linear is not a subclass of FrontEnd",
    ),
    ("--model.masking InverseMasking", r"model\.masking: InverseMasking names no class; write its full path"),
    ("--model.student.trunk.width wide", r"model\.student\.trunk\.width: expected a whole number, not wide"),
    ("--model.optimizer.lr fast", r"model\.optimizer\.lr: expected a number(?!.*Tensor.*Tensor).*, not fast"),
    ("--model.ema.start a", r"model\.ema\.start: expected a number, not a"),
    (
        "--model.student.front.masked_input hide",
        r"model\.student\.front\.masked_input: expected one of drop, replace, not hide",
    ),
    ("--data.root [1,2]", r"data\.root: expected a text or null, not \[1, 2\]"),
    ("--seed_everything x", r"seed_everything: expected .*a whole number, not x"),
    ("--trainer.precision 12", r"trainer\.precision: expected one of .*bf16-mixed.*, not 12"),
    ("--trainer.max_steps -1", r"trainer\.max_steps is not set"),
    ("--trainer.devices 4096", r"trainer\.devices is 4096, and this machine has \d+ CPU cores"),
    ("--trainer.strategy foo", r"trainer: .*strategy='foo'"),
    ("--trainer.log_every_n_steps 0", r"trainer\.log_every_n_steps is 0: it must be at least 1"),
    (
        "--trainer.default_root_dir junk.ckpt",
        r"trainer\.default_root_dir junk\.ckpt: cannot be written \(Not a dir",
    ),
    ("--run_name ..", r"--run_name \.\.: must be a plain name"),
    ("--checkpoint.dirpath x", r"checkpoint\.dirpath is x: checkpoints lie in the run.s folder"),
    ("--weights_only false", r"--weights_only false would run code"),
    ("--run_name ../x", r"--run_name \.\./x: must be a plain name"),
    ("--checkpoint.keep -5", r"checkpoint\.keep is -5: it must be -1"),
    ("--checkpoint.every_n_train_steps 0", r"checkpoint\.every_n_train_steps is 0: it must be at least 1"),
    ("--data.batch_size 0", r"data\.batch_size is 0: it must be at least 1"),
    ("--data.batch_size -4", r"data\.batch_size is -4"),
    (
        "--data.global_batch_size 10",
        r"data\.global_batch_size 10 cannot be met.*8 or 12, or data\.batch_size to 2 or 5",
    ),
    ("--data.num_workers -1", r"data\.num_workers is -1: it must be 0"),
    ("--data.min_crop_scale 2", r"data\.min_crop_scale is 2\.0: it must lie above 0"),
    ("--data.root nowhere", r"data\.root nowhere does not exist"),
    ("--data.root empty", r"data\.root: no images .* in empty"),
    ("--data.root junk.ckpt", r"data\.root junk\.ckpt is a file"),
    ("--data.image_size 30", r"30 x 30 pixels do not divide into patches of 4: set data\.image_size"),
    ("--model.masking.mask_ratio 1.5", r"model\.masking: mask_ratio must lie between 0 and 1, not 1\.5"),
    ("--model.student.trunk.num_heads 5", r"model\.student\.trunk: width 16 is not a multiple of num_heads 5"),
    ("--model.student.front.patch_size 5", r"model\.student\.front: image_size 16 does not divide into patches of 5"),
    ("--model.student.front.num_cls 0", r"model: cls_loss needs a CLS token"),
    ("--model.targets.top_k 7", r"model: targets\.top_k is 7, but the student has only 2 blocks"),
    ("--model.ema.start 1.2", r"model\.ema: EMA decays lie between 0 and 1, not 1\.2"),
    ("--model.schedule.warmup -1", r"model\.schedule: warmup is -1: give a share of the run"),
    ("--model.head.groups 7", r"model\.head: .*divisible by groups"),
    ("--model.optimizer.betas [1.5,0.9]", r"model\.optimizer: Invalid beta parameter at index 0: 1\.5"),
    ("--model.init_from nope", r"model\.init_from nope: no such file"),
    ("--resume nope.ckpt", r"--resume nope\.ckpt: no checkpoint there; give its file or a run's folder, or `auto`"),
    ("--resume junk.ckpt", r"--resume junk\.ckpt: is damaged \(it is cut off, or no checkpoint\); give another"),
    ("--resume auto --ckpt_path x.ckpt", r"--resume auto and --ckpt_path x\.ckpt: give one of them"),
    ("--config twice.yaml", r"--config twice\.yaml: line 3, column 3: not valid YAML \(max_steps is there twice\)"),
    ("--config function.yaml", r"model\.head: os\.system is no part of a training .*, and its code would run"),
    ("--config hub.yaml", r"model\.head: torch\.hub\.load is no part of a training .*--allow torch"),
    ("--model.optimizer.lr 0", r"model\.optimizer\.lr is 0\.0: it must be above 0"),
    ("--model.student.trunk.layer_drop 2", r"model\.student\.trunk\.layer_drop is 2\.0: it must lie between 0 and 1"),
    ("--model.student.trunk.drop_path 1", r"model\.student\.trunk\.drop_path is 1\.0: it must lie between 0 and 1"),
    ("--model.student.trunk.eps -1", r"model\.student\.trunk\.eps is -1\.0: it must lie above 0 and below 1"),
    ("--model.student.trunk.num_heads -2", r"model\.student\.trunk\.num_heads is -2: it must be at least 1"),
    ("--model.student.front.prenet_depth -1", r"model\.student\.front\.prenet_depth is -1: it must lie between 0"),
    ("--model.head.decoder_width 0", r"model\.head\.decoder_width is 0: it must lie between 1 and 16,384"),
    (
        "--model.ema.start 0.99 --model.ema.end 0.9",
        r"model\.ema\.start is 0\.99 and model\.ema\.end is 0\.9: .*the smaller",
    ),
    ("--trainer.accumulate_grad_batches 0", r"trainer\.accumulate_grad_batches is 0: it must be at least 1"),
    ("--trainer.gradient_clip_val -1", r"trainer\.gradient_clip_val is -1: it must be 0 or more"),
    ("--seed_everything -1", r"seed_everything is -1: it must lie between 0 and 4,294,967,295"),
    ("--data.num_workers 5000", r"data\.num_workers is 5000: it must fit this machine with its \d+ CPU cores"),
    (
        "--model.head d2v.model.heads.ConvDecoder1d",
        r"model\.head is ConvDecoder1d, which is for sequences \(speech, text\), and the tokens are of pictures: take",
    ),
    ("--model.masking d2v.model.masking.SpanMasking", r"model\.masking is SpanMasking, which is for sequences"),
    ("--model.masking d2v.model.masking.Masking", r"model\.masking: d2v.model.masking.Masking is only a base"),
    ("--model.masking.block_size 50", r"model\.masking\.block_size is 50, .* 4 x 4 patches: .*at most 4"),
    (
        "--model.masking d2v.model.masking.BlockMasking",
        r"model\.masking\.min_block is 16, and no rectangle may have more than 10 patches, .*at most 10",
    ),
    (
        "--model.masking.mask_ratio 0.999",
        r"model: .*or the data: mask_ratio 0\.999 leaves nothing to see of 16 patches",
    ),
    ("--model.student.front.masked_input replace", r"model: head ConvDecoder2d fills the gaps .*masked_input to drop"),
    ("--model.optimizer.weight_decay .nan", r"model\.optimizer\.weight_decay is nan: it must be a number"),
    ("--trainer.gradient_clip_val .inf", r"trainer\.gradient_clip_val is inf: it must be a number"),
    ("--data.global_batch_size 1e30", r"data\.global_batch_size is 1e\+30: it must be a number, and none above 1e\+15"),
    ("--data.batch_size 1000000000", r"data\.batch_size and data\.global_batch_size: one step would read 12 samples"),
    ("--data.std [-1,1,1]", r"data\.std is -1\.0: it must be above 0"),
    ("--data.image_size 1000000", r"data\.image_size is 1000000: it must lie between 1 and 16,384"),
    ("--model.student.trunk.depth 1000000000", r"trunk\.depth is 1000000000: it must lie between 1 and 1,000"),
    ("--model.student.trunk.mlp_ratio 0.01", r"model\.student\.trunk: mlp_ratio 0\.01 leaves nothing of width 16"),
    ("--model.schedule.start_factor 5", r"model\.schedule\.start_factor is 5\.0: it must lie between 0 and 1"),
    ("--model.optimizer torch.optim.SparseAdam", r"model: .*SparseAdam does not support dense gradients"),
    ("--data.root /dev/null", r"data\.root /dev/null is neither a folder nor a file"),
    ("--trainer.check_val_every_n_epoch -1", r"trainer\.check_val_every_n_epoch is -1: it must be at least 1"),
    ("--trainer.val_check_interval 0", r"trainer\.val_check_interval is 0: it must be above 0"),
    ("--trainer.min_steps 10", r"trainer\.min_steps is 10 and trainer\.max_steps is 3: leave the first one out"),
    ("--trainer.overfit_batches 1", r"trainer\.overfit_batches is 1: .*data\.max_samples"),
    ("--trainer.strategy ddp_spawn", r"trainer\.strategy is ddp_spawn: set it to ddp"),
    ("--trainer.num_nodes 2", r"trainer\.num_nodes is 2: nothing says where the others are"),
    ("--trainer.max_time 00:00:00:00", r"trainer\.max_time is 0 or less: give a time"),
    ("--trainer.enable_checkpointing false", r"trainer\.enable_checkpointing is false: checkpoints .*leave it out"),
    ("--trainer.barebones true", r"trainer\.barebones is true: .*leave it out"),
    ("--trainer null", r"trainer: must be a section with keys: write --trainer\.KEY VALUE, or leave it out"),
    ("--checkpoint null", r"checkpoint: must be a section with keys"),
    ("--seed_everything true", r"seed_everything is true: give a whole number"),
    ("--length 0.0001epochs", r"length is 0\.0001 epochs: one step is 0\.333 epochs already"),
    ("--data.mean [0.5]", r"data\.mean: expected 3 values or null, not \[0\.5\]"),
    (
        "--model.ema.start 1 --model.ema.end 1",
        r"model\.ema: a decay of 1 throughout: the teacher would never move; give a smaller start",
    ),
    ("--model.collapse.after -1", r"model\.collapse\.after is -1: it must be 0 or more"),
    ("--model.collapse.min_target_std -1", r"model\.collapse\.min_target_std is -1\.0: it must be 0 or more"),
    ("--model.loss null", r"model: Pretraining needs loss, such as --model\.loss VALUE"),
    ("--model.head null", r"model: Pretraining needs head, such as --model\.head VALUE"),
    ("--model.ema null", r"model: Pretraining needs ema\.start, .* such as --model\.ema\.start VALUE"),
    ("--model.optimizer null", r"model: Pretraining needs optimizer, such as"),
    ("--model.optimizer torch.optim.Optimizer", r"model\.optimizer: Optimizer needs defaults: .*name another class"),
    ("--model.optimizer torch.optim.LBFGS", r"model\.optimizer: LBFGS .*such as torch\.optim\.AdamW"),
    ("--model.optimizer.betas [0.9]", r"model\.optimizer\.betas: expected 2 values, not \[0\.9\]"),
    ('--trainer.max_time {"hours":-1}', r"the config cannot be read: "),
    (
        "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor train/los",
        r"monitor of EarlyStopping is train/los: this run has val/loss",
    ),
    (
        "--config v2/sizes/tiny.yaml",
        r"tiny\.yaml is for v2/vision\.yaml, and .*learn/vision_cifar10\.yaml is another recipe: leave one of them out",
    ),
]
COMMANDS = [
    (
        "fit --config v2/sizes/large.yaml --config v2/vision.yaml",
        r"large\.yaml is for v2/vision\.yaml, and stands before a recipe, which would overrule it",
    ),
    ("train", r"there is no command 'train'; there are: fit, "),
    ("fit", r"model: the config has no such section; .*--config vision\.yaml"),
    ("fit --config data_only.yaml", r"model: the config has no such section"),
    ("validate --config learn/vision_cifar10.yaml --resume auto", r"--resume continues `d2v fit`; .*--ckpt_path"),
    ("predict --config learn/vision_cifar10.yaml --data.root . --ckpt_path no.ckpt", r"no\.ckpt: no checkpoint there"),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)


@pytest.mark.parametrize(("options", "message"), VALUES, ids=[options for options, _ in VALUES])
def test_a_bad_value_is_named(d2v: D2V, tiny: list[str], tmp_path: Path, options: str, message: str) -> None:
    check(*d2v("fit", *tiny, *options.split(" ")), message)
    assert not list(tmp_path.glob("runs/*")), "a run that could not start left a folder"


@pytest.mark.parametrize(("command", "message"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_bad_command_is_named(d2v: D2V, command: str, message: str) -> None:
    check(*d2v(*command.split(" ")), message)


def check(code: int, out: str, err: str, message: str) -> None:
    last = err.strip().splitlines()[-1]
    assert code == 2, err
    assert last.startswith("d2v: error: ")
    assert re.search(message, last), last
    assert len(last) < 500
    assert not re.search(r"Traceback|<class|Namespace\(|Union|typing\.", err), err


def test_a_path_of_the_command_that_cannot_be_written_is_named(d2v: D2V, tree: Path) -> None:
    recipe = ("--config", "learn/vision_cifar10.yaml", "--data.root", tree)
    code, out, err = d2v("probe", "--checkpoint", "random", *recipe, "--output", "junk.ckpt")
    check(code, out, err, r"--output junk\.ckpt: File exists")


def test_a_run_that_lost_its_config_is_named(d2v: D2V, tmp_path: Path) -> None:
    (tmp_path / "lost" / "checkpoints").mkdir(parents=True)
    check(*d2v("fit", "--resume", "lost"), r"--resume lost: lost/config\.yaml is missing; .*--config NAME\.yaml")


def test_an_overlay_lies_on_a_recipe_of_its_classes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text((SHIPPED / "v2" / "vision.yaml").read_text().replace("root: ", f"root: {tmp_path} # "))
    words = ["--config", str(mine), "--config"]
    assert checked_words("fit", [*words, "v2/sizes/tiny.yaml"])
    with pytest.raises(UserError, match=r"speech_tiny\.yaml is for v2/speech\.yaml, .*mine\.yaml is another"):
        checked_words("fit", [*words, "v2/sizes/speech_tiny.yaml"])


def test_debug_shows_the_traceback(d2v: D2V) -> None:
    code, _, err = d2v("fit", "--config", "nope.yaml", "--debug")
    assert code == 2
    assert "Traceback" in err
