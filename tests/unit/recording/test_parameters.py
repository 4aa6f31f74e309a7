"""Which parameter stands at which position."""

from __future__ import annotations

import torch
from torch import nn

import gradwatch
from gradwatch import Run
from gradwatch.record import ParameterInfo
from gradwatch.recording.parameters import ParameterTable, marks_of, named_parameters, settings_of, sharding_of


def make(names="abc", taken=None):
    model = nn.ParameterDict({name: nn.Parameter(torch.ones(1)) for name in names})
    return model, torch.optim.SGD([model[name] for name in taken or names], lr=0.1)


def names_of(table):
    return [info.name for info in table.infos]


def test_parameters_come_in_the_models_order():
    model, optimizer = make("abc", taken="cab")
    table = ParameterTable(model, optimizer)
    assert names_of(table) == ["a", "b", "c"]
    assert table.parameters == [model["a"], model["b"], model["c"]]
    assert table.present == [True] * 3
    assert table.ids == {id(p) for p in model.parameters()}


def test_parameters_that_the_model_does_not_have_are_named_by_their_group():
    model, _ = make("a")
    stranger = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [model["a"]]}, {"params": [stranger]}], lr=0.1)
    assert names_of(ParameterTable(model, optimizer)) == ["a", "group1.0"]


def test_stored_parameters_keep_their_positions():
    model, optimizer = make("ab")
    stored = [ParameterInfo(name=name, shape=(1,)) for name in ("gone", "b")]
    table = ParameterTable(model, optimizer, stored)
    assert names_of(table) == ["gone", "b", "a"]
    assert table.present == [False, True, True]
    assert table.parameters == [None, model["b"], model["a"]]


def test_nothing_new_is_told_where_nothing_changed():
    model, optimizer = make()
    table = ParameterTable(model, optimizer)
    before = table.present
    assert table.refresh() is None
    assert table.present is before


def test_a_parameter_that_joins_is_told_by_its_position():
    model, optimizer = make("abc", taken="ab")
    table = ParameterTable(model, optimizer)
    optimizer.add_param_group({"params": [model["c"]]})
    assert table.refresh() == 2
    assert names_of(table) == ["a", "b", "c"]


def test_a_parameter_that_leaves_and_comes_back_has_its_old_position():
    model, optimizer = make()
    table = ParameterTable(model, optimizer)
    (group,) = optimizer.param_groups
    group["params"] = [model["a"], model["c"]]
    assert table.refresh() is None
    assert (names_of(table), table.present) == (["a", "b", "c"], [True, False, True])
    assert table.gradients()[1] is None
    assert id(model["b"]) not in table.ids
    group["params"] = [model["a"], model["b"], model["c"]]
    assert table.refresh() == 1
    assert table.parameters == [model["a"], model["b"], model["c"]]


def test_a_parameter_that_is_replaced_has_the_position_of_its_name():
    """The groups are as long as before."""
    model, optimizer = make()
    table = ParameterTable(model, optimizer)
    model["b"] = nn.Parameter(torch.ones(7))
    optimizer.param_groups[0]["params"][1] = model["b"]
    assert table.refresh() == 1
    assert table.parameters[1] is model["b"]
    assert names_of(table) == ["a", "b", "c"]


def test_a_name_that_is_not_unicode_is_escaped(tmp_path):
    """Names of files and of shards come with lone surrogates."""
    model = nn.Module()
    model.register_parameter("la\udce4er", nn.Parameter(torch.ones(1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradwatch.attach(model, {"o\udcffne": optimizer}, tmp_path / "run") as watch:
        model.get_parameter("la\udce4er").sum().backward()
        optimizer.step()
    assert watch.optimizers == [r"o\udcffne"]
    run = Run(tmp_path / "run")
    assert run.layers("norm").columns.tolist() == [r"la\udce4er"]
    assert len(run.steps()) == 1


def test_what_wrappers_insert_is_left_out():
    model = nn.Sequential(nn.Linear(1, 1), nn.DataParallel(nn.Sequential(torch.compile(nn.Linear(1, 1)))))
    assert [name for name, _ in named_parameters(model)] == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_settings_are_those_that_can_be_written_down():
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=torch.tensor(0.1), betas=(0.5, 0.6))
    settings = settings_of(optimizer)
    assert settings["betas"] == (0.5, 0.6)
    assert "lr" not in settings, "it is a tensor"


def test_what_a_trial_shows_is_a_setting_of_classes_that_have_no_known_name():
    weight = torch.zeros(1)
    assert "update_rule" not in settings_of(torch.optim.Adam([weight]))
    assert settings_of(type("Mine", (torch.optim.SGD,), {})([weight], lr=0.1))["update_rule"] == "follows-gradient"


def test_plain_parameters_are_not_sharded():
    assert sharding_of([make()]) == (False, False)


def test_copies_have_equal_marks_and_others_have_not():
    one = torch.randn(100, 3)
    later = one.clone()
    later[-1] += 1
    found = marks_of([one, one.clone(), one + 1, later, torch.randn(0), one.bfloat16(), torch.zeros(())])
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] == found[3], "only the first entries are read"
    assert None not in found


def test_what_can_not_be_read_at_once_has_no_mark():
    assert (
        marks_of([torch.ones(2, 3).t(), torch.ones(3, device="meta"), torch.ones(3, dtype=torch.int64)]) == [None] * 3
    )
    assert marks_of([]) == []


def test_one_process_reads_no_weights():
    model, optimizer = make("a")
    (part,) = ParameterTable(model, optimizer).parts
    assert part.mark is None


def test_a_lazy_parameter_joins_when_it_has_a_shape():
    model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(1))
    optimizer = torch.optim.SGD(model.parameters())
    table = ParameterTable(model, optimizer)
    assert names_of(table) == ["0.weight", "0.bias"]
    assert table.refresh() is None
    model(torch.ones(1, 2))
    assert table.refresh() == 2
    assert [(info.name, info.shape) for info in table.infos[2:]] == [("1.weight", (1, 3)), ("1.bias", (1,))]
    assert table.refresh() is None
    assert not table.are_more_or_fewer()
