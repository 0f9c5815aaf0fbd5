"""A small classifier that is right most of the time, and images for it: made here, in a second."""

from __future__ import annotations

import numpy as np
import timm
import torch
from PIL import Image

import pinas_models  # noqa: F401 - registers the models

# Seven classes, so that top-5 means something; not in alphabetical order, so that matching by name shows.
LABELS = ('red', 'lime', 'blue', 'grey', 'cyan', 'pink', 'gold')
COLOURS = np.array(
    [(200, 60, 60), (90, 200, 80), (70, 80, 200), (120, 120, 120), (80, 190, 190), (220, 130, 150), (190, 170, 40)]
)


def picture(label, seed):
    """A picture of a class: its colour inside, another class's around it, and noise."""
    rng = np.random.default_rng((label, seed))
    height, width = rng.integers(40, 90, 2)
    y, x = np.mgrid[0:height, 0:width]
    inside = (abs(y - height / 2) < height * 0.38) & (abs(x - width / 2) < width * 0.38)
    other = COLOURS[rng.integers(len(COLOURS))]
    pixels = np.where(inside[..., None], COLOURS[label], other) + rng.normal(0, 110, (height, width, 3))
    return Image.fromarray((pixels + rng.normal(0, 25, 3)).clip(0, 255).astype(np.uint8))


def save_pictures(folder, per_class, labels=LABELS, first_seed=1000):
    """Write a folder per class with ``per_class`` PNG files each."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            picture(LABELS.index(label), first_seed + number).save(folder / label / f'{number:03}.png')


def make_classifier(folder):
    """Fit the head of a random ``pinas_mini`` to pictures, and save it as a folder for ``local-dir:``."""
    torch.manual_seed(0)
    # Everything is said here, so that the registered weights and their cfg may change.
    overlay = {'interpolation': 'bicubic', 'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.3, 0.25), 'crop_pct': 1.0}
    model = timm.create_model(
        'pinas_mini', num_classes=len(LABELS), choices='01230123', pretrained_cfg_overlay=overlay
    ).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    targets = torch.arange(len(LABELS)).repeat_interleave(12)
    images = torch.stack([transform(picture(int(target), seed)) for seed, target in enumerate(targets)])
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
        mean, std = features.mean(0), features.std(0) + 1e-6
        design = ((features - mean) / std).double()
        wanted = torch.nn.functional.one_hot(targets).double()
        ridge = 30.0 * torch.eye(design.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(design.T @ design + ridge, design.T @ (wanted - wanted.mean(0))).T.float()
        model.fc.weight.copy_(weight / std)
        model.fc.bias.copy_(-(weight / std) @ mean)
    timm.models.save_for_hf(model, folder, model_config={'label_names': list(LABELS)}, safe_serialization=True)
    return model
