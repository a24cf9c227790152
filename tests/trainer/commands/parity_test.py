"""Compares hiptrain with transformers and PyTorch on small random models of every family: logits, training, export.

    .venv/bin/python -m pytest tests/trainer/commands/parity_test.py
The program is $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from program import PROGRAM, ROOT, on_ranks

sys.path[:0] = [str(ROOT / "data"), str(ROOT / "tests" / "golden")]

from make_tiny_models import TINY_MODELS, VOCABULARY_SIZE, make_tiny_model  # noqa: E402
from megatron_writer import MegatronWriter  # noqa: E402

LOGIT_TOKENS = 2000
NUM_STEPS = 20
TRAIN_TOKENS = 256  # tokens per sequence
LEARNING_RATE, WEIGHT_DECAY, BETAS, EPSILON, MAX_GRAD_NORM = 2e-3, 0.1, (0.9, 0.95), 1e-8, 1.0
EXACT = ("precision=float32", "attention.type=dense")
TRAINED_MODELS = ["llama2", "llama3.2", "llama, biases", "mistral", "qwen2", "qwen2.5", "qwen3", "qwen3, biases"]


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    torch.set_num_threads(min(2, os.cpu_count()))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Returns a function from a model's name to its folder; each folder is made once."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder_of(name):
        if name not in made:
            made[name] = make_tiny_model(name, root / str(len(made)))
        return made[name]

    return folder_of


def hiptrain(*arguments, settings=()):
    """Runs a command and returns its standard output."""
    command = [str(PROGRAM), *map(str, arguments)]
    for setting in (*EXACT, *settings):
        command += ["--set", setting]
    return run(command)


def run(command, environment=None):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | (environment or {}))
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def random_documents(lengths, seed):
    """Returns one array of token ids per length. They are not uniform, so that training can lower the loss."""
    generator = numpy.random.default_rng(seed)
    weights = 1 / numpy.arange(1, VOCABULARY_SIZE + 1)
    return [generator.choice(VOCABULARY_SIZE, size=length, p=weights / weights.sum()) for length in lengths]


def write_tokens(prefix, documents):
    writer = MegatronWriter(prefix, "uint16")
    for document in documents:
        writer.write(document)
        writer.count(len(document), ends_document=True)
    writer.commit({})
    return prefix


def load_model(folder, config=None):
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager")


def transformers_logits(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens)[None]).logits[0]


def our_logits(folder, tokens, work, settings=()):
    """Returns transformers' logits: (tokens, vocabulary) float32."""
    prefix = write_tokens(work / "tokens", [tokens])
    out = work / "logits.safetensors"
    hiptrain("evaluate", "--model", folder, "--data", prefix, "--logits", out,
             settings=[f"data.sequence_length={len(tokens)}", *settings])
    logits = load_file(out)["logits"]
    assert logits.dtype == torch.float32 and logits.shape == (len(tokens), VOCABULARY_SIZE)
    return logits


@pytest.mark.parametrize("name", TINY_MODELS)
def test_logits_equal_transformers(name, model_folder, tmp_path):
    folder = model_folder(name)
    (tokens,) = random_documents([LOGIT_TOKENS], seed=1)
    theirs = transformers_logits(load_model(folder), tokens)
    ours = our_logits(folder, tokens, tmp_path)
    assert theirs.std() > 0.3  # otherwise any model would pass
    difference = float((ours - theirs).abs().max())
    print(f"largest difference {difference:.2e}, largest logit {float(theirs.abs().max()):.1f}")
    assert difference <= 1e-4


# A model, the settings of a run, and the equivalent transformers config.
LONGROPE = {"rope_type": "longrope", "short_factor": [1 + pair / 5 for pair in range(8)],
            "long_factor": [1.0 + pair for pair in range(8)], "original_max_position_embeddings": 1024}
SETTINGS = {
    "theta": ("llama2", {"rope_theta": 1000000, "max_position_embeddings": 32768},
              {"rope_type": "default", "rope_theta": 1e6}, 32768),
    "theta below llama3 scaling": ("llama3.1", {"rope_theta": 2e6}, {
        "rope_type": "llama3", "rope_theta": 2e6, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256}, 4096),
    "linear": ("mistral", {"rope_scaling": {"rope_type": "linear", "factor": 4}},
               {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4}, 4096),
    "dynamic": ("llama2", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 512},
                {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}, 512),
    "yarn of the model's own context": (
        "qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 16384},
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
    "yarn instead of llama3, and theta": (
        "llama3.2", {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
                                                         "original_max_position_embeddings": 512}},
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 8.0, "original_max_position_embeddings": 512}, 4096),
    "longrope": ("llama, yarn", {"rope_scaling": LONGROPE}, {"rope_theta": 10000.0, **LONGROPE}, 4096),
    "none": ("qwen2.5", {"rope_scaling": "none"}, {"rope_type": "default", "rope_theta": 1e6}, 4096),
    "null": ("llama, linear", {"rope_scaling": None, "rope_theta": 5e4},
             {"rope_type": "default", "rope_theta": 5e4}, 4096),
}


