"""Pictures of colonies for adapters: RGB arrays, and a window where there is a display."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from durotaxis.core.errors import UserError
from durotaxis.integrations.batch import Batch

FRAMES_PER_SECOND = 12


@final
class Pictures:
    """Draws the current state of a batch; the scene of an episode is made once."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._scenes: dict[int, tuple[int, Any]] = {}  # colony -> (episode seed, scene)

    def draw(self, index: int) -> np.ndarray:
        """One colony, [height, width, 3] uint8."""
        from durotaxis.env.render import draw, frame_of, scene_of

        world = self._batch.world
        colony, substrate = world.colony, world.substrate
        seed = int(colony.seed[index])
        if self._scenes.get(index, (None,))[0] != seed:
            self._scenes[index] = seed, scene_of(substrate, self._batch.config, index)
        frame = frame_of(colony, index, reason=int(self._batch.reason[index]))
        return np.array(draw(frame, self._scenes[index][1]), dtype=np.uint8)


@final
class Window:
    """A matplotlib window that shows one picture after another.

    Raises:
        UserError: matplotlib has no display to open a window on.
    """

    def __init__(self) -> None:
        import matplotlib
        import matplotlib.pyplot as plt
        from matplotlib.backends import BackendFilter, backend_registry

        backend = str(matplotlib.get_backend())
        if backend.lower() not in backend_registry.list_builtin(BackendFilter.INTERACTIVE):
            raise UserError(
                f"render_mode 'human' needs a display, and matplotlib has none here (backend {backend}); "
                "use render_mode='rgb_array' and render()"
            )
        self._plt = plt
        self._figure: Any = None
        self._image: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Show a picture [height, width, 3] uint8 and let it be seen for one frame."""
        if self._figure is None:
            height, width = picture.shape[:2]
            self._figure = self._plt.figure(figsize=(width / 100, height / 100), dpi=100)
            self._image = self._figure.add_axes((0, 0, 1, 1)).imshow(picture)
            self._image.axes.set_axis_off()
        self._image.set_data(picture)
        self._figure.canvas.draw_idle()
        self._plt.pause(1.0 / FRAMES_PER_SECOND)

    def close(self) -> None:
        """Close the window; a second call changes nothing."""
        if self._figure is not None:
            self._plt.close(self._figure)
            self._figure = None
