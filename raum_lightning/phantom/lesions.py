"""What is wrong in a synthetic head: a glioma-like tumour, and cysts that look like one on some contrasts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raum_lightning.labels import BACKGROUND, ED, ET, NCR
from raum_lightning.phantom.anatomy import HEAD, Brain, Field, cover, ellipsoid, union

Noise = Callable[[float], Field]


@dataclass(frozen=True)
class Lesions:
    """Signed distances in mm at the N brain voxels; `core` is TC, `necrosis` lies in it, `whole` is WT."""

    whole: Field
    core: Field
    necrosis: Field
    enhancing: bool

    def labels(self) -> NDArray[np.uint8]:
        """Class indices, N."""
        core = np.where((self.necrosis >= 0) & self.enhancing, ET, NCR)
        return np.where(self.core < 0, core, np.where(self.whole < 0, ED, BACKGROUND)).astype(np.uint8)


def grow_lesions(brain: Brain, fluid: Field, noise: Noise, rng: np.random.Generator) -> Lesions:
    """One to three lesions in tissue: a lumpy core with a rim of varying thickness, and edema.

    Edema effaces sulci, but at its border spares the cortex.
    """
    lumps, flakes, fingers = noise(17.0), noise(7.0), noise(20.0)
    enhancing, count = bool(rng.random() < 0.82), 1 if rng.random() < 0.65 else int(rng.integers(2, 4))
    tissue = -union(fluid, brain.depth)
    cores, necroses, edemas = [], [], []
    for number in range(count):
        radius = rng.uniform(15, 26) if number == 0 else rng.uniform(7, 12)
        rim, margin = rng.uniform(4.5, 8), rng.uniform(5, 14)
        centre = _place(brain, 0.5 * radius, rng)
        distance = _stretched(brain.points - brain.points[:, [centre]], rng)
        lumpy = distance - radius + 0.17 * radius * (lumps - lumps[centre]) + 0.7 * flakes
        core = np.maximum(lumpy, tissue)
        cores.append(core)
        necroses.append(np.maximum(core, core + rim * (1 + 0.4 * flakes)))
        edemas.append(distance - (radius + margin) + 0.2 * (0.5 * radius + margin) * (fingers - fingers[centre]))
    core, edema = union(*cores), union(*edemas) + 4 * cover(brain.cortex - 4, 3)
    return Lesions(
        whole=union(core, np.maximum(edema, tissue)),
        core=core,
        necrosis=union(*necroses),
        enhancing=enhancing,
    )


def _stretched(offset: Field, rng: np.random.Generator) -> Field:
    """Length of `offset`, 3 N, in a random metric: about the distance in mm, but equal on an oblique ellipsoid."""
    frame, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    metric = (frame * rng.uniform(0.75, 1.35, 3)).astype(np.float32)
    along = [x * offset[0] + y * offset[1] + z * offset[2] for x, y, z in metric.T]
    length: Field = np.linalg.norm(np.stack(along), axis=0)
    return length


def _place(brain: Brain, room: float, rng: np.random.Generator) -> int:
    """A voxel somewhere in the cerebrum with about `room` mm to the surface, the ventricles and the hindbrain."""
    wish = (rng.uniform(-0.8, 0.8, (3, 1)) * np.reshape(HEAD, (3, 1))).astype(np.float32)
    missing = np.maximum(room - union(brain.depth, brain.ventricles, brain.hindbrain), 0)
    away = np.square(brain.points - wish).sum(0)
    return int(np.argmin(away + 1000 * missing))


def grow_cysts(brain: Brain, rng: np.random.Generator) -> Field:
    """One to five smooth cysts."""
    count = rng.integers(1, 6)
    radii = rng.uniform(8, 18, (count, 1)) * rng.uniform(0.8, 1.2, (count, 3))
    centres = [brain.points[:, _place(brain, float(r.max()), rng)] for r in radii]
    return union(*(ellipsoid(brain.points, c, r) for c, r in zip(centres, radii, strict=True)))
