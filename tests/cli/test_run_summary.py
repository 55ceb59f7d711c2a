"""What a run says at its end."""

from pathlib import Path

import lightning as L

from d2v.commands.run_summary import summary


class OfSeveral(L.LightningModule):
    encoders = {"vision": None, "speech": None}


def test_names_what_was_measured_first_and_last_and_the_commands_that_read_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,train/loss,val/loss,probe/knn_top1\n0,3.0,,22.5\n10,5.0,2.0,\n20,,,41.25\n"
    )
    told = summary(tmp_path, L.LightningModule())
    assert told[0] == "learned: probe/knn_top1 22.5 -> 41.25"
    assert told[1] == f"next:    d2v probe --checkpoint {tmp_path} --data.root LABELLED"
    assert told[-1] == f"         d2v report {tmp_path}"


def test_a_run_that_measured_nothing_says_so(tmp_path: Path) -> None:
    told = summary(tmp_path, OfSeveral())
    assert told[0].startswith("learned: not measured on the way; `d2v probe` does")
    assert "--modality vision" in told[1]
