"""`d2v configs`, and the help for the classes that a recipe names."""

import yaml
from command_line import D2V

from d2v.configs import SHIPPED


def test_every_config_has_a_line(d2v: D2V) -> None:
    code, out, err = d2v("configs")
    assert (code, err) == (0, "")
    listed = {}
    for line in out.splitlines():
        if line.startswith("  "):
            name, _, text = line.strip().partition(" ")
            listed[name] = text.strip()
    assert set(listed) == {path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*.yaml")}
    assert min(map(len, listed.values())) > 5, "a header begins with what the file is"
    assert out.index("  v2/vision.yaml ") < out.index("overlays: ") < out.index("  v2/sizes/large.yaml ")


def test_one_config_is_shown_whole(d2v: D2V) -> None:
    code, out, _ = d2v("configs", "v2/vision.yaml")
    assert code == 0
    assert "# Published: " in out
    assert set(yaml.safe_load(out)) == {"model", "data", "trainer"}
    code, _, err = d2v("configs", "v2/visio")
    assert code == 2
    assert "d2v: error: v2/visio: neither a file here nor one that ships with d2v" in err
    assert "v2/vision.yaml" in err


def test_help_for_the_classes_of_a_recipe(d2v: D2V) -> None:
    recipe = ["fit", "--config", "v2/vision.yaml"]
    code, out, err = d2v(*recipe, "--model.help")
    assert (code, err) == (0, "")
    assert "--model.num_masks" in out
    assert "--data.min_crop_scale" in d2v(*recipe, "--data.help")[1]
    assert "Side of a kept block" in d2v("fit", "--model.masking.help", *recipe[1:])[1]
    code, _, err = d2v("fit", "--model.help")
    assert code == 2
    assert "give one too, --config NAME.yaml --model.help" in err
    assert "--model.help, --data.help" in " ".join(d2v("fit", "--help")[1].split())
    assert "min_crop_scale: " in d2v(*recipe, "--print_config")[1]  # although the recipe's data are not here
