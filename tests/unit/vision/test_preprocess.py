"""One pixel path: any frame becomes the declared input, without aliasing."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import BundleError
from vision.preprocess import PreprocessSpec, preprocess


@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.sampled_from(["stretch", "crop"]),
    st.integers(8, 64),
)
def test_any_frame_gives_the_declared_input(width: int, height: int, fit: str, size: int) -> None:
    x_nhwc = preprocess(
        np.full((height, width, 3), 77, np.uint8), PreprocessSpec(size, size + 4, fit, "rgb")
    )
    assert x_nhwc.shape == (1, size + 4, size, 3)
    assert x_nhwc.dtype == np.uint8
    assert (x_nhwc == 77).all()


def test_colour_order_is_the_networks() -> None:
    frame = np.zeros((50, 50, 3), np.uint8)
    frame[..., 0] = 200  # blue in OpenCV's order
    assert preprocess(frame, PreprocessSpec(32, 32, "stretch", "rgb"))[0, 0, 0].tolist() == [
        0,
        0,
        200,
    ]
    assert preprocess(frame, PreprocessSpec(32, 32, "stretch", "bgr"))[0, 0, 0].tolist() == [
        200,
        0,
        0,
    ]


def test_large_frames_do_not_alias() -> None:
    stripes = np.zeros((1080, 1920, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the input can show: must come out grey
    x_nhwc = preprocess(stripes, PreprocessSpec(224, 224, "stretch", "rgb"))
    assert np.abs(x_nhwc.astype(int) - 128).max() <= 2
    naive = cv2.resize(stripes, (224, 224), interpolation=cv2.INTER_LINEAR)
    # A plain bilinear resize does alias.
    assert np.abs(naive.astype(int) - 128).max() > 50


def test_crop_keeps_the_centre() -> None:
    frame = np.zeros((100, 300, 3), np.uint8)
    frame[:, 100:200] = 255
    assert (preprocess(frame, PreprocessSpec(50, 50, "crop", "rgb")) == 255).all()


@pytest.mark.parametrize(
    "bad",
    [
        (0, 224, "crop", "rgb"),
        (224, 9999, "crop", "rgb"),
        (224, 224, "pad", "rgb"),
        (224, 224, "crop", "hsv"),
    ],
)
def test_impossible_specs_are_refused(bad: tuple[int, int, str, str]) -> None:
    with pytest.raises(BundleError):
        PreprocessSpec(*bad)
