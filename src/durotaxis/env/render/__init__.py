"""Pictures and films of one colony on its substrate.

Everything is drawn from numpy arrays, so that a film can come from a live world or from records. What stays
the same during an episode (background, colour bar, legend, goal) is painted once; each frame is painted on
a copy at twice the size and halved, which smooths every line. Colours are safe for colour-blind readers, a
lightened viridis under nodes in Okabe-Ito colours, and every state of a node has a shape of its own.
Pillow and matplotlib are imported with this package, which no other module of the world imports.
"""

from durotaxis.env.render.film import chosen_frames, film, require_format, require_rate
from durotaxis.env.render.painter import draw
from durotaxis.env.render.scene import Frame, Scene, Style, frame_of, scene_of

__all__ = [
    "Frame",
    "Scene",
    "Style",
    "chosen_frames",
    "draw",
    "film",
    "frame_of",
    "require_format",
    "require_rate",
    "scene_of",
]
