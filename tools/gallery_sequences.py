"""What the examples on texts, sounds and series have learnt, as pictures for the gallery.

In: a trained example. Out: a drawing, 640 pixels wide.
"""

from __future__ import annotations

import numpy as np
from drawing import BLUE, CLASSES, GREY, HEAT, RED, SHADE, SIGNED, Axes, Svg, between
from gallery_pictures import WIDTH, softmax
from gallery_runs import Trained, call

LIGHT_SIGNED = between("#9dbce8", "#ffffff", "#f2a8a0")  # grounds of words: 0 blue, 1 red


# --- texts ----------------------------------------------------------------------------------------


def sentiment(trained: Trained) -> Svg:
    """Sentences of the test set: how positive each is after each of its words."""
    tokens, lengths = trained.held_out("token"), trained.held_out("length")
    names = trained.tokens("token")
    long = np.flatnonzero((lengths >= 10) & (lengths <= 13))[:6]
    picture = Svg(WIDTH, 260, "How positive a sentence is, word by word")
    for n, row in enumerate(long):
        length = int(lengths[row])
        parts = np.repeat(tokens[row : row + 1], length, 0)
        logits = trained.model.predict(parts, np.arange(1, length + 1, dtype=np.int32))
        words = [names[t] for t in tokens[row, :length]]
        shades = [LIGHT_SIGNED(1 - p) for p in softmax(logits)[:, 1]]
        picture.words(12, 32 + 36 * n, words, shades)
    picture.text(12, 245, "blue: positive, red: negative, by what has been read so far", 12)
    return picture


def handbook(trained: Trained) -> Svg:
    """Short sentences of the test chapters, as the network and the book translate them."""
    known = trained.dataset.vocabularies["source"]
    # Of the examples, which are packed, the texts between the marks; a target begins with one.
    texts = [
        [
            known.decode(part)
            for row in trained.held_out(field)
            for part in np.split(row, np.flatnonzero(row == known.special("<start>")))[skipped:]
        ]
        for field, skipped in (("source", 0), ("target_in", 1))
    ]
    pairs = [(a, b) for a, b in zip(*texts, strict=False) if a.endswith(".") and 40 < len(a) < 75]
    picture = Svg(WIDTH, 60 * 6 + 20, "Translations of sentences that were not learnt from")
    prompt = "\n".join(a for a, _ in pairs[:6])
    written = call("generate", trained.run, "--beams", "4", "--prompt", prompt).splitlines()
    for n, ((english, german), own) in enumerate(zip(pairs, written, strict=False)):
        for line, text in enumerate((english, own)):
            picture.code(12, 28 + 60 * n + 17 * line, text, 11)
        picture.parts.append(f'<g fill="{GREY}">')
        picture.code(12, 28 + 60 * n + 34, german, 11)
        picture.parts.append("</g>")
    return picture


def film_reviews(trained: Trained) -> Svg:
    """Sentences of the test set: what each word does to the judgement of the whole."""
    tokens, lengths = trained.held_out("token"), trained.held_out("length")
    scores, names = trained.held_out("score"), trained.tokens("token")
    # Sentences of a few words that are all known, four that people find negative and four positive.
    short = (lengths >= 6) & (lengths <= 10) & (tokens != 1).all(axis=1)
    rows = [row for sign in (-1, 1) for row in np.flatnonzero(short & (sign * scores > 0))[:4]]
    picture = Svg(WIDTH, 330, "What each word does to a judgement")
    for n, row in enumerate(rows):
        length = int(lengths[row])
        # The whole sentence, and without each of its words (occlusion, by the padding).
        parts = np.repeat(tokens[row : row + 1], length + 1, 0)
        parts[np.arange(length), np.arange(length)] = 0
        logits = trained.model.predict(parts, np.full(length + 1, length, np.int32))
        effects = logits[-1] - logits[:-1]
        shades = [LIGHT_SIGNED(0.5 - np.clip(e / 3, -0.5, 0.5)) for e in effects]
        picture.words(12, 32 + 40 * n, [names[t] for t in tokens[row, :length]], shades)
        told = f"{'positive' if logits[-1] > 0 else 'negative'}; people: {scores[row]:+.1f}"
        picture.text(WIDTH - 12, 32 + 40 * n, told, 11, "end")
    return picture


