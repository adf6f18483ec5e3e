"""What the examples on scenes and on films have learnt, as pictures for the gallery.

In: a trained example. Out: a drawing, 640 pixels wide; or the frames of a film, written as a GIF.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, INKED, RED, Svg
from gallery_pictures import WIDTH
from gallery_runs import Trained

DIM = 0.14  # brightness below which noise is not drawn
SEEN = 0.3  # score from which an object is drawn
GREYS = 8  # shades of a frame: few, so that the drawing is small


def detect_digits(trained: Trained) -> Svg:
    """Test scenes with the boxes that were found."""
    scenes = trained.held_out("image", slice(0, 10))
    truth, label, count = (
        trained.held_out(field, slice(0, 10)) for field in ("truth", "label", "count")
    )
    found = trained.model.predict(scenes)
    picture = Svg(WIDTH, 300, "Scenes, and the digits that were found")
    for n in range(10):
        x, y = 8 + 126 * (n % 5), 26 + 142 * (n // 5)
        picture.pixels(x, y, _shades(scenes[n, ..., 0]), INKED, 1.9)
        left = set(range(count[n]))
        for box, kind, words in _places(found["found"][n], found["score"][n], found["class"][n]):
            hit = next(
                (k for k in left if label[n, k] == kind and _iou(box, truth[n, k]) >= 0.5), None
            )
            left -= {hit}
            colour = RED if hit is None else GREEN
            _frame(picture, x, y, box, colour, words)
        for k in left:
            _frame(picture, x, y, truth[n, k], BLUE, f"a {label[n, k]}", below=True)
    return picture


def _places(
    boxes: np.ndarray, scores: np.ndarray, kinds: np.ndarray
) -> list[tuple[np.ndarray, int, str]]:
    """The box and class of each place where something was found, and in words its score, and other
    classes that it may have; the surest first."""
    places: list[tuple[np.ndarray, int, str]] = []
    for p in np.flatnonzero(scores >= SEEN):
        at = next((k for k, place in enumerate(places) if _iou(place[0], boxes[p]) > 0.5), None)
        if at is None:
            places.append((boxes[p], int(kinds[p]), f"{kinds[p]} {scores[p]:.0%}"))
        else:
            places[at] = (*places[at][:2], f"{places[at][2]} or {kinds[p]}")
    return places


def _frame(
    picture: Svg, x: float, y: float, box: np.ndarray, colour: str, words: str, below: bool = False
) -> None:
    """A box in pixels of a scene that stands at x, y, with words above or below it."""
    left, top, right, bottom = 1.9 * box
    picture.box(x + left, y + top, right - left, bottom - top, "none", colour)
    picture.text(x + left, y + (bottom + 9 if below else top - 2), words, 9)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def _shades(frame: np.ndarray) -> np.ndarray:
    """A frame in few shades, without noise."""
    return np.where(frame < DIM, 0, np.rint(frame * GREYS) / GREYS)


def next_frame(trained: Trained) -> Svg:
    """The frames of a test film, and below each what was predicted from those before it."""
    films = trained.held_out("frames", slice(0, 2))
    told = trained.model.predict(films)["next"]
    picture = Svg(WIDTH, 370, "Frames of films, and what was predicted")
    for film in range(2):
        for n in range(6):
            t, x, y = n + 4, 62 + 96 * n, 24 + 176 * film
            picture.text(x, y - 6, f"frame {t + 1}", 12)
            picture.pixels(x, y, _shades(films[film, t, ..., 0]), INKED, 2.4)
            picture.pixels(x, y + 82, _shades(told[film, t - 1, ..., 0]), INKED, 2.4)
        picture.text(8, y + 42, "is", 12)
        picture.text(8, y + 124, "predicted", 12)
    return picture


def next_frame_film(trained: Trained) -> np.ndarray:
    """Test films above what was predicted of each frame: u8 [frames, height, width]."""
    films = trained.held_out("frames", slice(0, 6))
    told = trained.model.predict(films)["next"]
    pairs = np.concatenate([films[:, 1:], told[:, :-1]], axis=2)[..., 0]  # [films, t, 2*h, w]
    edged = np.pad(pairs, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.4)
    side_by_side = np.concatenate(list(edged), axis=-1)
    whole = np.rint(side_by_side * 15).astype(np.uint8) * 17
    return whole.repeat(3, axis=1).repeat(3, axis=2)


def write_film(frames: np.ndarray, path: Path) -> None:
    """Frames u8 [frames, height, width] as a GIF that repeats, five frames a second."""
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=200, loop=0, optimize=True)


def digit_actions(trained: Trained) -> Svg:
    """Test films, and what the network says of each."""
    films = trained.held_out("frames", slice(0, 5))
    results = trained.model.predict(films)
    names = trained.dataset.class_names
    picture = Svg(WIDTH, 440, "Films, and what happens in them")
    for n in range(5):
        y = 24 + 82 * n
        for t in range(8):
            picture.pixels(8 + 56 * t, y, _shades(films[n, t, ..., 0]), INKED, 1.7)
        for line, field in enumerate(("direction", "speed", "rotation")):
            right = int(trained.held_out(field, slice(n, n + 1))[0])
            said = int(results[f"{field}_logits"][n].argmax())
            words = "does not turn" if names[field][said] == "none" else names[field][said]
            more = "" if said == right else f" (it is {names[field][right]})"
            picture.text(466, y + 16 + 17 * line, words + more, 13)
    return picture
