"""Tests how `hiptrain train` and `hiptrain evaluate` measure the selection, and the tools that plot and compare it.

    .venv/bin/python -m pytest tests/trainer/commands/selection_test.py
The program is $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain.
"""

import json
import re
import subprocess
import sys

import matplotlib.image
import numpy
import pytest
from safetensors import safe_open
from program import PROGRAM, ROOT, on_ranks

sys.path.insert(0, str(ROOT / "data"))

from megatron_writer import MegatronWriter  # noqa: E402

VOCABULARY = 200
CONFIG_JSON = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": VOCABULARY, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "initializer_range": 0.1, "eos_token_id": 0,
}
CONFIG_YAML = """
seed: 3
precision: float32
model: {{path: {model}, init: random}}
data: {{path: {tokens}, sequence_length: 512}}
attention: {{window: 32, sink_tokens: 16, block_size: 16, index_dims: 8, layers: [{{layers: 1, type: dense}}]}}
optimizer: {{learning_rate: 0.01}}
train: {{max_steps: 4}}
metrics: {{recall_every: 3}}
"""
ATTENTION = ("attention.window=32", "attention.sink_tokens=16", "attention.block_size=16", "data.sequence_length=512")


def run(*command, ranks=1):
    result = subprocess.run(on_ranks(map(str, command), ranks), capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with model/config.json, tokens and run.yaml."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG_JSON))
    generator = numpy.random.default_rng(0)
    writer = MegatronWriter(folder / "tokens", "uint16")
    for length in (1100, 400, 90, 700):
        writer.write((generator.integers(VOCABULARY) + 7 * numpy.arange(length)) % VOCABULARY)
        writer.count(length, ends_document=True)
    writer.commit({})
    (folder / "run.yaml").write_text(CONFIG_YAML.format(model=folder / "model", tokens=folder / "tokens"))
    return folder


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """Returns (output_dir, printed output) for a number of ranks; each run is made once."""
    made = {}

    def run_of(ranks):
        if ranks not in made:
            folder = tmp_path_factory.mktemp("runs") / f"ranks_{ranks}"
            made[ranks] = folder, run(PROGRAM, "train", inputs / "run.yaml", "--set", f"output_dir={folder}", ranks=ranks)
        return made[ranks]

    return run_of


def steps_of(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == "train"]


def numbers_of(recall):
    return [number for layer in recall["layers"] for field in ("kv_head_recall", "kv_head_missed") for number in layer[field]]


def test_a_run_measures_the_first_and_every_nth_step(trained):
    folder, output = trained(1)
    steps = steps_of(folder)
    assert [("recall" in step) for step in steps] == [True, False, False, True]
    recall = steps[0]["recall"]
    assert [layer["layer"] for layer in recall["layers"]] == [0, 2], "layer 1 is dense"
    assert all(0 < number < 1 for number in numbers_of(recall))
    assert recall["worst"] == min(layer["recall"] for layer in recall["layers"])
    assert recall["missed"] > 0 and recall["layers"][0]["list_entries"] > 1
    lines = [line for line in output.splitlines() if line.startswith("step")]
    assert [bool(re.search(r"recall 0\.\d+ worst 0\.\d+ \(layer [02]\)", line)) for line in lines] == [
        True, False, False, True]


def test_a_layer_with_low_recall_is_reported_once(inputs, tmp_path):
    """Lists of one block cover almost nothing of the flat attention of an untrained model."""
    output = run(PROGRAM, "train", inputs / "run.yaml", "--set", f"output_dir={tmp_path}/run", "--set",
                 "attention.max_blocks=1", "--set", "attention.layers=[]", "--set", "metrics.recall_every=1")
    warnings = [line for line in output.splitlines() if line.startswith("warning: layer")]
    assert len(warnings) == 1 and "layers 0-2 cover as little as 0." in warnings[0] and "attention.picks" in warnings[0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_recall_does_not_depend_on_the_number_of_ranks(trained, ranks):
    for one, several in zip(steps_of(trained(1)[0]), steps_of(trained(ranks)[0])):
        if "recall" in one:
            assert numbers_of(several["recall"]) == pytest.approx(numbers_of(one["recall"]), abs=2e-3)
            assert several["recall"]["layers"][0]["list_entries"] == pytest.approx(one["recall"]["layers"][0]["list_entries"])


def test_recall_is_not_measured_unless_asked_for(inputs, tmp_path):
    output = run(PROGRAM, "train", inputs / "run.yaml", "--set", f"output_dir={tmp_path}/run", "--set",
                 "metrics.recall_every=0", "--set", "train.max_steps=1")
    steps = [line for line in output.splitlines() if line.startswith("step")]
    assert steps and not any("recall" in line for line in steps) and "recall" not in steps_of(tmp_path / "run")[0]


def evaluate(inputs, *arguments, ranks=1):
    return run(PROGRAM, "evaluate", inputs / "run.yaml", "--data", inputs / "tokens", *arguments, ranks=ranks)


@pytest.fixture(scope="module")
def selection(inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("selection") / "of_the_worst.safetensors"
    return path, evaluate(inputs, "--by-layer", "--selection", path)


def tensors_of(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def test_evaluate_prints_and_writes_the_same(selection):
    path, output = selection
    tensors, numbers = tensors_of(path)
    recall = tensors["recall"]
    assert recall.shape == tensors["missed"].shape == (3, 2) and numpy.isnan(recall[1]).all()
    mean, worst, layer = re.search(r"recall (\S+) worst (\S+) \(layer (\d)\); missed of a row 0\.\d+", output).groups()
    assert float(mean) == pytest.approx(numpy.nanmean(recall), abs=1e-3)
    assert float(worst) == pytest.approx(numpy.nanmin(recall), abs=1e-3)
    assert int(layer) == int(numbers["layer"]) == numpy.unravel_index(numpy.nanargmin(recall), recall.shape)[0]
    assert len(re.findall(r"^ *[02] +0\.\d+ ", output, re.M)) == 2
    rows, blocks = tensors["attention"].shape
    assert rows <= 64 and tensors["first_rows"].shape == (blocks,)
    assert 0 < tensors["attention"].sum() < rows and (tensors["first_rows"] < 64).any()
    lengths = tensors["list_lengths"]
    assert lengths.shape == (3, 128) and numpy.nanmax(lengths) > 1 and numpy.isnan(lengths[0]).any()


def test_evaluate_writes_the_same_on_two_ranks(inputs, selection, tmp_path):
    one, numbers = tensors_of(selection[0])
    evaluate(inputs, "--selection", tmp_path / "two.safetensors", "--head", numbers["layer"], numbers["query_head"],
             ranks=2)
    two, others = tensors_of(tmp_path / "two.safetensors")
    assert numbers == others
    for name, tensor in one.items():
        assert numpy.allclose(tensor, two[name], atol=1e-3, equal_nan=True), name


def test_evaluate_without_a_searched_layer(inputs, tmp_path):
    command = [PROGRAM, "evaluate", inputs / "run.yaml", "--data", inputs / "tokens", "--set", "attention.layers=[]"]
    dense = [*command, "--set", "attention.type=dense"]
    assert "recall" not in run(*dense)
    for wrong, message in (([*dense, "--selection", tmp_path / "x"], "no recall was measured"),
                           ([*command, "--selection", tmp_path / "x", "--head", "3", "0"], "3 layers and 4 query heads")):
        result = subprocess.run(list(map(str, wrong)), capture_output=True, text=True)
        assert result.returncode == 2 and message in result.stderr


def tool(name, *arguments):
    return run(sys.executable, ROOT / "launch" / name, *arguments)


def test_plots(selection, trained, tmp_path):
    for source in (selection[0], trained(1)[0]):
        output = tmp_path / "picture.png"
        tool("plot_selection.py", source, "--output", output)
        picture = matplotlib.image.imread(output)
        assert picture.shape[0] > 400 and picture.shape[1] > 1500 and picture.std() > 0.05
        output.unlink()


def test_the_table_of_settings(trained, inputs, tmp_path):
    run(PROGRAM, "export", trained(1)[0] / "checkpoints" / "step_00000004", tmp_path / "model")
    settings = [word for setting in ATTENTION for word in ("--set", setting)]
    output = tool("selection_table.py", tmp_path / "model", inputs / "tokens", "--program", PROGRAM, "--only", "pick",
                  *settings)
    lines = output.splitlines()
    assert lines[0] == "| attention | loss | against dense | picked blocks a tile | recall, mean and worst layer | seconds |"
    names = [line.split(" | ")[0] for line in lines[2:] if line.startswith("| ")]
    assert names[:2] == ["| dense", "| **the defaults**"]
    assert len(names) == 5 and all(re.fullmatch(r"\| [134] picks?", name) for name in names[2:]), "the default once"
    cells = lines[3].split(" | ")
    assert cells[2].endswith("%") and float(cells[3]) > 1 and "worst" in cells[4]
    assert "Recall of the defaults by layer:" in lines and lines[-1].startswith("take ")
    assert "0.3% more loss than dense" in lines[-1]
