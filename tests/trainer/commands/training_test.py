"""Tests `hiptrain train` end to end: ranks, resume, signals, kills, divergence, wrong configs.

    .venv/bin/python -m pytest tests/trainer/commands/training_test.py
The program is $HIPTRAIN_BUILD/hiptrain; without that variable, build/hiptrain.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
from program import PROGRAM, ROOT, expect_provenance, on_ranks

sys.path.insert(0, str(ROOT / "data"))

from megatron_writer import MegatronWriter  # noqa: E402

VOCABULARY = 200
STEPS = 8
STOPPED_BY_SIGNAL = 130

CONFIG_JSON = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": VOCABULARY, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "hidden_act": "silu", "initializer_range": 0.1, "eos_token_id": 0,
}

CONFIG_YAML = """
seed: 3
precision: {precision}
model: {{path: {model}, init: random}}
data: {{path: {tokens}, sequence_length: 512}}
attention: {{window: 32, sink_tokens: 16, block_size: 16, index_dims: 8}}
optimizer: {{learning_rate: 0.01, warmup_steps: 2}}
train: {{max_steps: 8, gradient_accumulation_steps: 2}}
checkpoint: {{every: 2, keep: 0}}
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with model/config.json, tokens and run.yaml."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG_JSON))
    generator = numpy.random.default_rng(0)
    writer = MegatronWriter(folder / "tokens", "uint16")
    for length in (700, 90, 300, 1500, 64, 65, 500, 2000, 10, 333):
        start = generator.integers(VOCABULARY)
        document = (start + 7 * numpy.arange(length) + generator.integers(0, 3, length)) % VOCABULARY
        writer.write(document)
        writer.count(length, ends_document=True)
    writer.commit({})
    for precision in ("float32", "bfloat16"):
        (folder / f"{precision}.yaml").write_text(
            CONFIG_YAML.format(model=folder / "model", tokens=folder / "tokens", precision=precision))
    return folder


def command(inputs, run, ranks=1, precision="float32", settings=()):
    words = [str(PROGRAM), "train", str(inputs / f"{precision}.yaml"), "--set", f"output_dir={run}"]
    for setting in settings:
        words += ["--set", setting]
    return on_ranks(words, ranks)


def train(*arguments, expect=0, **options):
    result = subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=120)
    assert result.returncode == expect, result.stdout + result.stderr
    return result.stdout + result.stderr


