"""Tables of names and values, as the loggers of baselines, guided-diffusion and Stable-Baselines3 print them."""

import pytest

from gradwatch.errors import CannotImport
from gradwatch.sources import read

from .support import write_text


def table(values, rule="-" * 24):
    """A table as baselines prints it: numbers of three digits, columns as wide as their longest entry."""
    shown = {name: f"{value:<8.3g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    lines = [f"| {name:<10} | {value:<8} |" for name, value in shown.items()]
    return "\n".join([rule, *lines, rule]) + "\n"


def rows_of(history):
    return [(point.step, point.norm, point.loss) for point in history.points]


def test_each_table_is_a_row(tmp_path):
    text = "Logging to /tmp/run\n" + "".join(
        f"micro batch {at}\n" + table({"grad_norm": 0.5 * at, "loss": 2.0 / at, "loss_q0": 9.0, "step": 1.0 * at})
        for at in (1, 2, 4)
    )
    assert rows_of(read([write_text(tmp_path, "log.txt", text)])) == [(1, 0.5, 2.0), (2, 1.0, 1.0), (4, 2.0, 0.5)]


def test_steps_that_are_printed_with_three_digits_are_counted_on(tmp_path):
    steps = list(range(0, 20_000, 10))
    text = "".join(table({"grad_norm": 1.0, "loss": 1.0, "step": float(step)}) for step in steps)
    history = read([write_text(tmp_path, "log.txt", text)])
    assert [point.step for point in history.points] == steps


def test_a_training_that_begins_anew_at_a_rounded_step_is_not_counted_on_from_the_one_before(tmp_path):
    steps = [980, 990, 1000, 1010, 5000]
    text = "".join(table({"grad_norm": 1.0, "step": float(step)}) for step in steps)
    assert [point.step for point in read([write_text(tmp_path, "log.txt", text)]).points] == steps


def test_names_below_a_section_are_joined_with_it(tmp_path):
    text = "".join(
        table({"rollout/": "", "   ep_rew_mean": 1.5, "train/": "", "   grad_norm": norm, "   loss": 0.25})
        for norm in (1.0, 2.0)
    )
    history = read([write_text(tmp_path, "ppo.log", text)])
    assert rows_of(history) == [(0, 1.0, 0.25), (1, 2.0, 0.25)]
    assert [point.reward for point in history.points] == [1.5, 1.5]


@pytest.mark.parametrize("rule", ["+---------+---------+", "=" * 30, "├──────┼──────┤"])
def test_pairs_beside_one_another_and_other_rules_are_read(tmp_path, rule):
    text = "".join(f"{rule}\n| loss | 1.2 || grad_norm | {norm} |\n│ step │ {norm} │\n{rule}\n" for norm in (1, 2))
    assert rows_of(read([write_text(tmp_path, "a.log", text)])) == [(1, 1.0, 1.2), (2, 2.0, 1.2)]


def test_a_name_that_comes_again_begins_the_next_row(tmp_path):
    text = "| grad_norm | 1.0 |\n| loss | 2.0 |\nsaving\n| grad_norm | 3.0 |\n| loss | 4.0 |\n"
    assert rows_of(read([write_text(tmp_path, "a.log", text)])) == [(0, 1.0, 2.0), (1, 3.0, 4.0)]


def test_the_norm_may_have_a_name_of_its_own(tmp_path):
    text = "".join(table({"policy_grad": norm, "step": norm}) for norm in (1.0, 2.0))
    file = write_text(tmp_path, "a.log", text)
    assert rows_of(read([file], norm="policy_grad")) == [(1, 1.0, None), (2, 2.0, None)]
    with pytest.raises(CannotImport, match="no line like those of"):
        read([file])


def test_a_table_of_settings_does_not_hide_the_lines_of_a_tool(tmp_path):
    text = table({"lr": 0.1, "layers": 12.0}) + "step: 3 loss: 1.5 grad_norm: 2.5\n"
    assert rows_of(read([write_text(tmp_path, "a.log", text)])) == [(3, 2.5, 1.5)]
