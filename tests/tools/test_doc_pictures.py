"""tools/studies/doc_pictures.py: colours of the tutorial's pictures agree between the rows."""

from __future__ import annotations

import colorsys

import numpy as np

from trace_d2.scenes.dataset import SceneSettings, write_scenes


def test_hue_is_the_class_and_shade_the_true_object(load_tool, tmp_path):
    pictures = load_tool("doc_pictures")
    write_scenes(tmp_path, 1, SceneSettings(0, (48, 64), style="still-life"), progress=False)
    (image,) = (tmp_path / "images").glob("*.png")
    ids, classes = pictures.things(image, tmp_path)
    assert len(classes) > 1
    painted = pictures.matched(image, tmp_path, tmp_path)
    large = pictures.nearest(ids, (painted.shape[1], painted.shape[0]))
    seen = set()
    for key, name in classes.items():
        color = np.median(painted[large == key], axis=0)
        seen.add((name, *color))
        hue = colorsys.rgb_to_hsv(*(color - color.min()) / 255)[0]  # without the photograph's grey
        away = abs(hue - pictures._HUES[name])
        assert min(away, 1 - away) < 0.03
    assert len(seen) == len(classes)
    assert all(pictures.shade(name, 0) != pictures.shade(name, 1) for name in pictures._HUES)
