"""One capture for each item that comes to rest."""

import numpy as np
import pytest

from edge_runtime.config import TriggerConfig
from edge_runtime.trigger import State, Trigger
from vision.frames import Frame
from vision.simulator.street import Street
from vision.simulator.world import EMPTY_FRAMES, SimulatedItems, World


def _frame(
    grey: float, spot: tuple[int, int] | None = None, noise: float = 2.0, seed: int = 0
) -> Frame:
    pixels = np.random.default_rng(seed).normal(grey, noise, (120, 160, 3))
    if spot:
        pixels[spot[1] : spot[1] + 30, spot[0] : spot[0] + 30] = 220
    return Frame(np.clip(pixels, 0, 255).astype(np.uint8), 0, 0.0)


def _watch(trigger: Trigger, frames: list[Frame]) -> list[int]:
    return [i for i, frame in enumerate(frames) if trigger.step(frame)]


def test_an_empty_chute_never_triggers_and_slow_light_is_followed() -> None:
    frames = [_frame(90 + i * 0.15, seed=i) for i in range(600)]
    trigger = Trigger(TriggerConfig())
    assert _watch(trigger, frames) == []
    assert trigger.state is State.EMPTY


def test_one_capture_for_an_item_and_the_next_one_only_after_the_chute_was_empty() -> None:
    empty = [_frame(90, seed=i) for i in range(5)]
    item = [_frame(90, (60, 40), seed=i) for i in range(20)]
    assert len(_watch(Trigger(TriggerConfig(stuck_frames=100)), empty + item + empty + item)) == 2


@pytest.mark.parametrize("spot", [(20, 80), (75, 50)], ids=["elsewhere", "over its place"])
def test_an_item_that_takes_the_place_of_another_is_counted_though_the_chute_was_never_empty(
    spot: tuple[int, int],
) -> None:
    frames = [_frame(90, seed=i) for i in range(5)] + [
        _frame(90, (60, 40), seed=i) for i in range(4)
    ]
    frames += [_frame(90, spot, seed=i) for i in range(60)]
    trigger = Trigger(TriggerConfig())
    assert len(_watch(trigger, frames)) == 2
    assert trigger.state is State.EMPTY  # what stays belongs to the chute at last
    assert len(_watch(trigger, [_frame(90, (110, 20), seed=i) for i in range(10)])) == 1


def test_a_reference_of_another_size_is_learnt_again() -> None:
    assert Trigger(TriggerConfig(), np.zeros((40, 30, 3), np.uint8)).state is State.LEARNING


def test_nothing_is_captured_while_it_moves() -> None:
    falling = [_frame(90, (60, y), seed=y) for y in range(0, 80, 8)]
    trigger = Trigger(TriggerConfig())
    assert _watch(trigger, [_frame(90, seed=i) for i in range(5)] + falling) == []
    assert trigger.state is State.MOVING


def test_a_hand_that_comes_and_goes_is_no_item() -> None:
    empty = [_frame(90, seed=i) for i in range(5)]
    hand = [_frame(90, (x, 40), seed=x) for x in [*range(0, 60, 10), *range(60, 0, -10)]]
    assert _watch(Trigger(TriggerConfig()), empty + hand + empty) == []


def test_an_item_that_lay_there_before_a_restart_is_seen_with_the_saved_reference() -> None:
    before = Trigger(TriggerConfig())
    _watch(before, [_frame(90, seed=i) for i in range(5)])
    lying = [_frame(90, (60, 40), seed=i) for i in range(6)]
    assert len(_watch(Trigger(TriggerConfig(), before.reference), lying)) == 1
    assert (
        _watch(Trigger(TriggerConfig()), lying) == []
    )  # without it the item is taken for the floor


def test_a_scene_that_stays_changed_becomes_the_new_empty_chute() -> None:
    config = TriggerConfig(stuck_frames=20)
    trigger = Trigger(config)
    frames = [_frame(90, seed=i) for i in range(5)] + [
        _frame(90, (100, 60), seed=i) for i in range(40)
    ]
    assert len(_watch(trigger, frames)) == 1  # the item was counted, then it is part of the chute
    assert trigger.state is State.EMPTY
    both = [_frame(90, (100, 60), seed=i) for i in range(6)]
    for frame in both:
        frame.pixels_hwc[20:50, 20:60] = (30, 60, 200)
    assert len(_watch(trigger, both)) == 1


def test_what_looks_as_it_did_before_is_no_item() -> None:
    trigger = Trigger(TriggerConfig(stuck_frames=10))
    empty = [_frame(90, seed=i) for i in range(5)]
    stuck = [_frame(90, (100, 60), seed=i) for i in range(30)]
    assert len(_watch(trigger, empty + stuck)) == 1
    assert _watch(trigger, empty) == []  # somebody pulled it out


