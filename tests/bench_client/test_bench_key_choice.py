"""Which keys are loaded and how often: accounts and teams by weight, models by weight."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from bench_client.errors import BenchUsageError
from bench_client.load.key_choice import KeyGroup, LoadedKeys, choose_keys
from bench_client.load.keys import read_keys
from bench_client.load.weights import Weights, parse_weights
from bench_client.load.workload import draw_keys, draw_models

KEYS = """
[accounts.acme.teams.research]
[accounts.acme.teams."research/vision"]
[accounts.globex]
[accounts.unused]
""" + "".join(
    f'[keys.sk-{number}]\nname = "{name}"\n{place}\n'
    for number, (name, place) in enumerate(
        [
            ("flat-0", ""),
            ("a-1", 'account = "acme"'),
            ("r-2", 'account = "acme"\nteam = "research"'),
            ("v-3", 'account = "acme"\nteam = "research/vision"'),
            ("g-4", 'account = "globex"'),
            ("flat-5", "tpm = 5"),
            ("v-6", 'account = "acme"\nteam = "research/vision"'),
        ]
    )
)


def chosen(tmp_path: Path, accounts: Weights = (), text: str = KEYS) -> LoadedKeys:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return choose_keys(read_keys(path).keys, accounts)


def named(loaded: LoadedKeys) -> list[tuple[float, list[str]]]:
    return [(group.weight, [loaded.keys[place].name for place in group.places]) for group in loaded.groups]


def test_without_names_each_account_counts_by_its_keys(tmp_path: Path) -> None:
    loaded = chosen(tmp_path)
    assert len(loaded.keys) == 7
    assert named(loaded) == [(2, ["flat-0", "flat-5"]), (4, ["a-1", "r-2", "v-3", "v-6"]), (1, ["g-4"])]


def test_the_deepest_name_has_a_key_and_others_are_left_out(tmp_path: Path) -> None:
    loaded = chosen(tmp_path, (("acme", 3), ("acme/research/vision", 0.5)))
    assert [key.name for key in loaded.keys] == ["a-1", "r-2", "v-3", "v-6"]
    assert named(loaded) == [(3, ["a-1", "r-2"]), (0.5, ["v-3", "v-6"])]
    assert named(chosen(tmp_path, (("acme/research", 1),))) == [(1, ["r-2", "v-3", "v-6"])]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("acm", "no usable key is below acm; there are acme, acme/research, acme/research/vision, globex$"),
        ("acme/res", "no usable key is below acme/res; there are"),
        ("unused", "no usable key is below unused; there are"),
        ("flat-0", "no usable key is below flat-0; there are"),
        ("acme/research/vision/x", "there are"),
    ],
)
def test_a_name_without_keys_is_refused_with_those_there_are(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(BenchUsageError, match=says):
        chosen(tmp_path, (("acme", 1), (name, 1)))


def test_names_are_not_listed_without_end(tmp_path: Path) -> None:
    text = "".join(f'[accounts.a{n}]\n[keys.sk-{n}]\naccount = "a{n}"\n' for n in range(30))
    with pytest.raises(BenchUsageError, match=r"a18, a19, \.\.\.$"):
        chosen(tmp_path, (("b", 1),), text)
    with pytest.raises(BenchUsageError, match="no usable key of the keys file has an account"):
        chosen(tmp_path, (("b", 1),), "[keys.sk-a]\n")


def test_a_name_whose_keys_all_have_a_deeper_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchUsageError, match="leave acme/research out"):
        chosen(tmp_path, (("acme/research", 1), ("acme/research/vision", 1)), KEYS.replace("sk-2", "'sha256:00'"))


def test_a_file_without_accounts_has_the_draws_that_it_always_had(tmp_path: Path) -> None:
    """The digests are of keys drawn before there were groups: the same seed stays the same run."""
    loaded = chosen(tmp_path, text="".join(f'[keys.sk-{n}]\nname = "k{n}"\n' for n in range(10)))
    drawn = {zipf: draw_keys(5_009, loaded.groups, zipf, 7) for zipf in (0.0, 0.7, 1.0)}
    assert {zipf: sha256(keys.tobytes()).hexdigest()[:16] for zipf, keys in drawn.items()} == {
        0.0: "156750b284f33d8b",
        0.7: "537698310b05d3d8",
        1.0: "e1d68bcc4ec6d5e6",
    }


@pytest.mark.parametrize("skew", [0.0, 1.0, 1.3])
def test_groups_are_drawn_by_weight_and_their_keys_by_skew(skew: float) -> None:
    groups = [KeyGroup(3, [0, 2, 4, 6]), KeyGroup(1, [1, 3]), KeyGroup(0.5, [5])]
    count = 90_000
    drawn = Counter(draw_keys(count, groups, skew, 3))
    total = sum(group.weight for group in groups)
    for group in groups:
        part = count * group.weight / total
        weights = [rank**-skew for rank in range(1, len(group.places) + 1)]
        for place, weight in zip(group.places, weights, strict=True):
            assert drawn[place] == pytest.approx(part * weight / sum(weights), rel=0.05)


def test_the_keys_of_a_group_are_those_that_it_would_have_alone() -> None:
    """In the same order: a group's numbers come from the stream of keys, which other groups share."""
    for skew in (0.0, 0.9):
        alone = draw_keys(1_000, [KeyGroup(1, range(8))], skew, 5)
        beside = draw_keys(1_000, [KeyGroup(1e9, range(8)), KeyGroup(1e-9, [8])], skew, 5)
        assert beside == alone


def test_models_are_drawn_by_weight_and_one_is_not_drawn() -> None:
    drawn = Counter(draw_models(40_000, [3, 1], 1))
    assert drawn[0] / drawn[1] == pytest.approx(3, rel=0.05)
    assert draw_models(10, [3, 1], 1) == draw_models(12, [3, 1], 1)[:10] != draw_models(10, [3, 1], 2)
    assert len(draw_models(10, [3], 1)) == len(draw_models(10, [], 1)) == 0


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("gpt-4o:3,o3:1", (("gpt-4o", 3), ("o3", 1))),
        ("gpt-4o , o3:0.5", (("gpt-4o", 1), ("o3", 0.5))),
        ("llama3:8b,qwen:7:2", (("llama3:8b", 1), ("qwen:7", 2))),
        ("acme/research/vision:1e3", (("acme/research/vision", 1000),)),
        ("7", (("7", 1),)),
    ],
)
def test_names_with_weights(text: str, weights: Weights) -> None:
    assert parse_weights(text) == weights


@pytest.mark.parametrize("text", ["", "a,", ",a", "a:0", "a:-1", "a:nan", "a:inf", ":3", "a,a", "a:1,b:2,a:3"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(BenchUsageError, match=r"weights above 0|name each once"):
        parse_weights(text)
