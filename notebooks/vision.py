# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What data2vec 2.0 sees of a picture
#
# The student sees a few blocks of patches; the teacher sees everything; the student predicts the teacher's features of
# what it did not see. This notebook draws both on the photographs of the demo, with an encoder that is not trained.
# Put `d2v.load("runs/demo-vision")` in place of the untrained one after `make demo`; `d2v.probe(..., output=FOLDER)`
# draws the same pictures of any run in one call.
#
# The file `vision.ipynb` is made from `vision.py`: `make notebooks`.

# %%
from pathlib import Path
from tempfile import mkdtemp

import torch
from IPython.display import Image

from d2v.data.normalisation import IMAGENET
from d2v.demo.photos import prepare_photos
from d2v.modalities.vision.data import ImageNetDataModule
from d2v.modalities.vision.front_end import VisionFrontEnd
from d2v.model.encoder import Encoder
from d2v.model.masking import InverseBlockMasking
from d2v.monitoring.pictures import draw_feature_pca, draw_masks
from d2v.nn.transformer import Transformer

folder = Path(mkdtemp())
summary = prepare_photos(folder / "data", train_crops=20, val_crops=20)
print(", ".join(summary.found["classes"]))

# %% [markdown]
# A few crops, one of each photograph, as bytes [B, 3, H, W]; the encoder reads them normalised.

# %%
data = ImageNetDataModule(root=str(folder / "data"), image_size=32, batch_size=8, num_workers=0)
_, val_loader = data.probe_dataloaders(max_samples=8)
batch = next(iter(val_loader))
images = batch.inputs / 255
print(tuple(images.shape))

# %% [markdown]
# Each sample gets several masks; what is masked depends on the sample, the epoch and the seed alone.

# %%
masking = InverseBlockMasking(mask_ratio=0.75, block_size=3, adjust=0.1)
mask = masking(batch, grid=(8, 8), num_masks=4, seed=0)
Image(str(draw_masks(images, mask, (8, 8), folder / "masks.png")))

# %% [markdown]
# An encoder is the front end of a modality on a trunk. Features of every patch, as the colours of their first three
# principal components.

# %%
torch.manual_seed(0)
trunk = Transformer(width=96, depth=4, num_heads=4)
encoder = Encoder(lambda trunk: VisionFrontEnd(trunk, image_size=32, patch_size=4), trunk).eval()
features = encoder.embed(IMAGENET.apply(batch.inputs), pool="none")
Image(str(draw_feature_pca(images, {"untrained": features}, (8, 8), folder / "features.png")))
