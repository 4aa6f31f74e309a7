"""`gradwatch recommend`: for one run, for several, as text and as the JSON contract."""

import json

from gradwatch.testing import steady, stream, write_run

KEYS = ["max_norm", "low", "high", "policy", "clipped_fraction", "confidence", "refused", "reasons", "apply"]


def test_the_json_is_the_contract_and_the_text_agrees(runs, command):
    found = json.loads(command("recommend", runs / "bad", "--json").out)
    assert list(found)[: len(KEYS)] == KEYS
    assert found["policy"] == "norm"
    assert found["low"] <= found["max_norm"] <= found["high"]
    # One entry carries the spikes of these runs, so a line by value stands beside.
    assert set(found["apply"]) == {"torch", "lightning", "transformers", "torch_by_value"}
    assert found["apply"]["torch_by_value"].endswith(f"{found['clip_value']:g})")
    assert f"max_norm={found['max_norm']:g}" in command("recommend", runs / "bad").out


def test_a_policy_that_does_better_than_a_threshold_comes_first(tmp_path, command):
    losses = [1.0 / (1 + i) for i in range(800)]
    write_run(tmp_path / "adam", stream(steady(800), losses=losses), "AdamW")
    found = json.loads(command("recommend", tmp_path / "adam", "--json").out)
    assert (found["clip"], found["policy"]) == ("ZClip()", "adaptive")
    assert list(found["apply"]) == ["gradwatch", "torch", "lightning", "transformers"]
    text = command("recommend", tmp_path / "adam").out
    assert f"ZClip() or max_norm {found['max_norm']:g}" in text
    assert "clip=gradwatch.clip.ZClip()" in text


def test_several_runs_get_one_recommendation(runs, command):
    found = json.loads(command("recommend", runs / "good", runs / "bad", "--json").out)
    assert [advice["run"] for advice in found["runs"]] == ["good", "bad"]
    text = command("recommend", runs / "good", runs / "bad").out
    assert text.splitlines()[-1].split()[-1] == "bad"


def test_without_a_run_the_newest_is_meant(runs, command, monkeypatch):
    monkeypatch.chdir(runs.parent)
    assert json.loads(command("recommend", "--json").out)["run"] in ("good", "bad")
