"""Configs beside a log: what they tell is taken and said, the rest stays unknown, and nothing is executed."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwatch import Run
from gradwatch.errors import CannotImport
from gradwatch.sources import configs, read, write

LOG = [{"step": step, "loss": 2.0, "grad_norm": 1.0} for step in range(5)]
STATE = {"log_history": [row | {"learning_rate": 1e-4} for row in LOG]}

# As each tool writes it. The expected optimizer and learning rate are read off by eye.
LAYOUTS = {
    "Transformers, dumped by the script": (
        "args.json",
        json.dumps({"optim": "adamw_torch_fused", "learning_rate": 5e-5}),
    ),
    "Transformers, as YAML": ("training_args.yaml", "learning_rate: 5.0e-05\noptim: adamw_torch\nreport_to: none\n"),
    "a model card": (
        "README.md",
        "# m\n\n- learning_rate: 5e-05\n- optimizer: Use OptimizerNames.ADAMW_TORCH with betas=(0.9,0.999)\n",
    ),
    "Lightning's hparams": ("hparams.yaml", "lr: 5.0e-05\noptimizer: AdamW\nlayers:\n- 4\n- 8\n"),
    "Lightning's command line": (
        "config.yaml",
        "optimizer:\n  class_path: torch.optim.AdamW\n  init_args:\n    lr: 5.0e-05\nlr_scheduler: null\n",
    ),
    "Hydra": (
        ".hydra/config.yaml",
        "optimizer:\n  _target_: torch.optim.AdamW\n  lr: 5e-5  # peak\nmodel:\n  depth: 4\n",
    ),
    "torchtitan": ("job.toml", '[model]\nname = "llama3"\n\n[optimizer]\nname = "AdamW"\nlr = 5e-5\n'),
    "DeepSpeed": ("ds_config.json", json.dumps({"optimizer": {"type": "AdamW", "params": {"lr": 5e-5}}})),
    "W&B": ("files/config.yaml", "optimizer:\n    value: AdamW\nlearning_rate:\n    desc: null\n    value: 5e-05\n"),
    "a Python config": ("config.py", "optimizer = 'AdamW'\nlearning_rate = 5e-5\nmax_iters = 6 * 10\nimport os\n"),
}


def log_in(folder, rows=LOG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "log.jsonl"


def put(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("tool", LAYOUTS)
def test_the_config_of_each_tool_tells_optimizer_and_learning_rate(tmp_path, tool):
    name, text = LAYOUTS[tool]
    log = log_in(tmp_path / "log")
    put(tmp_path / "log", name, text)
    made = write(read([log]), tmp_path / "run")
    said = " ".join(made.notes)
    assert f"optimizer AdamW taken from {name} (" in said
    assert f"learning rate 5e-5 taken from {name} (" in said
    run = Run(tmp_path / "run")
    assert run.optimizers == {"0": "AdamW"}
    assert run.settings("0") == {"lr": 5e-5}
    assert run.steps()["learning_rate"].isna().all(), "what each step had is not known"
    assert len(run.summary().config) >= 1


def test_nanogpt_s_config_tells_the_rate_and_not_the_optimizer(tmp_path):
    put(tmp_path, "config.py", "# adamw optimizer\nlearning_rate = 6e-4 # max learning rate\nbeta1 = 0.9\n")
    history = read([log_in(tmp_path)])
    assert (history.optimizer, history.learning_rate) == ("", 6e-4)


def test_a_learning_rate_that_was_logged_counts_more(tmp_path):
    put(tmp_path, "checkpoint-4/trainer_state.json", json.dumps(STATE))
    put(tmp_path, "args.json", json.dumps({"optim": "adamw_torch", "learning_rate": 5e-5}))
    made = write(read([tmp_path / "checkpoint-4"]), tmp_path / "run")
    assert "optimizer AdamW taken from ../args.json (optim); --optimizer overrides it" in made.notes
    assert not any("learning rate" in note for note in made.notes)
    assert Run(tmp_path / "run").steps()["learning_rate"].tolist() == [1e-4] * 5


def test_an_optimizer_that_is_given_counts_more(tmp_path):
    put(tmp_path, "args.json", json.dumps({"optim": "adamw_torch"}))
    made = write(read([log_in(tmp_path)]), tmp_path / "run", "SGD")
    assert Run(tmp_path / "run").optimizers == {"0": "SGD"}
    assert not any("AdamW" in note for note in made.notes)


def test_a_config_that_is_named_is_the_only_one(tmp_path):
    put(tmp_path, "args.json", json.dumps({"optim": "adamw_torch"}))
    put(tmp_path, "elsewhere/my.toml", '[optimizer]\nname = "SGD"\n')
    history = read([log_in(tmp_path)], config=tmp_path / "elsewhere" / "my.toml")
    assert (history.optimizer, history.optimizer_from) == ("SGD", "my.toml (optimizer.name)")
    for name, text in {"none.txt": "optim: sgd", "bad.json": "{", "list.json": "[1]"}.items():
        put(tmp_path, name, text)
        with pytest.raises(CannotImport, match=name):
            read([log_in(tmp_path)], config=tmp_path / name)


def test_without_a_config_nothing_is_known(tmp_path):
    history = read([log_in(tmp_path)])
    assert (history.optimizer, history.learning_rate, history.config) == ("", None, {})


@pytest.mark.parametrize(
    ("text", "optimizer", "rate"),
    [
        ("optimizer: null\nlr: 0.1", None, 0.1),
        ("gan:\n  g:\n    lr: 0.1\n  d:\n    lr: 0.2", None, None),
        ("lr: 0.1\ncritic:\n  lr: 0.2\n  optimizer: SGD", "SGD", 0.1),
        ("optimizer: adamw_bnb_8bit\nlr: true", "adamw_bnb_8bit", None),
        ("lr: -1\noptimizer: a, b", None, None),
        ("lr: .nan", None, None),
        ("- optimizer: Adam with betas=(0.9,0.999)", None, None),
    ],
)
def test_what_is_not_clear_stays_unknown(text, optimizer, rate):
    nested = configs.yaml_settings(text)
    assert (configs.optimizer_in(nested) or (None, None))[1] == optimizer
    assert (configs.rate_in(nested) or (None, None))[1] == rate


def test_an_older_model_card_says_adam_of_every_optimizer(tmp_path):
    assert "optimizer" not in configs.card_settings("- optimizer: Adam with betas=(0.9,0.999) and epsilon=1e-08")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


def test_a_pickle_is_not_read_and_a_python_config_not_executed(tmp_path):
    log = log_in(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(pickle.dumps(Bomb()))
    put(tmp_path, "config.py", "raise SystemExit(1)\nlearning_rate = 0.5\nlr = __import__('os').abort()\n")
    history = read([log])
    assert history.learning_rate == 0.5
    assert any(note.startswith("training_args.bin was not read: it is a pickle") for note in history.notes)


def test_secrets_do_not_get_into_the_run(tmp_path):
    put(tmp_path, "args.json", json.dumps({"optim": "sgd", "hub_token": "hf_12345", "push_to_hub_token": None}))
    write(read([log_in(tmp_path)]), tmp_path / "run")
    assert Run(tmp_path / "run").summary().config["hub_token"] == "(hidden)"
    assert b"hf_12345" not in (tmp_path / "run" / "gradwatch.db").read_bytes()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(1e-6, 1e6)
    | st.from_regex(r"[a-z]{1,8}", fullmatch=True)
)
NESTED = st.dictionaries(
    st.from_regex(r"k[a-z_]{0,5}", fullmatch=True),
    st.recursive(
        SCALARS,
        lambda inner: st.dictionaries(st.from_regex(r"k[a-z]{0,5}", fullmatch=True), inner, min_size=1, max_size=3),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(NESTED)
def test_plain_yaml_is_read_as_pyyaml_reads_it(nested):
    yaml = pytest.importorskip("yaml")  # the oracle, not a package that gradwatch needs
    text = yaml.safe_dump(nested, default_flow_style=False)
    assert configs.yaml_settings(text) == yaml.safe_load(text) or not nested


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_beside_a_log_harm_nothing(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    log = log_in(folder)
    for name in ("args.json", "hparams.yaml", "config.toml", "config.py", "README.md"):
        (folder / name).write_bytes(content)
    assert [point.norm for point in read([log]).points] == [1.0] * 5


def test_a_config_nested_without_end_harms_nothing(tmp_path):
    put(tmp_path, "args.json", '{"a":' * 5000 + "1" + "}" * 5000)
    put(tmp_path, "hparams.yaml", "\n".join(" " * depth + "a:" for depth in range(2000)))
    put(tmp_path, "config.toml", "a = " + "[" * 2000 + "]" * 2000)
    put(tmp_path, "config.py", "a = " + "(" * 2000 + "1" + ")" * 2000)
    assert len(read([log_in(tmp_path)]).points) == 5