def losses(run):
    """Returns the last recorded loss of every step."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["event"] == "train":
            found[record["step"]] = record["loss"]
    return [found[step] for step in sorted(found)]


def num_steps_started(run):
    path = run / "metrics.jsonl"
    return path.read_text().count('"event":"train"') if path.exists() else 0


def wait_for_steps(run, steps, process):
    deadline = time.time() + 60
    while num_steps_started(run) < steps and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)


def weights(run, step=STEPS):
    return {path.name: path.read_bytes() for path in sorted((run / "checkpoints" / f"step_{step:08d}").glob("rank*"))}


@pytest.fixture(scope="module")
def straight(inputs, tmp_path_factory):
    """Returns an uninterrupted run for a precision and a number of ranks; each run is made once."""
    made = {}

    def run_of(ranks, precision="float32"):
        if (ranks, precision) not in made:
            run = tmp_path_factory.mktemp("straight") / "run"
            train(inputs, run, ranks=ranks, precision=precision)
            made[ranks, precision] = run
        return made[ranks, precision]

    return run_of


def test_the_loss_falls_and_every_rank_count_agrees(straight):
    one = losses(straight(1))
    assert len(one) == STEPS and one[-1] < one[0] - 0.3
    for ranks in (2, 3, 4):
        assert losses(straight(ranks)) == pytest.approx(one, rel=1e-4), ranks


@pytest.mark.parametrize("ranks", [1, 2])
def test_exposed_communication_is_named_and_adds_up(straight, ranks):
    steps = [json.loads(line) for line in (straight(ranks) / "metrics.jsonl").read_text().splitlines()]
    names = ["weights", "gradients", "index and picks", "keys and values", "queries and outputs", "gradients of keys"]
    for step in steps:
        if step["event"] != "train":
            continue
        waits = step["wait_seconds"]
        assert waits.keys() == ({f"waiting for {name}" for name in names} if ranks > 1 else set())
        assert step["exposed_communication_seconds"] == pytest.approx(sum(waits.values()))
        assert 0 <= sum(waits.values()) < step["step_seconds"]
        assert ranks == 1 or waits["waiting for weights"] > 0 and waits["waiting for keys and values"] > 0


def test_the_log_and_the_checkpoints_say_which_program_wrote_them(inputs, straight):
    run = straight(1)
    words = command(inputs, run)[1:]
    start = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert start["event"] == "start"
    expect_provenance(start["provenance"], words)
    for checkpoint in (run / "checkpoints").iterdir():
        expect_provenance(json.loads((checkpoint / "manifest.json").read_text())["provenance"], words)


@pytest.mark.parametrize("ranks, sequence_ranks", [(2, 1), (4, 2)])
def test_data_ranks_share_the_sequences_of_one_stream(inputs, straight, ranks, sequence_ranks, tmp_path):
    """Two data ranks with one accumulation step take the sequences of one rank with two."""
    train(inputs, tmp_path / "run", ranks=ranks,
          settings=[f"parallel.sequence={sequence_ranks}", "train.gradient_accumulation_steps=1"])
    assert losses(tmp_path / "run") == pytest.approx(losses(straight(1)), rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_resumed_after_a_kill_gives_the_same_bits(inputs, straight, ranks, precision, tmp_path):
    run = tmp_path / "run"
    with subprocess.Popen(command(inputs, run, ranks=ranks, precision=precision), stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_for_steps(run, 5, process)
        subprocess.run(["pkill", "-9", "-f", f"output_dir={run}"], check=False)
    output = train(inputs, run, ranks=ranks, precision=precision)
    assert "resumed from" in output
    assert losses(run) == losses(straight(ranks, precision))
    assert weights(run) == weights(straight(ranks, precision))


def test_resumed_at_another_rank_count_sees_the_same_tokens(inputs, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight(1), run)
    for step in (6, 8):
        shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
    output = train(inputs, run, ranks=3)
    assert "step_00000004 at step 4" in output
    assert losses(run) == pytest.approx(losses(straight(1)), rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_stops(inputs, straight, number, tmp_path):
    run = tmp_path / "run"
    settings = ["checkpoint.every=0"]
    with subprocess.Popen(command(inputs, run, settings=settings), stdout=subprocess.PIPE, text=True) as process:
        wait_for_steps(run, 2, process)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == STOPPED_BY_SIGNAL
    assert len(list((run / "checkpoints").iterdir())) == 1
    train(inputs, run, settings=settings)
    assert losses(run) == losses(straight(1))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_abandons_a_long_step(inputs, ranks, tmp_path):
    """The step takes many times as long as a layer. It is not finished, and the resumed run gives the same result."""
    settings = ["train.max_steps=2", "train.gradient_accumulation_steps=30", "checkpoint.every=0",
                "train.on_signal=abandon_step", "recompute.interval=2"]
    train(inputs, tmp_path / "straight", ranks=ranks, settings=settings)
    run = tmp_path / "run"
    with subprocess.Popen(command(inputs, run, ranks=ranks, settings=settings), stdout=subprocess.PIPE,
                          text=True) as process:
        wait_for_steps(run, 1, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == STOPPED_BY_SIGNAL
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000001"]
    assert len(losses(run)) == 1
    train(inputs, run, ranks=ranks, settings=settings)
    assert losses(run) == losses(tmp_path / "straight")
    assert weights(run, 2) == weights(tmp_path / "straight", 2)


def test_kills_at_random_moments_never_leave_a_broken_run(inputs, straight, tmp_path):
    run = tmp_path / "run"
    seed = random.randrange(1 << 30)
    print("seed", seed)
    generator = random.Random(seed)
    for _ in range(6):
        with subprocess.Popen(command(inputs, run, settings=["checkpoint.every=1"]), stdout=subprocess.DEVNULL) as process:
            before = num_steps_started(run)
            wait_for_steps(run, before + generator.randrange(3), process)
            time.sleep(generator.random() * 0.1)
            process.kill()
    train(inputs, run, settings=["checkpoint.every=1"])
    assert losses(run) == losses(straight(1))


def test_old_checkpoints_are_removed_as_configured(inputs, tmp_path):
    train(inputs, tmp_path / "run", settings=["checkpoint.every=1", "checkpoint.keep=2"])
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step_00000007", "step_00000008"]


def test_steps_that_are_not_finite_are_skipped_and_three_end_the_run(inputs, tmp_path):
    run = tmp_path / "run"
    output = train(inputs, run, expect=5,
                   settings=["optimizer.learning_rate=1e38", "optimizer.warmup_steps=0", "checkpoint.every=1"])
    assert "SKIPPED" in output and "3 steps in a row" in output and "step_0000000" in output
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    skipped = [record for record in records if record.get("skipped")]
    assert len(skipped) == 3 and records[-1]["event"] == "stop" and records[-1]["reason"] == "diverged"
    assert skipped[0]["loss"] is None and "loss" in skipped[0]["nonfinite"]


def test_an_earlier_run_is_not_overwritten(inputs, straight, tmp_path):
    shutil.copytree(straight(1), tmp_path / "run")
    assert "from an earlier run" in train(inputs, tmp_path / "run", settings=["checkpoint.resume=none"], expect=2)


def test_a_resumed_run_needs_the_rotary_settings_of_its_checkpoint(inputs, straight, tmp_path):
    theta, positions = settings = ["model.rope_theta=1000000", "model.max_position_embeddings=32768"]
    output = train(inputs, tmp_path / "straight", settings=settings)
    values = "model.rope_theta: 1.0e+06, model.max_position_embeddings: 32768"
    assert f"{values} in place of the model's config.json" in output
    assert losses(tmp_path / "straight") != losses(straight(1))
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "straight", run)
    for step in (6, 8):
        shutil.rmtree(run / "checkpoints" / f"step_{step:08d}")
    for others in ([], [theta], [positions, "model.rope_theta=10000"],
                   [*settings, "model.rope_scaling={rope_type: linear, factor: 2}"]):
        assert f"was trained with {values}, but this run has" in train(inputs, run, settings=others, expect=2)
    # values are compared, not their spelling
    same = [theta.replace("1000000", "1e6"), positions, "model.rope_scaling={rope_type: default}"]
    assert "at step 4" in train(inputs, run, settings=same)
    assert losses(run) == losses(tmp_path / "straight") and weights(run) == weights(tmp_path / "straight")


def test_errors_name_damaged_inputs(inputs, straight, tmp_path):
    for suffix in (".bin", ".idx"):
        for other in (".bin", ".idx"):
            shutil.copy(inputs / f"tokens{other}", tmp_path / f"cut{other}")
        os.truncate(tmp_path / f"cut{suffix}", 100)
        assert "cut" in train(inputs, tmp_path / "run", settings=[f"data.path={tmp_path}/cut"], expect=3)
    shutil.copytree(straight(1), tmp_path / "damaged")
    for checkpoint in (tmp_path / "damaged" / "checkpoints").iterdir():
        os.truncate(checkpoint / "rank_00000.safetensors", 1000)
    assert "none of its" in train(inputs, tmp_path / "damaged", expect=3)


def test_all_mistakes_of_a_config_are_reported(inputs, tmp_path):
    (tmp_path / "wrong.yaml").write_text("model: {path: nowhere}\ndata: {path: x, sequence_lenght: 5}\nprecision: half\n")
    result = subprocess.run([str(PROGRAM), "train", str(tmp_path / "wrong.yaml")], capture_output=True, text=True)
    assert result.returncode == 2
    assert "wrong.yaml:2:" in result.stderr and "did you mean 'sequence_length'" in result.stderr
    assert "wrong.yaml:3:" in result.stderr and "bfloat16" in result.stderr


def test_evaluation_while_training_and_resolved_config(inputs, tmp_path):
    run = tmp_path / "run"
    train(inputs, run, settings=[f"evaluation.path={inputs}/tokens", "evaluation.every=4", "evaluation.sequences=3"])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["plan"]["fits"] and records[0]["plan"]["recompute_interval"] == 1
    evaluations = [record for record in records if record["event"] == "eval"]
    assert [record["step"] for record in evaluations] == [4, 8]
    assert evaluations[1]["loss"] < evaluations[0]["loss"]
    again = tmp_path / "again"
    result = subprocess.run([str(PROGRAM), "train", str(run / "config.resolved.yaml"), "--set", f"output_dir={again}"],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert losses(again) == losses(run)
