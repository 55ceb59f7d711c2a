"""A recipe in a checkpoint can name the parts of the method, and nothing else."""

import pytest
from torch import nn

from d2v.checkpoints.recipe import build, build_method, node
from d2v.errors import UserError
from d2v.model.heads import Head, LinearHead
from d2v.model.targets import TopKTargets


def test_a_part_is_built() -> None:
    assert isinstance(build(node("d2v.model.heads.LinearHead"), Head, 8), LinearHead)
    assert build(node("d2v.model.targets.TopKTargets", top_k=3), TopKTargets).top_k == 3


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "torch.nn.Linear",
        "d2v.checkpoints.load.load",  # a function of ours
        "d2v.checkpoints.recipe.importlib",  # a module that a file of ours imports
        "d2v.model.heads.nn",
        "d2v.checkpoints.folder.shutil.rmtree",
        "d2v.checkpoints.load.Path",  # a class that is not ours
        "d2v.model.data2vec.LinearHead",
        "d2v.model.heads.Nothing",
        "d2v.nowhere.Thing",
        "d2v.",
        "",
    ],
)
def test_nothing_else_can_be_named(class_path: str) -> None:
    with pytest.raises(UserError, match="class_path"):
        build(node(class_path), nn.Module)


@pytest.mark.parametrize("recipe", [None, "d2v.model.heads.LinearHead", {}, {"class_path": 3}])
def test_what_is_no_recipe(recipe: object) -> None:
    with pytest.raises(UserError, match="class_path"):
        build(recipe, nn.Module)  # type: ignore[arg-type]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UserError, match=r"TopKTargets.*kernel"):
        build(node("d2v.model.targets.TopKTargets", top_k=1, kernel=3), TopKTargets)
    with pytest.raises(UserError, match="no 'student'"):
        build_method({})