def with_settings(name, model_folder):
    """Returns (model folder, settings as arguments, the equivalent model in transformers)."""
    model_name, fields, rope, positions = SETTINGS[name]
    folder = model_folder(model_name)
    config = AutoConfig.from_pretrained(folder)
    config.rope_parameters, config.max_position_embeddings = dict(rope), positions
    settings = [f"model.{key}={json.dumps(value)}" for key, value in fields.items() if value != "none"]
    settings += [f"model.{key}=none" for key, value in fields.items() if value == "none"]
    return folder, settings, load_model(folder, config)


@pytest.mark.parametrize("name", SETTINGS)
def test_logits_with_settings_equal_transformers(name, model_folder, tmp_path):
    folder, settings, model = with_settings(name, model_folder)
    (tokens,) = random_documents([LOGIT_TOKENS], seed=1)
    theirs = transformers_logits(model, tokens)
    assert float((our_logits(folder, tokens, tmp_path, settings) - theirs).abs().max()) <= 1e-4
    as_it_was = transformers_logits(load_model(folder), tokens)
    assert float((as_it_was - theirs).abs().max()) > 1e-2  # otherwise the settings would have no effect


def torch_optimizer(model):
    groups = [{"params": [p for p in model.parameters() if (p.ndim == 2) == decays],
               "weight_decay": WEIGHT_DECAY if decays else 0.0} for decays in (True, False)]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)


def train_in_torch(model, steps):
    """Returns the loss of each step, the mean over all targets. steps: for each step a list of documents."""
    model.train()
    optimizer = torch_optimizer(model)
    losses = []
    for documents in steps:
        num_targets = sum(len(document) - 1 for document in documents)
        optimizer.zero_grad()
        total = 0.0
        for document in documents:
            ids = torch.from_numpy(document)
            logits = model(ids[None]).logits[0]
            loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum") / num_targets
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        losses.append(total)
    model.eval()
    return losses


def train_settings(folder, prefix, output, steps):
    return {
        "model.path": folder, "data.path": prefix, "output_dir": output, "data.shuffle": "false",
        "data.packing": "documents", "data.sequence_length": TRAIN_TOKENS, "train.max_steps": steps,
        "optimizer.learning_rate": LEARNING_RATE, "optimizer.weight_decay": WEIGHT_DECAY,
        "optimizer.adam_beta1": BETAS[0], "optimizer.adam_beta2": BETAS[1], "optimizer.adam_epsilon": EPSILON,
        "optimizer.max_grad_norm": MAX_GRAD_NORM, "optimizer.lr_scheduler_type": "constant",
        "optimizer.warmup_steps": 0,
    }


def train(settings, work, ranks=1, more=()):
    """Trains and returns (losses, folder of the last checkpoint)."""
    config = work / "run.yaml"
    config.write_text("seed: 5\n")
    command = [str(PROGRAM), "train", str(config)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    for setting in (*EXACT, *more):
        command += ["--set", setting]
    run(on_ranks(command, ranks), {"OMP_NUM_THREADS": "1"})  # in such small steps threads only wait
    output = Path(settings["output_dir"])
    events = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "train"]
    return losses, sorted((output / "checkpoints").iterdir())[-1]


def assert_losses_follow(ours, theirs):
    assert len(ours) == len(theirs) == NUM_STEPS
    worst = max(abs(our - their) / their for our, their in zip(ours, theirs))
    print(f"loss {theirs[0]:.4f} to {theirs[-1]:.4f}, largest relative difference {worst:.1e}")
    assert theirs[-1] < theirs[0] - 0.1  # the model learns, so that losses depend on earlier steps
    assert worst <= 1e-4


def export(checkpoint, output, dtype, *options):
    run([str(PROGRAM), "export", str(checkpoint), str(output), "--dtype", dtype, *options])
    return output


def assert_same_other_files(source, exported, changed=()):
    def other_files(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()
                if path.name != "config.json" and "safetensors" not in path.name}

    assert other_files(source) == other_files(exported) != {}
    assert AutoTokenizer.from_pretrained(exported).encode("def f(x):") == \
        AutoTokenizer.from_pretrained(source).encode("def f(x):")
    configs = [json.loads((folder / "config.json").read_text()) for folder in (source, exported)]
    types = [{config.pop("dtype", None), config.pop("torch_dtype", None)} - {None} for config in configs]
    for config in configs:
        for field in changed:
            config.pop(field, None)
    assert configs[0] == configs[1] and list(configs[0]) == list(configs[1])
    return types[1]


@pytest.mark.parametrize("name", TRAINED_MODELS)
def test_training_follows_pytorch_and_exports(name, model_folder, tmp_path):
    folder = model_folder(name)
    documents = random_documents([TRAIN_TOKENS] * NUM_STEPS, seed=2)
    prefix = write_tokens(tmp_path / "tokens", documents)
    model = load_model(folder)
    theirs = train_in_torch(model, [[document] for document in documents])
    ours, checkpoint = train(train_settings(folder, prefix, tmp_path / "run", NUM_STEPS), tmp_path)
    assert_losses_follow(ours, theirs)

    exported = export(checkpoint, tmp_path / "exported", "float32")
    assert assert_same_other_files(folder, exported) == {"float32"}
    (tokens,) = random_documents([LOGIT_TOKENS], seed=3)
    reloaded = transformers_logits(load_model(exported), tokens)
    assert float((our_logits(exported, tokens, tmp_path) - reloaded).abs().max()) <= 1e-4
    assert float((transformers_logits(model, tokens) - reloaded).abs().max()) <= 2e-2  # 20 steps amplify rounding


ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings")


