"""What the examples on images, tables and equations have learnt, as pictures for the gallery.

In: a trained example. Out: a drawing, 640 pixels wide.
"""

from __future__ import annotations

import numpy as np
from drawing import BLUE, CLASSES, GREEN, GREY, HEAT, INKED, RED, SIGNED, Axes, Svg, between
from gallery_runs import Trained

import nnc

WIDTH = 640


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _scaled(values: np.ndarray, most: float) -> np.ndarray:
    """Numbers from -most to most as 0 to 1."""
    return 0.5 + values / (2 * most)


# --- images ---------------------------------------------------------------------------------------


def mlp_digits(trained: Trained) -> Svg:
    """The weights of the 64 hidden units, each as an image."""
    picture = Svg(WIDTH, 176, "The weights of 64 hidden units")
    weights = trained.model.parameters["v"]
    most = float(np.abs(weights).max())
    for unit in range(64):
        row, column = divmod(unit, 16)
        shown = _scaled(weights[:, :, unit], most)
        picture.pixels(12 + 39 * column, 12 + 39 * row, shown, SIGNED, 4.25)
    return picture


def cnn_digits(trained: Trained) -> Svg:
    """The confusion matrix of the test images, and those that are mistaken."""
    images, labels = trained.held_out("image"), trained.held_out("label")
    chances = softmax(trained.model.predict(images))
    picture = Svg(WIDTH, 375, "A confusion matrix, and the mistakes")
    _confusion(picture, 60, 60, labels, chances.argmax(1))
    wrong = np.flatnonzero(chances.argmax(1) != labels)
    picture.text(420, 52, f"the mistakes: {len(wrong)} of {len(labels)}")
    for n, row in enumerate(wrong[:4]):
        x, y = 420 + 110 * (n % 2), 70 + 160 * (n // 2)
        picture.pixels(x, y, images[row, ..., 0] / images[row].max(), INKED, 10)
        said = int(chances[row].argmax())
        picture.text(x, y + 100, f"a {labels[row]}, taken for a {said}", 12)
        picture.text(x, y + 117, f"with {chances[row, said]:.0%}", 12)
    return picture


def _confusion(picture: Svg, x: int, y: int, labels: np.ndarray, said: np.ndarray) -> None:
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, said), 1)
    cell = 30
    shades = np.where(counts == 0, 0.0, 0.15 + 0.45 * counts / counts.max())
    picture.pixels(x, y, shades, between("#f7f9fc", "#2457a6"), cell)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            at = x + cell * (column + 0.5), y + cell * (row + 0.5) + 5
            picture.text(*at, str(count), 12, "middle")
    for n in range(10):
        picture.text(x - 10, y + cell * (n + 0.5) + 5, str(n), 12, "end")
        picture.text(x + cell * (n + 0.5), y - 8, str(n), 12, "middle")
    picture.text(x - 50, y - 8, "digit", 12)
    picture.text(x + 5 * cell, y - 28, "taken for", 12, "middle")


def resnet_digits(trained: Trained) -> Svg:
    """What the last layer is given, 32 numbers an image, by its two principal components."""
    labels = trained.held_out("label")
    found = trained.model.predict(trained.held_out("image"), tensor="globalavgpool1_y")
    centred = found - found.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes *= np.sign(axes[:, np.abs(axes).argmax(1)].diagonal())[:, None]  # svd's signs are free
    points = centred @ axes[:2].T
    edges = [(float(p.min()) - 0.1, float(p.max()) + 0.1) for p in points.T]
    picture = Svg(WIDTH, 420, "Test images by the features of the last layer")
    names = ("first principal component", "second principal component")
    frame = Axes(picture, (50, 30, 500, 340), edges[0], edges[1], names)
    for digit in range(10):
        frame.dots(points[labels == digit], CLASSES[digit], 3)
    frame.legend([(CLASSES[d], str(d)) for d in range(10)], 570, 50)
    return picture


def mlp_mnist(trained: Trained) -> Svg:
    """Accuracy in training, with dropout, and on the test images, without."""
    picture = Svg(WIDTH, 340, "Accuracy after every epoch")
    records = trained.records
    frame = Axes(picture, (60, 30, 540, 250), (1, len(records)), (0.9, 1.0), ("epoch", "accuracy"))
    for colour, name in ((BLUE, "accuracy"), (RED, "test_accuracy")):
        frame.path([(r["epoch"], r[name]) for r in records], colour, 2.5)
    names = [(BLUE, "training images, with dropout"), (RED, "test images")]
    frame.legend(names, 380, 230)
    return picture


