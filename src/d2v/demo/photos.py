"""The vision demo: crops of the colour photographs inside the scikit-image and scikit-learn packages."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from d2v.demo.demo_folder import DemoFolder, DemoSummary
from d2v.errors import UserError, how_to_install
from d2v.progress_bar import Progress

_SKIMAGE, _SKLEARN = "skimage/data", "sklearn/datasets/images"
PHOTOS = {  # class: (folder, file, origin and licence as the package states them)
    "astronaut": (_SKIMAGE, "astronaut.png", "Eileen Collins, NASA Great Images; no known restrictions, public domain"),
    "cat": (_SKIMAGE, "chelsea.png", "Stefan van der Walt; CC0"),
    "coffee": (_SKIMAGE, "coffee.png", "Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0"),
    "flower": (_SKLEARN, "flower.jpg", "https://www.flickr.com/photos/vultilion/6056698931; CC BY 2.0"),
    "galaxies": (_SKIMAGE, "hubble_deep_field.jpg", "Hubble eXtreme Deep Field, NASA; public domain"),
    "motorcycle": (_SKIMAGE, "motorcycle_left.png", "Middlebury 2014 stereo benchmark, Scharstein et al., GCPR 2014"),
    "retina": (_SKIMAGE, "retina.jpg", "Mikael Haeggstroem, doi:10.15347/wjm/2014.008; CC0"),
    "rocket": (_SKIMAGE, "rocket.jpg", "DSCOVR on Falcon 9, SpaceX; public domain"),
    "temple": (
        _SKLEARN,
        "china.jpg",
        "danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035; CC BY 2.0",
    ),
    "tissue": (_SKIMAGE, "ihc.png", "Center for Microscopy And Molecular Imaging; no known copyright restrictions"),
}
_FEWEST_PHOTOS = 8
# Columns of a photo as shares of its width. The strip between them belongs to neither, so that no two crops of
# different splits touch. Most of each subject lies on the left or in the middle.
_BANDS = {"train": (0.0, 0.68), "val": (0.71, 1.0)}
# A crop is 1 to 2 times as large as what is saved of it.
_LARGEST_ZOOM = 2.0
# Standard deviation of grey values (0..255) below which a crop shows nothing: the black rim of the retina.
_PLAIN = 6.0


def prepare_photos(
    root: str | Path, image_size: int = 48, train_crops: int = 400, val_crops: int = 100, seed: int = 0
) -> DemoSummary:
    """Write ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` below ``root``; the photo is the class.

    A finished tree of the same parameters is left alone, an unfinished or different one is made anew.

    Args:
        root: folder to fill; it must be new, empty or of an earlier call.
        image_size: side of the saved pictures in pixels.
        train_crops: images of each photo for training.
        val_crops: images of each photo for validation.
        seed: decides the crops.

    Raises:
        UserError: if the photographs are not installed, the folder holds something else, or a photo is too small.
    """
    photos = find_photos()
    if min(image_size, train_crops, val_crops) < 1:
        raise UserError(
            f"image_size {image_size}, train_crops {train_crops}, val_crops {val_crops}: all must be above 0."
        )
    counts = {"train": train_crops, "val": val_crops}
    wanted = {"image_size": image_size, "crops": counts, "seed": seed, "classes": list(photos)}
    folder = DemoFolder(root, "vision", wanted, list(_BANDS))
    found = folder.finished()
    created = found is None
    if found is None:
        folder.clear()
        with Progress(total=sum(counts.values()) * len(photos), desc="cutting photographs", unit="image") as bar:
            for number, (name, file) in enumerate(photos.items()):
                with Image.open(file) as opened:
                    photo = opened.convert("RGB")
                for split_number, (split, crops) in enumerate(counts.items()):
                    generator = np.random.default_rng([seed, number, split_number])
                    boxes = choose_boxes(photo, split, crops, image_size, generator)
                    _write_crops(photo, boxes, image_size, folder.root / split / name)
                    bar.update(crops)
        (folder.root / "README.md").write_text(_readme(list(photos)))
        numbers = {split: crops * len(photos) for split, crops in counts.items()}
        found = folder.finish({"classes": list(photos), **numbers})
    text = (
        f"{found['train']:,} crops to train on and {found['val']:,} to validate, of {len(photos)} photographs "
        f"({', '.join(photos)})"
    )
    return DemoSummary(folder.root, created, found, text)


def _write_crops(photo: Image.Image, boxes: list[tuple[int, int, int, int]], image_size: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    for index, box in enumerate(boxes):
        crop = photo.resize((image_size, image_size), Image.Resampling.LANCZOS, box=box)
        crop.save(folder / f"{index:05d}.jpg", quality=95, subsampling=0)


def find_photos() -> dict[str, Path]:
    """Files of the photographs by class; found by path, since scikit-image's own functions may download."""
    for package, command in (("skimage", how_to_install("demo")), ("sklearn", "pip install scikit-learn")):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"The demo photographs come with {package}, which is not installed: {command}")
    found = {}
    for name, (folder, file, _) in PHOTOS.items():
        package, _, below = folder.partition("/")
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        path = Path(spec.submodule_search_locations[0]) / below / file
        if path.is_file():
            found[name] = path
    if len(found) < _FEWEST_PHOTOS:
        raise UserError(
            f"Only {len(found)} of {len(PHOTOS)} demo photographs are in the installed scikit-image and scikit-learn. "
            "Install versions that ship them: pip install 'scikit-image>=0.25,<0.27' 'scikit-learn>=1.6'"
        )
    return found


def choose_boxes(
    photo: Image.Image, split: str, count: int, image_size: int, generator: np.random.Generator
) -> list[tuple[int, int, int, int]]:
    """Squares (left, top, right, bottom) in pixels, wholly inside the split's band of the photo.

    Raises:
        UserError: if the band is narrower than ``image_size``.
    """
    grey = np.asarray(photo.convert("L"), dtype=np.float32)
    start, end = (round(share * photo.width) for share in _BANDS[split])
    largest = min(round(image_size * _LARGEST_ZOOM), end - start, photo.height)
    if largest < image_size:
        raise UserError(f"image_size {image_size} is too large for the demo photographs; {largest} works.")
    boxes = []
    for _ in range(count):
        for _attempt in range(20):
            side = int(generator.integers(image_size, largest + 1))
            left = int(generator.integers(start, end - side + 1))
            top = int(generator.integers(photo.height - side + 1))
            if grey[top : top + side, left : left + side].std() >= _PLAIN:
                break
        boxes.append((left, top, left + side, top + side))
    return boxes


def _readme(classes: list[str]) -> str:
    rows = "\n".join(f"| {name} | {PHOTOS[name][1]} | {PHOTOS[name][2]} |" for name in classes)
    return (
        "# Demo images of d2v\n\nCrops of photographs that ship inside the scikit-image and scikit-learn packages, "
        "written by `d2v prepare demo vision`.\nTraining and validation crops come from the left and the right part of "
        "each photo, which do not touch. The class is the photo.\n\n"
        f"| class | file | origin and licence, as the package states them |\n| --- | --- | --- |\n{rows}\n"
    )
