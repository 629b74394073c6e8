"""The registry: who is who, and who may speak for whom; on SQLite and PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cluster.registry.model import Place, Principal, Scope
from cluster.registry.store import CODE_HOURS, Registry
from vision.errors import AccessError, BinsightError, ConfigError, WireError
from vision.signature import key_id_of

NOW = 1_790_000_000_000
HOUR = 3_600_000
PLACE = Place("b1", "wien", "1010", "Europe/Vienna", "Graben", 48.2, 16.37, 240.0)
NewKey = Callable[[], bytes]


def test_a_bin_stands_where_it_was_placed(registry: Registry) -> None:
    assert registry.place([PLACE, Place("b2", "pune")], NOW) == 2
    assert [b.place for b in registry.bins(Scope())] == [PLACE, Place("b2", "pune")]
    assert [b.place.bin_id for b in registry.bins(Scope("pune"))] == ["b2"]
    assert [b.place.bin_id for b in registry.bins(Scope("wien", "1010"))] == ["b1"]
    assert registry.bins(Scope("wien", "1020")) == []


def test_a_moved_bin_keeps_what_was_before_with_the_old_district(registry: Registry) -> None:
    registry.place([PLACE], NOW)
    registry.place([replace(PLACE, district="1020")], NOW + HOUR)
    registry.place([replace(PLACE, district="1020")], NOW + 2 * HOUR)  # nothing moves
    found = registry.placements(Scope("wien"))
    assert [(f, t, p.district, p.time_zone) for _, f, t, p in found] == [
        (0, NOW + HOUR, "1010", "Europe/Vienna"),
        (NOW + HOUR, None, "1020", "Europe/Vienna"),
    ]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (replace(PLACE, tenant="graz"), "column tenant: it is wien's"),
        (replace(PLACE, time_zone="Asia/Kolkata"), "column time_zone: district 1010 has"),
        (replace(PLACE, bin_id="n", time_zone="Mars/Base"), "column time_zone: 'Mars/Base'"),
        (replace(PLACE, bin_id="n", latitude=91.0), "column latitude: 91.0 is not within"),
        (replace(PLACE, bin_id="n", longitude=None), "column latitude: .* come together"),
        (replace(PLACE, bin_id="n", latitude=float("nan")), "column latitude: nan"),
        (replace(PLACE, bin_id="n", site=""), "column site"),
        (replace(PLACE, bin_id="n", capacity_l=-1.0), "column capacity_l"),
        (replace(PLACE, bin_id="n", district="new", time_zone=""), "column time_zone: .* is new"),
        (replace(PLACE, bin_id=" n"), "column bin_id"),
        (replace(PLACE, bin_id=""), "column bin_id"),
        (replace(PLACE, bin_id="n", tenant="x" * 129), "column tenant"),
    ],
)
def test_what_contradicts_changes_nothing(registry: Registry, place: Place, message: str) -> None:
    registry.place([PLACE], NOW)
    before = registry.change_number()
    with pytest.raises(ConfigError, match=message):
        registry.place([Place("other", "wien"), place], NOW)
    assert [b.place for b in registry.bins(Scope())] == [PLACE]
    assert registry.change_number() == before


def test_a_code_gives_one_key_and_a_lost_answer_costs_nothing(
    registry: Registry, new_key: NewKey
) -> None:
    registry.place([PLACE], NOW)
    code = registry.issue_code("b1", NOW)
    key = new_key()
    spoken = code.lower().replace("-", " ")
    assert registry.enrol(code, "b1", key, NOW) == registry.enrol(spoken, "b1", key, NOW + 9**15)
    assert registry.principals() == {key_id_of(key): (Principal("b1", "wien", key_id_of(key)), key)}
    with pytest.raises(AccessError, match="used before"):
        registry.enrol(code, "b1", new_key(), NOW)


def test_a_code_is_of_one_bin_ends_and_is_replaced(registry: Registry, new_key: NewKey) -> None:
    registry.place([PLACE, Place("b2", "wien")], NOW)
    first = registry.issue_code("b1", NOW)
    code = registry.issue_code("b1", NOW)
    for wrong, bin_id in ((first, "b1"), (code, "b2"), ("", "b1"), ("A" * 26, "b1")):
        with pytest.raises(AccessError, match="not one of bin"):
            registry.enrol(wrong, bin_id, new_key(), NOW)
    with pytest.raises(AccessError, match="too old"):
        registry.enrol(code, "b1", new_key(), NOW + CODE_HOURS * HOUR)
    with pytest.raises(WireError, match="public key"):
        registry.enrol(code, "b1", b"short", NOW)
    with pytest.raises(ConfigError, match="no bin is registered as 'nobody'"):
        registry.issue_code("nobody", NOW)
    assert registry.principals() == {}


def test_a_second_code_ends_the_keys_of_before(registry: Registry, new_key: NewKey) -> None:
    registry.place([PLACE], NOW)
    old = new_key()
    registry.enrol(registry.issue_code("b1", NOW), "b1", old, NOW)
    new = new_key()
    registry.enrol(registry.issue_code("b1", NOW), "b1", new, NOW + 1)
    assert set(registry.principals()) == {key_id_of(new)}
    with pytest.raises(AccessError, match="revoked"):  # and it never comes back
        registry.enrol(registry.issue_code("b1", NOW), "b1", old, NOW + 2)
    assert set(registry.principals()) == {key_id_of(new)}  # nothing of the failed attempt holds


def test_a_new_key_replaces_the_old_one_with_its_first_use(
    registry: Registry, new_key: NewKey
) -> None:
    registry.place([PLACE], NOW)
    keys = [new_key() for _ in range(3)]
    registry.enrol(registry.issue_code("b1", NOW), "b1", keys[0], NOW)
    registry.ask_for_new_key("b1")
    [(principal, _)] = registry.principals().values()
    assert principal.renew_key
    for _ in range(2):  # the answer may be lost
        registry.add_key(principal, keys[1], NOW + 1)
    registry.settle_key(principal, NOW + 2)  # the old one is still in use: both hold
    assert set(registry.principals()) == {key_id_of(k) for k in keys[:2]}
    # A bin that lost the answer and the key brings another; the one that nobody has ends.
    registry.add_key(principal, keys[2], NOW + 3)
    assert set(registry.principals()) == {key_id_of(keys[0]), key_id_of(keys[2])}
    registry.settle_key(replace(principal, key_id=key_id_of(keys[2])), NOW + 4)
    assert [p for p, _ in registry.principals().values()] == [
        Principal("b1", "wien", key_id_of(keys[2]), renew_key=False)
    ]


def test_a_lost_answer_and_a_new_code_do_not_shut_a_bin_out(
    registry: Registry, new_key: NewKey
) -> None:
    registry.place([PLACE], NOW)
    key = new_key()
    registry.enrol(registry.issue_code("b1", NOW), "b1", key, NOW)  # the answer is lost
    registry.enrol(registry.issue_code("b1", NOW), "b1", key, NOW)
    assert set(registry.principals()) == {key_id_of(key)}


def test_a_key_of_another_bin_is_refused(registry: Registry, new_key: NewKey) -> None:
    registry.place([PLACE, Place("b2", "graz")], NOW)
    key = new_key()
    registry.enrol(registry.issue_code("b1", NOW), "b1", key, NOW)
    with pytest.raises(AccessError, match="another bin's"):
        registry.enrol(registry.issue_code("b2", NOW), "b2", key, NOW)


def test_revoked_keys_and_codes_end_at_once(registry: Registry, new_key: NewKey) -> None:
    registry.place([PLACE], NOW)
    key = new_key()
    registry.enrol(registry.issue_code("b1", NOW), "b1", key, NOW)
    code = registry.issue_code("b1", NOW)
    with pytest.raises(ConfigError, match="has no key x in use"):
        registry.revoke("b1", NOW, "x")
    number = registry.change_number()
    assert registry.revoke("b1", NOW) == 1
    assert registry.change_number() > number
    assert registry.principals() == {}
    assert registry.bins_with_keys() == {"b1"}  # nobody may go on without
    with pytest.raises(AccessError):
        registry.enrol(code, "b1", new_key(), NOW)
    with pytest.raises(ConfigError, match="no key to be renewed"):
        registry.ask_for_new_key("b1")


def test_many_enrol_at_once_and_each_code_counts_once(registry: Registry, new_key: NewKey) -> None:
    registry.place([Place(f"b{i}", "wien") for i in range(8)], NOW)
    codes = [registry.issue_code(f"b{i}", NOW) for i in range(8)]

    def enrol(i: int) -> str:
        try:
            return registry.enrol(codes[i // 2], f"b{i // 2}", new_key(), NOW)
        except BinsightError as error:
            return f"refused: {error}"

    before = registry.change_number()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(enrol, range(16)))
    assert sum(answer.startswith("refused: the enrolment code was used") for answer in answers) == 8
    assert len(registry.principals()) == 8
    assert registry.change_number() == before + 8  # a running hub misses none


def test_models_are_noted_once(registry: Registry) -> None:
    registry.saw_models([("b1", "m1"), ("b1", "m2")], NOW)
    registry.saw_models([("b1", "m1")], NOW + 1)
    registry.saw_models([("b1", "x" * 129), ("b1", "a\0b"), ("b1", "m3"), ("b1", "m3")], NOW + 2)
    assert registry.models("b1") == {"m1": NOW, "m2": NOW, "m3": NOW + 2}