@pytest.mark.parametrize("name", ["theta", "yarn of the model's own context"])
def test_training_with_settings_follows_pytorch_and_exports_them(name, model_folder, tmp_path):
    source, settings, model = with_settings(name, model_folder)
    folder = shutil.copytree(source, tmp_path / "model")
    prefix = write_tokens(tmp_path / "tokens", random_documents([TRAIN_TOKENS] * NUM_STEPS, seed=2))
    theirs = train_in_torch(model, [[document] for document in random_documents([TRAIN_TOKENS] * NUM_STEPS, seed=2)])
    ours, checkpoint = train(train_settings(folder, prefix, tmp_path / "run", NUM_STEPS), tmp_path, more=settings)
    assert_losses_follow(ours, theirs)

    moved = folder.rename(tmp_path / "moved")
    exported = export(checkpoint, tmp_path / "exported", "float32", "--model", str(moved))
    assert_same_other_files(source, exported, changed=ROPE_FIELDS)
    config, expected = AutoConfig.from_pretrained(exported), model.config
    rope = {key: value for key, value in config.rope_parameters.items() if key != "type"}
    assert rope == expected.rope_parameters and config.max_position_embeddings == expected.max_position_embeddings
    spelling = {field for field in ROPE_FIELDS if field in json.loads((source / "config.json").read_text())}
    assert spelling == {field for field in ROPE_FIELDS if field in json.loads((exported / "config.json").read_text())}
    (tokens,) = random_documents([LOGIT_TOKENS], seed=3)
    reloaded = transformers_logits(load_model(exported), tokens)
    assert float((transformers_logits(model, tokens) - reloaded).abs().max()) <= 2e-2
    for again in ((), settings):  # settings that the exported folder already has change nothing
        assert float((our_logits(exported, tokens, tmp_path, again) - reloaded).abs().max()) <= 1e-4


def test_several_documents_a_step_and_two_ranks(model_folder, tmp_path):
    folder = model_folder("llama3.1")
    lengths = [[100, 120] if step % 2 else [200] for step in range(NUM_STEPS)]
    steps = [random_documents(sizes, seed=10 + step) for step, sizes in enumerate(lengths)]
    prefix = write_tokens(tmp_path / "tokens", [document for documents in steps for document in documents])
    theirs = train_in_torch(load_model(folder), steps)
    for ranks in (1, 2):
        ours, _ = train(train_settings(folder, prefix, tmp_path / f"run{ranks}", NUM_STEPS), tmp_path, ranks)
        assert_losses_follow(ours, theirs)


@pytest.mark.parametrize("name", ["llama2", "llama3.2", "qwen2", "qwen3"])
def test_export_without_training_is_the_source(name, model_folder, tmp_path):
    folder = model_folder(name)
    prefix = write_tokens(tmp_path / "tokens", random_documents([TRAIN_TOKENS], seed=4))
    settings = train_settings(folder, prefix, tmp_path / "run", 1) | {"optimizer.learning_rate": 0}
    _, checkpoint = train(settings, tmp_path)
    exported = export(checkpoint, tmp_path / "exported", "float32")
    rounded = export(checkpoint, tmp_path / "rounded", "bfloat16", "--max-shard-size", "60KB")
    assert len(list(rounded.glob("model-*-of-*.safetensors"))) > 1
    source = load_model(folder).state_dict()
    for name_, tensor in load_model(exported).state_dict().items():
        assert torch.equal(tensor, source[name_]), name_
    for name_, tensor in AutoModelForCausalLM.from_pretrained(rounded).state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, source[name_].bfloat16()), name_


def test_export_refuses_a_folder_in_use(model_folder, tmp_path):
    folder = model_folder("llama3.1")
    prefix = write_tokens(tmp_path / "tokens", random_documents([TRAIN_TOKENS], seed=4))
    _, checkpoint = train(train_settings(folder, prefix, tmp_path / "run", 1), tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    result = subprocess.run([str(PROGRAM), "export", str(checkpoint), str(folder)], capture_output=True, text=True)
    assert result.returncode != 0 and "not empty" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_sliding_window_shorter_than_the_sequence_is_refused(model_folder, tmp_path):
    source = model_folder("mistral, long window")
    folder = tmp_path / "model"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 100}))
    prefix = write_tokens(tmp_path / "tokens", random_documents([TRAIN_TOKENS], seed=4))
    command = [str(PROGRAM), "evaluate", "--model", str(folder), "--data", str(prefix)]
    for setting in (*EXACT, f"data.sequence_length={TRAIN_TOKENS}"):
        command += ["--set", setting]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0 and "sliding_window" in result.stderr
