"""Where things stand in the labelled grid."""

from PIL import Image

from symdream.diffusion.grid import MARGIN, _font, _wrap, make_grid


def test_captions_stand_under_their_pictures_and_move_no_label():
    rows = [[Image.new("RGB", (64, 64), c) for c in ("red", "blue")] for _ in range(2)]
    plain = make_grid(rows, column_labels=["one", "two"], row_labels=["a", "b"], cell=64)
    captioned = make_grid(
        rows, column_labels=["one", "two"], row_labels=["a", "b"], cell=64, captions=[["x", "y"], ["", "z"]]
    )
    assert captioned.width == plain.width
    foot = (captioned.height - plain.height) // 2
    assert foot > 10
    # The first row of pictures is where it was, the second one foot lower; between them is ink, under "x" only.
    head = next(y for y in range(plain.height) if (255, 0, 0) in {plain.getpixel((x, y)) for x in range(plain.width)})
    first_row = (0, 0, plain.width, head + 64)
    assert captioned.crop(first_row).tobytes() == plain.crop(first_row).tobytes()
    left = next(x for x in range(plain.width) if plain.getpixel((x, head)) == (255, 0, 0))

    def ink(image, top, column):
        x = left + column * (64 + MARGIN)
        return any(p[0] < 128 for p in image.crop((x, top, x + 64, top + foot)).getdata())

    assert ink(captioned, head + 64, 0) and ink(captioned, head + 64, 1)
    second = head + 64 + foot + MARGIN
    assert captioned.getpixel((left, second)) == (255, 0, 0)
    assert not ink(captioned, second + 64, 0) and ink(captioned, second + 64, 1)


def test_a_word_that_is_longer_than_its_column_stays_in_it_and_is_all_there():
    long = "a/very_long-trigger" * 5
    columns = [
        make_grid([[Image.new("RGB", (64, 64), "red")] * 2], column_labels=labels, cell=64)
        for labels in ([f"an {long} owl", ""], ["", f"an {long} owl"])
    ]
    left, right = (image.crop((x, 0, x + 64, image.height)) for image, x in zip(columns, (10, 84), strict=True))
    assert left.tobytes() == right.tobytes()
    assert columns[0].crop((74, 0, 148, columns[0].height - 64 - MARGIN)).getextrema() == ((255, 255),) * 3
    font = _font(15)
    lines = _wrap(f"an {long} owl", font, 54)
    assert "".join(lines).replace(" ", "") == f"an{long}owl" and all(font.getlength(line) <= 54 for line in lines)
    assert _wrap("wide", font, 1) == list("wide")
