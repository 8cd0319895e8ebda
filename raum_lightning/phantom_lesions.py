"""What is wrong in a synthetic head: a glioma-like tumour, and cysts that look like one on some contrasts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from raum_lightning.labels import BACKGROUND, ED, ET, NCR
from raum_lightning.phantom_anatomy import HEAD, Brain, Field, ellipsoid, union

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
    """One to three lesions in tissue: a lumpy core, a rim of varying thickness, and edema that spares the cortex."""
    lumps, flakes, fingers = noise(17.0), noise(7.0), noise(20.0)
    enhancing, count = bool(rng.random() < 0.75), 1 if rng.random() < 0.65 else int(rng.integers(2, 4))
    cores, necroses, edemas = [], [], []
    for number in range(count):
        radius = rng.uniform(11, 24) if number == 0 else rng.uniform(5, 10)
        rim, margin = rng.uniform(3.5, 7), rng.uniform(8, 20)
        centre = _place(brain, 0.7 * radius, rng)
        distance = _stretched(brain.points - brain.points[:, [centre]], rng)
        core = distance - radius + 0.25 * radius * (lumps - lumps[centre]) + 0.7 * flakes
        cores.append(core)
        necroses.append(np.maximum(core, core + rim * (1 + 0.4 * flakes)))
        edemas.append(distance - (radius + margin) + 0.35 * (0.5 * radius + margin) * (fingers - fingers[centre]))
    core = np.maximum(union(*cores), -fluid)
    edema = reduce(np.maximum, [union(*edemas), -fluid, 3.5 - brain.cortex])
    return Lesions(
        whole=union(core, edema),
        core=core,
        necrosis=np.maximum(union(*necroses), -fluid),
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
    """A voxel at a random place in the cerebrum with about `room` mm to the surface, to the ventricles and to the hindbrain."""
    wish = (rng.uniform(-0.8, 0.8, (3, 1)) * np.reshape(HEAD, (3, 1))).astype(np.float32)
    missing = np.maximum(room - union(brain.depth, brain.ventricles, brain.hindbrain), 0)
    away = np.square(brain.points - wish).sum(0)
    return int(np.argmin(away + 1000 * missing))


def grow_cysts(brain: Brain, rng: np.random.Generator) -> Field:
    """One to five smooth cysts."""
    count = rng.integers(1, 6)
    radii = rng.uniform(6, 16, (count, 1)) * rng.uniform(0.8, 1.2, (count, 3))
    centres = [brain.points[:, _place(brain, float(r.max()), rng)] for r in radii]
    return union(*(ellipsoid(brain.points, c, r) for c, r in zip(centres, radii, strict=True)))