def cnn_mnist(trained: Trained) -> Svg:
    """The test images that are mistaken, the surest mistakes first."""
    return _surest_mistakes(trained, 3, ("{0}, read as {1}",))


def clothes(trained: Trained) -> Svg:
    """The same of clothes, by the names of their classes."""
    return _surest_mistakes(trained, 2, ("{0},", "not {1}"))


def _surest_mistakes(trained: Trained, rows: int, captions: tuple[str, ...]) -> Svg:
    images, labels = trained.held_out("image"), trained.held_out("label")
    chances = softmax(trained.model.predict(images))
    said = chances.argmax(1)
    wrong = np.flatnonzero(said != labels)
    wrong = wrong[np.argsort(-chances[wrong, said[wrong]], kind="stable")][: 7 * rows]
    names = trained.dataset.class_names.get("label") or tuple(map(str, range(10)))
    height = 104 + 14 * len(captions)
    picture = Svg(
        WIDTH, 18 + height * rows, f"The surest mistakes among {len(images):,} test images"
    )
    for n, row in enumerate(wrong):
        x, y = 20 + 88 * (n % 7), 15 + height * (n // 7)
        picture.pixels(x, y, images[row, ..., 0], INKED, 2.6)
        for line, text in enumerate(captions):
            caption = text.format(names[labels[row]], names[said[row]])
            picture.text(x + 36, y + 92 + 14 * line, caption, 12, "middle")
    return picture


def autoencoder_mnist(trained: Trained) -> Svg:
    """Test images above, and below them what is made of their 32 numbers."""
    images = trained.held_out("image", slice(0, 8))
    made = trained.model.predict(images)["picture"].reshape(-1, 28, 28)
    picture = Svg(WIDTH, 190, "Test images and their reconstructions")
    for n in range(8):
        picture.pixels(14 + 78 * n, 12, images[n, ..., 0], INKED, 2.5)
        picture.pixels(14 + 78 * n, 100, made[n], INKED, 2.5)
    return picture


def siamese_digits(trained: Trained) -> Svg:
    """Distances of pairs of test images: of equal digits, and of different ones."""
    found = trained.model.predict(trained.held_out("image"), trained.held_out("label"))
    distance, same = found["distance"], found["same"].astype(bool)
    edges = np.linspace(0, 3, 31)
    shares = [np.histogram(distance[which], edges)[0] / which.sum() for which in (same, ~same)]
    picture = Svg(WIDTH, 340, "Distances of pairs of test images")
    most = float(np.ceil(max(s.max() for s in shares) * 10) / 10)
    frame = Axes(picture, (60, 30, 540, 260), (0, 3), (0, most), ("distance", "share of the pairs"))
    for share, colour in zip(shares, (GREEN, RED), strict=True):
        outline = [(edges[0], 0.0)]
        for n, value in enumerate(share):
            outline += [(edges[n], value), (edges[n + 1], value)]
        frame.path([*outline, (edges[-1], 0.0)], colour)
    frame.path([(0.5, 0), (0.5, most)], GREY, 1.5, "5 4")
    names = [(GREEN, f"{same.sum()} pairs of equal digits"), (RED, f"{(~same).sum()} others")]
    frame.legend(names, 400, 60)
    return picture


def private_mnist(trained: Trained) -> Svg:
    """Test accuracy against the privacy that was spent."""
    points = [(r["epsilon"], r["test_accuracy"]) for r in trained.records]
    picture = Svg(WIDTH, 340, "Accuracy against privacy")
    high = float(np.ceil(10 * points[-1][0]) / 10)
    labels = ("epsilon (delta 1e-5)", "test accuracy")
    frame = Axes(picture, (60, 30, 540, 250), (0, high), (0.75, 1.0), labels)
    frame.path(points, BLUE, 2.5)
    frame.dots(np.array(points), BLUE, 2.5)
    return picture


def finetuned_digits(trained: Trained) -> Svg:
    """How probable the network finds it that each of the test images is odd."""
    digits = trained.held_out("label")
    odd = softmax(trained.model.predict(trained.held_out("image")))[:, 1]
    picture = Svg(WIDTH, 370, "Odd or even, digit by digit")
    frame = Axes(
        picture, (80, 20, 530, 300), (0, 1), (-0.5, 9.5), ("probability of odd", ""), False
    )
    for digit in range(10):
        values = np.sort(odd[digits == digit])
        heights = digit + 0.28 * np.sin(2.4 * np.arange(len(values)))  # apart, to be seen
        points = np.stack([values, heights], 1)
        frame.dots(points, RED if digit % 2 else BLUE, 3)
        picture.text(28, frame.point(0, digit)[1] + 4, f"digit {digit}", 11)
    return picture


def vae_digits(trained: Trained) -> Svg:
    """Digits that the decoder draws: ten of each."""
    labels = np.repeat(np.arange(10, dtype=np.int32), 12)
    drawn = trained.model.predict(labels, model="Decoder", seed=7).reshape(-1, 8, 8)
    picture = Svg(WIDTH, 530, "Digits drawn by the decoder")
    for n, image in enumerate(drawn):
        row, column = divmod(n, 12)
        picture.pixels(15 + 51.5 * column, 10 + 51.5 * row, image, INKED, 5.5)
    return picture


# --- tables and equations -------------------------------------------------------------------------


def xor(trained: Trained) -> Svg:
    """What the network answers between the four points that it was given."""
    side = np.linspace(-0.5, 1.5, 60)
    x, y = np.meshgrid(side, side[::-1])
    grid = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    answers = sigmoid(trained.model.predict(grid)).reshape(x.shape)
    picture = Svg(WIDTH, 372, "The answers to points between 0 and 1")
    frame = Axes(
        picture, (60, 30, 300, 300), (-0.5, 1.5), (-0.5, 1.5), ("first input", "second input")
    )
    picture.pixels(60, 30, answers, SIGNED, 5)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at = frame.point(a, b)
        picture.box(at[0] - 11, at[1] - 12, 22, 24, "#ffffff")
        picture.text(at[0], at[1] + 6, str(a ^ b), 16, "middle")
    scale = np.linspace(1, 0, 60)[:, None].repeat(4, 1)
    picture.pixels(420, 20, scale, SIGNED, 5)
    picture.text(450, 30, "1: one of the inputs is 1")
    picture.text(450, 320, "0: both are, or none")
    return picture


def linear(trained: Trained) -> Svg:
    """Predicted against true strength of new mixes, and the weights."""
    true = trained.held_out("y")
    found = trained.model.predict(trained.held_out("x"))
    low, high = float(true.min()) - 0.5, float(true.max()) + 0.5
    picture = Svg(WIDTH, 380, "Predicted and true strength of 48 mixes")
    frame = Axes(
        picture, (60, 30, 300, 300), (low, high), (low, high), ("true strength", "predicted")
    )
    frame.path([(low, low), (high, high)], GREY, 1.5, "5 4")
    frame.dots(np.stack([true, found], 1), BLUE, 3.5)
    weights = trained.model.parameters
    learnt = [*weights["w"], weights["b"]]
    names = ("cement", "water", "sand", "age", "bias")
    picture.code(400, 70, "            learnt   right")
    for n, (name, value, right) in enumerate(zip(names, learnt, (3, -2, 0.5, 1, 2), strict=True)):
        picture.code(400, 100 + 22 * n, f"{name:9} {float(value):8.3f} {right:7g}")
    return picture


def movielens(trained: Trained) -> Svg:
    """Distributions of the predicted stars, for test ratings of one to five stars."""
    found = trained.model.predict(trained.held_out("user"), trained.held_out("film"))["stars"]
    given = trained.held_out("rating")
    edges = np.linspace(0.5, 5.5, 41)
    picture = Svg(WIDTH, 360, "Predicted stars by given stars")
    labels = ("predicted stars", "share of the ratings")
    frame = Axes(picture, (60, 30, 540, 270), (0.5, 5.5), (0, 0.12), labels)
    middles = (edges[:-1] + edges[1:]) / 2
    shades = between("#c0392b", "#e9d66b", "#2457a6")
    for stars in range(1, 6):
        which = given == stars
        shares = np.histogram(found[which], edges)[0] / which.sum()
        frame.path(list(zip(middles, shares, strict=True)), shades((stars - 1) / 4), 2.5)
    named = [(shades((n - 1) / 4), f"{n} given") for n in range(1, 6)]
    frame.legend(named, 80, 55)
    return picture


def two_towers(trained: Trained) -> Svg:
    """Recall among the first films, beside that of the most popular ones."""
    given, rating = trained.held_out("given"), trained.held_out("rating")
    fields = (trained.held_out(name) for name in ("gender", "occupation"))
    score = trained.model.predict(given, *fields)["score"]
    popular = np.where(given > 0, -1, (given >= 4).sum(0))
    wanted = rating >= 4
    most = np.maximum(1, wanted.sum(1))
    picture = Svg(WIDTH, 360, "Recall among the first films")
    frame = Axes(picture, (60, 30, 540, 270), (1, 50), (0, 0.7), ("films recommended", "recall"))
    for scores, colour in ((score, BLUE), (popular, GREY)):
        order = np.argsort(-scores, 1, kind="stable")[:, :50]
        hits = np.take_along_axis(wanted, order, 1).cumsum(1)
        recall = (hits / most[:, None])[wanted.any(1)].mean(0)
        frame.path(list(enumerate(recall, 1)), colour, 2.5)
    frame.legend([(BLUE, "two towers"), (GREY, "what is most popular")], 80, 55)
    return picture


def heat_equation(trained: Trained) -> Svg:
    """The solution by place and time, and how far it is from the exact one."""
    place, time = np.meshgrid(np.linspace(0, 1, 56), np.linspace(0, 1, 56)[::-1])
    points = np.stack([place.ravel(), time.ravel()], 1).astype(np.float32)
    found = trained.model.predict(points)["temperature"].reshape(place.shape)
    exact = np.sin(np.pi * place) * np.exp(-0.1 * np.pi**2 * time)
    off = np.abs(found - exact)
    picture = Svg(WIDTH, 370, "The temperature of a rod, and its error")
    titles = ("temperature: dark 0, red 1", f"error: red is {off.max():.1e}")
    for n, (values, title) in enumerate(zip((found, off / off.max()), titles, strict=True)):
        left = 50 + 310 * n
        Axes(picture, (left, 35, 266, 266), (0, 1), (0, 1), ("place", ""))
        picture.pixels(left, 35, values, HEAT, 4.75)
        picture.text(left, 25, f"{title}{'' if n else '; upwards: time'}")
    return picture


def maml_sinusoid(trained: Trained) -> Svg:
    """Three waves that are new: the network before and after one step on ten points of each.

    The example draws points at random where it is measured; here it is measured everywhere, by two
    lines of the program that are replaced.
    """
    text = trained.path.read_text("utf-8")
    everywhere = "new[t < T, n < 101] = 0.1 * n - 5"
    text = text.replace("new[t < T, n < 10] = 10 * random() - 5", everywhere)
    text = text.replace(
        "    adapted =", "    _shared = net(v1, c1, v2, c2, v3, new)\n    adapted ="
    )
    model = nnc.loads(text)
    waves = np.array([[4.5, 0.6], [2.0, 2.4], [3.0, 3.0]], np.float32)
    model.init(waves)
    model.load_weights(str(trained.run))
    found = model.predict(waves, tensor=["seen", "wave", "_shared", "adapted", "new_wave"], seed=3)
    picture = Svg(WIDTH, 300, "Three waves, before and after one step")
    x = np.linspace(-5, 5, 101)
    for n in range(3):
        frame = Axes(picture, (40 + 205 * n, 30, 180, 200), (-5, 5), (-5, 5))
        frame.path(list(zip(x, found["new_wave"][n], strict=True)), GREY, 2, "4 3")
        frame.path(list(zip(x, found["_shared"][n], strict=True)), BLUE)
        frame.path(list(zip(x, found["adapted"][n], strict=True)), RED, 2.5)
        frame.dots(np.stack([found["seen"][n], found["wave"][n]], 1), "#222831", 3)
    for n, (colour, words) in enumerate(
        (
            (GREY, "the wave"),
            (BLUE, "before the step"),
            (RED, "after it"),
            ("#222831", "its points"),
        )
    ):
        frame.legend([(colour, words)], 60 + 145 * n, 280)
    return picture


def wgan_gp(trained: Trained) -> Svg:
    """Points of the table, and points that the generator draws."""
    real = trained.dataset.train.arrays["x"].astype(np.float32)
    drawn = trained.model.predict(real, seed=1)["fake"]
    picture = Svg(WIDTH, 370, "Points of the table and generated ones")
    for n, (points, title) in enumerate(((real, "the table"), (drawn, "generated"))):
        frame = Axes(picture, (50 + 310 * n, 35, 270, 270), (-1.6, 1.6), (-1.6, 1.6), ("", title))
        frame.dots(points, (BLUE, RED)[n], 1.6)
    return picture