def question_answering(trained: Trained) -> Svg:
    """What attention reads of a passage when the question has been read."""
    passages, questions = trained.held_out("passage"), trained.held_out("question")
    names = trained.tokens("passage")
    about = [int(q[2]) for q in questions[:60]]
    # two whose person is spoken of several times
    often = [
        n for n, (p, who) in enumerate(zip(passages[:60], about, strict=True))
        if (p == who).sum() >= 3
    ][:2]  # fmt: skip
    name = "crossattention1_attend1_softmax1_y"
    shown = trained.model.predict(passages[often], questions[often], tensor=[name, "logits"])
    weights = shown[name][:, :, -1].max(1)  # of the head that looks hardest
    places = trained.dataset.class_names["answer"]
    picture = Svg(WIDTH, 260, "What attention reads of a passage")
    for n, row in enumerate(often):
        words = [names[t] for t in passages[row]]
        shades = [SHADE(w / weights[n].max()) for w in weights[n]]
        left = 15 + 320 * n
        for line in range(6):
            part = slice(5 * line, 5 * line + 5)
            picture.words(left, 30 + 26 * line, words[part], shades[part])
        asked = " ".join(names[t] for t in questions[row])
        picture.code(left + 4, 205, asked)
        picture.code(left + 4, 228, f"→ {places[int(shown['logits'][n].argmax())]}", 14)
    return picture


def babi(trained: Trained) -> Svg:
    """Which statements of a story are read the first, the second and the third time."""
    stories, questions = trained.held_out("story"), trained.held_out("question")
    names, answers = trained.tokens("story"), trained.dataset.class_names["answer"]
    reads = [f"reading{number}_softmax1_y" for number in (1, 2, 3)]
    shown = trained.model.predict(stories[:200], questions[:200], tensor=[*reads, "logits"])
    # two of twelve statements, long enough for a thing to be taken along
    rows = np.flatnonzero((stories[:200, :, 0] > 0).sum(1) == 12)[:2]
    first = stories.shape[1] - 12
    picture = Svg(WIDTH, 390, "Which statements of a story are read")
    for n, row in enumerate(rows):
        left = 12 + 320 * n
        weights = np.stack([shown[name][row].max(0) for name in reads], 1)[first:]
        picture.pixels(left, 34, weights, between("#f7f9fc", "#2457a6"), 26, 24)
        for number in range(3):
            picture.text(left + 26 * (number + 0.5), 26, str(number + 1), 13, "middle")
        lines = [*stories[row, first:], questions[row]]
        for line, words in enumerate(" ".join(names[t] for t in said if t) for said in lines):
            asked = line == 12
            picture.code(left + 90, 50 + 24 * line + 12 * asked, words + "?" * asked)
        picture.code(left + 90, 374, f"→ {answers[int(shown['logits'][row].argmax())]}", 14)
    return picture


def translate(trained: Trained) -> Svg:
    """Which English words the decoder attends to for each German word."""
    fields = ("source", "source_length", "target_in")
    row = _row_of_length(trained, 9)
    given = [trained.held_out(f, slice(row, row + 1)) for f in fields]
    name = "decoderblock2_crossattention1_attend1_softmax_until1_y"
    shown = trained.model.predict(*given, tensor=[name, "logits"])
    english = [trained.tokens("source")[t] for t in given[0][0, : given[1][0]]]
    said = shown["logits"][0].argmax(-1)
    names = trained.tokens("target_out")
    german = [names[t] for t in said[: trained.held_out("target_length")[row]]]
    weights = shown[name][0].mean(0)[: len(german), : len(english)]
    cell = 30
    picture = Svg(WIDTH, 120 + cell * len(german), "Attention of German words to English ones")
    picture.pixels(180, 90, weights / weights.max(), between("#f7f9fc", "#2457a6"), cell)
    for n, word in enumerate(english):
        x = 180 + cell * (n + 0.6)
        picture.parts.append(f'<text x="{x}" y="82" transform="rotate(-45 {x} 82)">{word}</text>')
    for n, word in enumerate(german):
        picture.text(170, 90 + cell * (n + 0.5) + 5, word, 13, "end")
    return picture


def _row_of_length(trained: Trained, length: int) -> int:
    return int(np.flatnonzero(trained.held_out("source_length") == length)[0])


def _passage(trained: Trained, windows: int) -> tuple[np.ndarray, str]:
    """Windows of the validation text that follow each other, and the text."""
    tokens = trained.held_out("token", slice(20, 20 + windows))
    names = trained.tokens("token")
    return tokens, "".join(names[t] for t in tokens.ravel())


def _letters(picture: Svg, text: str, shades: list[str], y: int) -> int:
    """A text, each character on a ground of its own; where it ends."""
    x, left = 14, 14
    for letter, shade in zip(text, shades, strict=True):
        if letter == "\n":
            x, y = left, y + 22
            continue
        picture.parts.append(
            f'<rect x="{x:.1f}" y="{y - 14}" width="8.6" height="20" fill="{shade}"/>'
        )
        picture.code(x, y, letter, 14)
        x += 8.5
        if x > WIDTH - 20:
            x, y = left, y + 22
    return y