def test_an_item_on_a_glaring_floor_comes_to_rest_though_the_floor_shows_no_noise() -> None:
    def look(seed: int, item: bool) -> Frame:
        pixels = np.random.default_rng(seed).normal(290, 10, (120, 160, 3))
        pixels[:20] -= 110  # a corner in the shade
        if item:
            pixels[40:90, 50:110] -= 190
        return Frame(np.clip(pixels, 0, 255).astype(np.uint8), 0, 0.0)

    frames = [look(i, False) for i in range(80)] + [look(i, True) for i in range(12)]
    assert len(_watch(Trigger(TriggerConfig()), frames)) == 1


def test_the_slope_of_a_shadow_at_the_border_is_no_item() -> None:
    def look(seed: int, depth: float) -> Frame:
        shade = 1 - depth / (1 + np.exp((np.arange(160) - 4) / 8))
        pixels = np.random.default_rng(seed).normal(150, 1.5, (120, 160, 3)) * shade[None, :, None]
        return Frame(np.clip(pixels, 0, 255).astype(np.uint8), 0, 0.0)

    frames = [look(i, 0.0) for i in range(10)] + [look(i, 0.55) for i in range(30)]
    assert _watch(Trigger(TriggerConfig()), frames) == []


def test_a_lamp_that_goes_on_is_no_item() -> None:
    frames = [_frame(90, seed=i) for i in range(5)] + [_frame(140, seed=i) for i in range(40)]
    trigger = Trigger(TriggerConfig())
    assert _watch(trigger, frames) == []
    assert trigger.state is State.EMPTY


def test_a_lamp_over_a_floor_of_which_a_part_is_overexposed_is_no_item() -> None:
    floor = np.dstack(
        [np.broadcast_to(np.linspace(dim, 2 * dim, 160), (120, 160)) for dim in (100, 200, 220)]
    )
    frames = [np.clip(light * floor, 0, 255) for light in [1.0] * 10 + [0.7] * 30]
    assert (
        _watch(Trigger(TriggerConfig()), [Frame(f.astype(np.uint8), 0, 0.0) for f in frames]) == []
    )


def test_the_outline_of_a_white_thing_on_a_white_floor_is_an_item() -> None:
    floor = np.full((120, 160, 3), 255, np.uint8)
    y, x = np.indices(floor.shape[:2])
    thing = np.where((abs(abs(x - 80) + abs(y - 60) - 40) < 2)[..., None], 190, floor).astype(
        np.uint8
    )
    frames = [Frame(pixels, 0, 0.0) for pixels in [floor] * 5 + [thing] * 5]
    assert len(_watch(Trigger(TriggerConfig()), frames)) == 1


def test_the_rest_of_the_empty_chute_is_not_that_of_what_comes_into_it() -> None:
    def look(bluer: float) -> Frame:
        pixels = np.full((120, 160, 3), 90.0)
        pixels[40:70, 60:90, 0] = 102 * np.exp(bluer) - 12
        return Frame(pixels.astype(np.uint8), 0, 0.0)

    stain = [look(0.0065 * i) for i in range(60)]  # followed from behind, and so almost seen
    thing = [look(0.0065 * 60 + 0.08)] * 5  # it makes the difference, and no motion
    assert _watch(Trigger(TriggerConfig()), stain + thing) == [62]


def test_what_became_part_of_the_chute_unseen_leaves_it_uncounted() -> None:
    frames = [_frame(90, noise=0.5, seed=i) for i in range(280)]
    for i, frame in enumerate(frames[110:240]):
        frame.pixels_hwc[40:70, 60:90] += np.uint8(min(i / 3, 30))
    trigger = Trigger(TriggerConfig())
    assert _watch(trigger, frames) == []
    assert trigger.state is State.EMPTY


def test_an_arm_that_rests_for_half_a_second_is_no_item_and_what_lies_at_the_border_is() -> None:
    empty = [_frame(90, seed=i) for i in range(5)]
    arm = [_frame(90, (60, 0), seed=i) for i in range(TriggerConfig().border_frames)]
    trigger = Trigger(TriggerConfig())
    assert _watch(trigger, empty + arm + empty) == []
    assert len(_watch(trigger, [_frame(90, (60, 0), seed=i) for i in range(12)])) == 1


def test_a_bad_day_is_counted_right() -> None:
    items = Street(SimulatedItems(7), 12, (320, 240), 7)
    trigger = Trigger(TriggerConfig())
    sequence = 0
    while (pixels := items.view()) is not None:
        sequence += 1
        if trigger.step(Frame(pixels, sequence, 0.0)):
            items.clear()
    assert items.counted == [1] * 12
    assert sum(items.false.values()) == 0
    assert items.empty_frames > 300


@pytest.mark.parametrize("seed", range(3))
def test_simulated_items_are_counted_exactly_once(seed: int) -> None:
    world = World(SimulatedItems(seed), 40, (320, 240), seed)
    trigger = Trigger(TriggerConfig())
    counted = 0
    sequence = 0
    while (pixels := world.view()) is not None:
        sequence += 1
        if trigger.step(Frame(pixels, sequence, 0.0)):
            counted += 1
            world.clear("any")
    assert counted == 40
    assert sequence < 40 * (EMPTY_FRAMES + 20)  # none had to wait for the world's patience