def _sample(picture: Svg, trained: Trained, y: int) -> None:
    """What `nnc generate` writes after `ROMEO:`."""
    given = ("--prompt", "ROMEO:", "--length", "220", "--temperature", "0.8")
    written = call("generate", trained.run, *given)
    picture.text(14, y, 'nnc generate --prompt "ROMEO:" --temperature 0.8', 13)
    for n, line in enumerate(written.rstrip().splitlines()[:8]):
        picture.code(14, y + 26 + 18 * n, line[:74], 13)


def char_rnn(trained: Trained) -> Svg:
    """How probable the network found each character of a text that it has not learnt from."""
    tokens, text = _passage(trained, 5)
    chances = softmax(trained.model.predict(tokens))
    each = np.take_along_axis(chances[:, :-1], tokens[:, 1:, None], 2)[..., 0]
    each = np.concatenate([np.zeros((len(tokens), 1)), each], 1)  # the first of a window is given
    picture = Svg(WIDTH, 640, "How well characters are predicted")
    picture.text(14, 24, "a text to validate on: the darker, the more probable was the character")
    y = _letters(picture, text, [SHADE(p) for p in each.ravel()], 52)
    _sample(picture, trained, y + 50)
    return picture


def char_lstm(trained: Trained) -> Svg:
    """A cell whose value goes with the place in the line: Karpathy, Johnson and Fei-Fei, 2015."""
    tokens, text = _passage(trained, 5)
    cells = trained.model.predict(tokens, tensor="lstm1_c").reshape(tokens.size, -1)
    since = [len(text[:n]) - text[:n].rfind("\n") - 1 for n in range(1, len(text) + 1)]
    within = np.concatenate([cells, np.array(since)[:, None]], 1)
    likeness = np.corrcoef(within.T)[-1, :-1]
    best = int(np.abs(likeness).argmax())
    values = cells[:, best] * np.sign(likeness[best])
    low, high = np.quantile(values, (0.02, 0.98))
    shades = [LIGHT_SIGNED(v) for v in (values - low) / (high - low)]
    picture = Svg(WIDTH, 640, "One of the 256 cells of the LSTM")
    picture.text(14, 24, f"cell {best}, of 256: blue low, red high; it counts how long a line is")
    y = _letters(picture, text, shades, 52)
    _sample(picture, trained, y + 50)
    return picture


def char_gpt(trained: Trained) -> Svg:
    """Which earlier characters the heads of the second block attend to."""
    tokens, text = _passage(trained, 1)
    name = "transformerblock2_attention1_attend1_softmax1_y"
    weights = trained.model.predict(tokens, tensor=name)[0][:, :40, :40]
    picture = Svg(WIDTH, 715, "Attention of four heads, and a sample")
    for head in range(4):
        left, top = 20 + 310 * (head % 2), 30 + 250 * (head // 2)
        picture.text(left, top - 8, f"head {head + 1}: each row is a character that looks back", 12)
        shown = np.sqrt(weights[head] / weights[head].max())
        picture.pixels(left, top, shown, between("#f7f9fc", "#2457a6"), 5)
        picture.code(left, top + 212, text[:40].replace("\n", "⏎"), 8.3)
    _sample(picture, trained, 560)
    return picture


# --- sounds and series ----------------------------------------------------------------------------


def spectrogram(picture: Svg, place: tuple[float, float, float, float], frames: np.ndarray) -> None:
    """Features [time, bands], two by two, low bands below, at (left, top, width, height)."""
    whole = frames[: len(frames) // 2 * 2]
    joined = whole.reshape(len(whole) // 2, 2, -1, 2).mean((1, 3))
    low, high = np.quantile(joined, (0.02, 0.98))
    shown = ((joined - low) / (high - low)).T[::-1]
    left, top, width, height = place
    picture.pixels(left, top, shown, HEAT, width / len(joined), height / len(shown))


def spoken_digits(trained: Trained) -> Svg:
    """Two recordings, and the digits that the network hears after each hundredth of a second."""
    lengths, labels = trained.held_out("length"), trained.held_out("label")
    picture = Svg(WIDTH, 390, "What is heard, hundredth by hundredth of a second")
    for n, digit in enumerate((6, 9)):
        row = int(np.flatnonzero((labels == digit) & (lengths > 45) & (lengths < 80))[0])
        length = int(lengths[row])
        frames = trained.held_out("frames", slice(row, row + 1))
        heard = np.arange(4, length + 1, 2, dtype=np.int32)
        parts = np.repeat(frames, len(heard), 0)
        for part, until in zip(parts, heard, strict=True):
            part[until:] = 0
        chances = softmax(trained.model.predict(parts, heard))
        left, width = 50 + 300 * n, 270
        picture.text(left, 20, f"somebody says {digit}")
        spectrogram(picture, (left, 30, width, 140), frames[0, :length])
        frame = Axes(
            picture, (left, 205, width, 140), (0, length / 100), (0, 1), ("seconds", "probability")
        )
        likely = np.argsort(-chances.max(0), kind="stable")[:4]
        for other in likely:
            points = list(zip(heard / 100, chances[:, other], strict=True))
            frame.path(points, CLASSES[other], 2.5 if other == digit else 1.5)
        frame.legend([(CLASSES[d], str(d)) for d in likely], left + 225, 228)
    return picture


def ctc_digits(trained: Trained) -> Svg:
    """Where in a recording the network says which digit, and where nothing."""
    lengths, counts = trained.held_out("frames_length"), trained.held_out("label_length")
    row = int(np.flatnonzero((counts == 4) & (lengths > 180))[0])
    length = int(lengths[row])
    frames = trained.held_out("frames", slice(row, row + 1))
    found = trained.model.predict(frames, lengths[row : row + 1])
    chances = softmax(found["logits"])[0][: (length + 3) // 4]
    names = trained.tokens("label")
    said = " ".join(names[t] for t in found["said"][0][: found["count"][0]])
    label = " ".join(names[t] for t in trained.held_out("label")[row])
    picture = Svg(WIDTH, 390, "A string of digits, read by CTC")
    picture.text(50, 20, f"said: {label}    read: {said}", 14)
    spectrogram(picture, (50, 32, 560, 120), frames[0, :length])
    frame = Axes(
        picture, (50, 185, 560, 150), (0, length / 100), (0, 1), ("seconds", "probability")
    )
    x = np.arange(len(chances)) / 25
    frame.path(list(zip(x, chances[:, 0], strict=True)), GREY, 1.2, "3 3")
    for token in range(1, 11):
        if chances[:, token].max() > 0.2:
            frame.path(list(zip(x, chances[:, token], strict=True)), CLASSES[token - 1], 2)
    best = [*chances.argmax(1), 0]
    for n in range(len(chances)):
        if best[n] != 0 and best[n + 1] != best[n]:  # the last moment of a digit
            at = frame.point(float(x[n]), 0.5)
            picture.text(at[0] + 10, at[1], names[best[n]], 15)
    return picture


def time_series(trained: Trained) -> Svg:
    """Three test series: what was observed, what followed, and what was predicted."""
    x, y = trained.held_out("x", slice(0, 3)), trained.held_out("y", slice(0, 3))
    found = trained.model.predict(x)
    picture = Svg(WIDTH, 500, "Three series and their forecasts")
    for n in range(3):
        frame = Axes(picture, (50, 20 + 150 * n, 560, 120), (0, 80), (-2.2, 2.2))
        frame.path(list(enumerate(x[n])), GREY, 1.5)
        frame.path(list(zip(range(64, 80), y[n], strict=True)), BLUE, 5)
        frame.path(list(zip(range(64, 80), found[n], strict=True)), RED, 2)
    for n, (colour, words) in enumerate(
        ((GREY, "observed, with noise"), (BLUE, "what followed"), (RED, "predicted"))
    ):
        frame.legend([(colour, words)], 60 + 200 * n, 485)
    return picture


def motions(trained: Trained) -> Svg:
    """Test series, and how much each moment speaks for either class (class activation maps)."""
    labels = trained.held_out("label")
    rows = [*np.flatnonzero(labels == 0)[:2], *np.flatnonzero(labels == 1)[:2]]
    series = trained.held_out("x")[rows]
    names = trained.dataset.class_names["label"]
    heard = trained.model.predict(series, tensor="block3_y")
    weights = trained.model.parameters["dense1_w"]
    maps = heard @ (weights[:, 0] - weights[:, 1])
    most = float(np.quantile(np.abs(maps), 0.98))
    picture = Svg(WIDTH, 450, "Where a motion is told by")
    for n, row in enumerate(rows):
        left, top = 45 + 305 * (n % 2), 30 + 210 * (n // 2)
        title = ("", f"class {names[labels[row]]}")
        frame = Axes(picture, (left, top, 270, 110), (0, 150), (-1.5, 2.5), title)
        frame.path(list(enumerate(series[n, :, 0])), "#222831", 2)
        picture.pixels(left, top + 136, 0.5 + maps[n][None] / (2 * most), SIGNED, 1.8, 24)
    return picture
