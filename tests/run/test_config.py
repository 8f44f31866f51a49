"""The run file: a correct one loads, and all mistakes in a wrong one are named."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.data.columns import Columns
from bertnli.run.config import RunConfig
from bertnli.run.data_config import Holdout
from bertnli.run.loss_config import LossConfig
from bertnli.run.run_file import load_run
from bertnli.train import process

RUN = "model: minilm\ndata: {train: snli-100k, eval: {holdout: 2000}}\noutput: runs/x\nepochs: 2\n"


def load(tmp_path: Path, text: str, *sets: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_run(path, sets)


def test_defaults_and_overrides(tmp_path):
    run = load(tmp_path, RUN, "learning_rate=2e-5", "data.eval=snli-dev", "checkpoint.keep=5", "labels=[a, b]")
    assert run.data.eval == "snli-dev"
    assert run.learning_rate == 2e-5  # YAML reads 2e-5 as text
    assert run.checkpoint.keep == 5 and run.checkpoint.every_steps == 200
    assert run.labels == ("a", "b")
    assert load(tmp_path, RUN).data.eval == Holdout(holdout=2000)


def test_resolved_run_file_reads_back_equal(tmp_path):
    run = load(tmp_path, RUN, "data.label_names={0: entailment}", "deepspeed.zero_optimization.reduce_scatter=true")
    assert load(tmp_path, run.to_yaml()) == run
    assert run.data.label_names == {"0": "entailment"}


def test_labels_are_text_as_it_is_written(tmp_path):
    """YAML reads yes, no, on and off as True and False, and 1.0 as a number. Column names are text, too."""
    text = RUN.replace("eval:", "label_names: {yes: on, no: off, 1.0: no, 0x1: 2020-01-01, 010: y}, eval:")
    run = load(tmp_path, text + "labels: [yes, no, 1]\n")
    assert run.data.label_names == {"yes": "on", "no": "off", "1.0": "no", "0x1": "2020-01-01", "010": "y"}
    assert run.labels == ("yes", "no", "1")
    assert load(tmp_path, run.to_yaml()) == run
    for key in ("data.label_names={yes: on}", "data={train: x, label_names: {yes: on}}", "data.label_names.yes=on"):
        assert load(tmp_path, RUN, key).data.label_names == {"yes": "on"}
    assert load(tmp_path, RUN, "labels=[yes, no]").labels == ("yes", "no")
    assert load(tmp_path, RUN, "data.columns={premise: 0, label: yes}").data.columns == Columns("0", None, "yes")
    assert load(tmp_path, RUN, "keep_best=yes", "data.skip_bad_rows=on").data.skip_bad_rows is True


def test_columns_and_label_names_of_the_two_files(tmp_path):
    text = RUN.replace("{holdout: 2000}", "dev.tsv")
    both = load(tmp_path, text, "data.columns={hypothesis: claim}", "data.label_names={yes: entailment}").data
    assert both.columns == both.columns_of("train") == both.columns_of("eval") == Columns(hypothesis="claim")
    assert both.label_names == both.label_names_of("train") == both.label_names_of("eval") == {"yes": "entailment"}
    apart = load(
        tmp_path,
        text,
        "data.columns={train: {hypothesis: claim}, eval: {label: gold}}",
        "data.label_names={train: {yes: entailment}, eval: {0: neutral}}",
    )
    assert apart.data.columns_of("train") == Columns(hypothesis="claim")
    assert apart.data.columns_of("eval") == Columns(label="gold")
    assert apart.data.label_names_of("train") == {"yes": "entailment"}
    assert apart.data.label_names_of("eval") == {"0": "neutral"}
    assert load(tmp_path, apart.to_yaml()) == apart
    one = load(tmp_path, RUN, "data.columns.train.premise=note")  # without a file in data.eval
    assert load(tmp_path, one.to_yaml()) == one and one.data.columns_of("eval") == Columns()
    assert load(tmp_path, text, "data.label_names={train: entailment}").data.label_names_of("eval") == {
        "train": "entailment"
    }


@pytest.mark.parametrize(
    ("added", "key", "value"),
    [
        ("x-shared: &s {keep: 7}\ncheckpoint: {<<: *s, every_steps: 9}\n", "checkpoint", {"keep": 7, "every_steps": 9}),
        ("checkpoint: {keep: 7, <<: {keep: 8, every_steps: 9}}\n", "checkpoint", {"keep": 7, "every_steps": 9}),
        # the merged map is built after the map that it is merged into
        (
            "x-a: {b: &b {<<: {keep: 1}, keep: 2}}\ncheckpoint: {<<: *b}\n",
            "checkpoint",
            {"keep": 2, "every_steps": 200},
        ),
        ("x-a: &a {seed: 5}\n<<: [*a, {seed: 6, warmup: 0.5}]\n", "seed", 5),
        ("x-a: &a {seed: 5}\n<<: [*a, {seed: 6, warmup: 0.5}]\n", "warmup", 0.5),
        ("labels: yes sir, maybe, never\n", "labels", ("yes sir", "maybe", "never")),
        ("seed: 1e3\n", "seed", 1000),
        (
            "deepspeed: {zero_optimization: {reduce_bucket_size: 5e8}}\n",
            "deepspeed",
            {"zero_optimization": {"reduce_bucket_size": 500_000_000}},
        ),
        ("keep_best: on\n", "keep_best", True),
        ("report_to: none\n", "report_to", ()),
        ("report_to: wandb, mlflow, wandb\n", "report_to", ("wandb", "mlflow")),
        ("report_to: [tensorboard, wandb]\n", "report_to", ("tensorboard", "wandb")),
        ("arch: ~\n", "arch", None),
        ("loss: ~\n", "loss", LossConfig().model_dump()),
        ("loss: bce\n", "loss", LossConfig(kind="bce").model_dump()),
        (
            "loss: {class_weights: {yes: 1, no: 2.5e0}}\n",
            "loss",
            LossConfig(class_weights={"yes": 1, "no": 2.5}).model_dump(),
        ),
    ],
)
def test_what_is_meant_is_taken(tmp_path, added, key, value):
    assert load(tmp_path, RUN + added).model_dump()[key] == value


def test_output_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert load(tmp_path, RUN, "output=~/runs/x").output == "/home/ann/runs/x"
    assert load(tmp_path, RUN, "output=2024-01-01").output == "2024-01-01"
    assert load(tmp_path, RUN, "output=a~b").output == "a~b"


@pytest.mark.parametrize(
    ("text", "sets", "expected"),
    [
        (RUN, ("data.columns={train: {hypothesi: x}}",), "did you mean data.columns.train.hypothesis?"),
        (RUN, ("data.columns={train: {label: x}, premise: y}",), "key data.columns: found"),
        (RUN, ("data.columns={train: {label: x}, premise: y}",), "put 'premise' under train: or eval:"),
        (RUN, ("data.label_names={eval: {a: b}, c: d}",), "put 'c' under train: or eval:"),
        (RUN, ("data.columns.eval.label=x",), "data.columns.eval needs a file in data.eval"),
        (RUN, ("data.label_names.eval={a: b}",), "data.label_names.eval needs a file in data.eval"),
        (RUN, ("data.label_names={1: a, 1.0: b}",), "a label twice; found '1' and '1.0', which are the same label"),
        (RUN, ("data.label_names={train: {yes: a, YES: b}}",), "a label twice; found 'yes' and 'YES'"),
        (RUN, ("data.label_names={~: a}",), "null is not a label; put it in quotes"),
        (RUN + "learnin_rate: 1\n", (), "unknown key learnin_rate; did you mean learning_rate?"),
        (RUN, ("data.skip_bad_row=true",), "unknown key data.skip_bad_row; did you mean data.skip_bad_rows?"),
        (RUN, ("checkpoint.every=3",), "did you mean checkpoint.every_steps?"),
        ("model: minilm\nepochs: 1\noutput: x\n", (), "key data is missing"),
        (RUN, ("learning_rate=fast",), "key learning_rate: found 'fast'"),
        (RUN, ("learning_rate=-1",), "key learning_rate: found -1"),
        (RUN, ("learning_rate=.nan",), "key learning_rate"),
        (RUN, ("max_steps=3",), "epochs or max_steps"),
        (RUN, ("epochs=null",), "epochs or max_steps"),
        (RUN, ("loss=mae",), "key loss.kind: found 'mae'; input should be 'mse' or 'bce'"),
        (RUN, ("loss.class_weight=balanced",), "unknown key loss.class_weight; did you mean loss.class_weights?"),
        (
            RUN,
            ("loss.class_weights=even",),
            "key loss.class_weights: found 'even'; expected balanced, or a map",
        ),
        (RUN, ("loss.class_weights={a: 1, b: 0}",), "the weight of b is '0'; expected a number above 0"),
        (RUN, ("loss.class_weights={a: 1, A: 2}",), "a label twice; found 'a' and 'A'"),
        (RUN, ("loss.label_smoothing=1",), "key loss.label_smoothing: found 1"),
        (RUN, ("loss.pos_weight=balanced", "problem_type=regression"), "loss.pos_weight does not go with problem_type"),
        (RUN, ("loss.soft=0",), "key loss.soft: found 0; input should be greater than 0"),
        (RUN, ("loss={soft: 1, class_weights: balanced}",), "loss.class_weights does not go with loss.soft"),
        (RUN, ("loss.soft=1", "teacher=t"), "teacher does not go with loss.soft: both are soft labels"),
        (RUN, ("teacher={model: t, mix: 1}", "loss.label_smoothing=0.1"), "loss.label_smoothing has no effect with te"),
        (RUN, ("teacher=t", "problem_type=regression"), "teacher does not go with problem_type: regression"),
        (RUN, ("teacher={temperature: 2}",), "key teacher.model is missing"),
        (RUN, ("teacher={model: t, temperature: 0}",), "key teacher.temperature: found 0"),
        (RUN, ("keep_layers=3",), "key keep_layers: found 3; input should be a list"),
        (RUN, ("metric_for_best=mcc",), "metric_for_best is for keep_best and early_stopping, and neither is set"),
        (RUN, ("metric_for_best=f1", "keep_best=true"), "key metric_for_best: found 'f1'; input should be 'accuracy'"),
        (
            RUN,
            ("metric_for_best=mcc", "keep_best=true", "problem_type=regression"),
            "metric_for_best: mcc does not go with problem_type: regression; remove it, or set problem_type: single_l",
        ),
        (RUN, ("compile=auto", "zero_stage=3"), "compile: auto does not go with zero_stage: 3"),
        (RUN, ("compile=true",), "compile"),
        (RUN, ("zero_stage=4",), "key zero_stage: found 4"),
        (RUN, ("labels=[LABEL_0, LABEL_1]",), "placeholders"),
        (RUN, ("keep_best=true", "data.eval=null"), "keep_best needs data.eval; set data.eval: {holdout: 2000}"),
        (RUN, ("early_stopping=3", "data.eval=null"), "early_stopping needs data.eval"),
        (RUN, ("eval_every_steps=10", "data.eval=null"), "eval_every_steps needs data.eval"),
        (RUN, ("early_stopping=0",), "key early_stopping: found 0"),
        (RUN, ("global_batch_size=0",), "key global_batch_size: found 0"),
        (RUN, ("warmup=1",), "key warmup: found 1"),
        (RUN, ("warmup=0.2", "warmup_steps=7"), "give warmup or warmup_steps, one of them"),
        (RUN, ("warmup=0", "warmup_steps=0"), "give warmup or warmup_steps, one of them"),
        (RUN, ("warmup_steps=-1",), "key warmup_steps: found -1"),
        (RUN, ("warmup_steps=0.1",), "key warmup_steps: found 0.1"),
        (
            RUN,
            ("epochs=null", "max_steps=50", "warmup_steps=50"),
            "warmup_steps: 50 does not go with a run of 50 steps; expected fewer, so that the learning rate is "
            "reached; set warmup_steps: 5, or warmup: 0.1",
        ),
        (RUN, ("schedule=polynomial",), "key schedule: found 'polynomial'; input should be 'linear', 'cosine' or"),
        (RUN, ("betas=[0.9, 1]",), "key betas.1: found 1; input should be less than 1"),
        (RUN, ("betas=[0.9]",), "key betas"),
        (RUN, ("betas=[false, 0.9]",), "key betas.0: found False; input should be a valid number"),
        (RUN, ("freeze=0",), "key freeze: found 0; input should be embeddings, or a number of blocks from 1 on"),
        (RUN, ("freeze=pooler",), "key freeze: found 'pooler'; input should be embeddings, or a number"),
        (RUN, ("freeze='3'",), "key freeze: found '3'; input should be embeddings, or a number"),
        (RUN, ("freeze=2.5",), "key freeze: found 2.5; input should be embeddings, or a number"),
        (RUN, ("freeze=true",), "key freeze: found True; YAML reads yes"),
        (RUN, ("layer_decay=1.1",), "key layer_decay: found 1.1; input should be less than or equal to 1"),
        (RUN, ("layer_decay=0",), "key layer_decay: found 0; input should be greater than 0"),
        (RUN, ("gradient_checkpointing=1.5",), "key gradient_checkpointing: found 1.5"),
        (RUN, ("eps=0",), "key eps: found 0; input should be greater than 0"),
        (RUN, ("deepspeed.zero_optimisation.stage=2",), "unknown key deepspeed.zero_optimisation; did you mean"),
        (RUN, ("deepspeed=3",), "key deepspeed: found 3"),
        (RUN, ("learning_rate",), "expected KEY=VALUE"),
        (RUN, ("=3",), "expected KEY=VALUE"),
        (RUN + "epochs: 3\n", (), "line 5: the key 'epochs' a second time"),
        ("- a\n- b\n", (), "expected a map of keys"),
        ("a: [", (), "not a YAML file that can be read"),
        ("a: !!int x\n", (), "not a YAML file that can be read"),
        (RUN + "deepspeed: &a {x: *a}\n", (), "can be read: line 5: an alias inside its own anchor"),
        (RUN + "deepspeed: &a {<<: *a}\n", (), "can be read: line 5: an alias inside its own anchor"),
        (RUN + "labels: !!set {a, b}\n", (), "not a YAML file that can be read"),  # its order is random
        (RUN + "seed: 010\n", (), "line 5: YAML reads 010 as 8; write 8, or write it without the 0 in front"),
        (RUN + "stall_timeout: 5:00\n", (), "line 5: YAML reads 5:00 as 300; write 300, or write it in quotes"),
        (RUN + "<<: {seed: 1}\n<<: {seed: 2}\n", (), "line 6: the key << a second time; merge several maps with"),
        (RUN + "checkpoint: {<<: {keep: 1, keep: 2}}\n", (), "line 5: the key 'keep' a second time"),
        (RUN + "yes: 1\n", (), "unknown key True"),
        (RUN + "1: 1\n", (), "unknown key 1"),
        (RUN.replace("train:", "2: 1, train:"), (), "unknown key data.2"),
        (RUN + "base: &b {keep: 1}\ncheckpoint: *b\n", (), "unknown key base; if it is only there to be merged, call"),
        (RUN, ("epochs=yes",), "key epochs: found True; YAML reads yes, no, on, off, true and false as truth values"),
        (RUN, ("zero_stage=true",), "key zero_stage: found True; YAML reads yes"),
        (RUN, ("data.eval={holdout: true}",), "key data.eval.holdout: found True; YAML reads yes"),
        (RUN, ("data.eval=yes",), "key data.eval: found True; YAML reads yes"),
        (
            RUN,
            ("deepspeed.zero_optimization.reduce_bucket_size=on",),
            "reduce_bucket_size; found True; expected a numb",
        ),
        (RUN, ("deepspeed.gradient_clipping=true",), "deepspeed.gradient_clipping; found True; expected a number"),
        (RUN, ("output=~",), "key output: found null; YAML reads ~ and no value as null; write a value"),
        (RUN, ("output=3",), "key output: found 3; input should be text: put it in quotes"),
        (RUN, ("output=",), "key output: found null; YAML reads ~ and no value as null; write a value"),
        (RUN, ("output=''",), "key output: found ''; input should be text that is not empty"),
        (RUN, ('output="a\\0b"',), "key output: found 'a\\x00b'; a name or path cannot have a NUL character"),
        (RUN, ("output=~nobody-of-that-name/x",), "the home folder is not known here: write the whole path"),
        (RUN, ("output=[a, b]",), "key output: found ['a', 'b']; input should be one text, not a list"),
        (RUN, ("labels=entailment",), "key labels: found 'entailment'; input should be a list: [one, another]"),
        (RUN.replace("epochs", "epoch"), (), "unknown key epoch; did you mean epochs?"),
        (RUN.replace("model:", "modle:"), (), "unknown key modle; did you mean model?"),
        (RUN.replace("train:", "trian:"), (), "unknown key data.trian; did you mean data.train?"),
        (RUN, ("data.eval=3",), "key data.eval: found 3; input should be a name or path, or {holdout: N}"),
        (RUN, ("data.eval={holdout: 0}",), "key data.eval.holdout: found 0; input should be greater than 0"),
        (RUN, ("data.eval={holdot: 5}",), "unknown key data.eval.holdot; did you mean data.eval.holdout?"),
        (RUN, ("data=3", "keep_best=true"), "key data: found 3; input should be a map of keys"),
        (RUN, ("epochs=two",), "key epochs: found 'two'"),
        (RUN, ("data.=x",), "--set; found 'data.=x'; expected KEY=VALUE"),
        (RUN, (".=3",), "--set; found '.=3'; expected KEY=VALUE"),
        (
            RUN,
            ("data.label_names={0:entailment}",),
            "label_names.0:entailment: found null; a key and its value are apart",
        ),
        (RUN, ("data.header=",), "key data.header: found null"),
        (
            RUN,
            ("deepspeed=",),
            "key deepspeed: found null; YAML reads ~ and no value as null; write a value, or remove",
        ),
        (RUN + "data.eval: snli-dev\n", (), "unknown key 'data.eval', as its name has a dot; write data: {eval: …}"),
        (RUN, ("output=$HOME/runs",), "key output: found '$HOME/runs'; a run file's variables are not replaced"),
        (RUN, ("output=runs/${SLURM_JOB_ID}",), "key output: found 'runs/${SLURM_JOB_ID}'; a run file's variables"),
        (RUN, ("output='  '",), "key output: found '  '; it has blanks around it"),
        (RUN.replace("runs/x", "|\n  runs/x"), (), r"key output: found 'runs/x\n'; it has blanks around it"),
        (RUN, ('model="a\\eb"',), r"key model: found 'a\x1bb'; it has blanks around it, or characters such as a line"),
        (RUN, ("data.train='a.tsv '",), "key data.train: found 'a.tsv '; it has blanks around it"),
        (RUN, ("global_batch_size=1e23",), "input should be less than 2147483648"),
        (RUN, ("epochs=1e99",), "input should be less than 2147483648"),
        # a wrong zero_stage or data.eval: what depends on it is reported once it is right
        (RUN, ("zero_stage=7", "deepspeed.zero_optimization.overlap_comm=true"), "key zero_stage: found 7"),
        (RUN, ("keep_best=true", "data.eval=[]"), "key data.eval: found []"),
    ],
)
def test_a_single_mistake_is_named(tmp_path, text, sets, expected):
    with pytest.raises(InputError, match=r"run\.yaml|--set") as raised:
        load(tmp_path, text, *sets)
    assert expected in str(raised.value)
    assert "mistakes" not in str(raised.value) and "\n" not in str(raised.value)


EIGHT = """\
model: minilm
model: bert-base
data: {train: snli-100k}
epochs: two
learnin_rate: 1
labels: [LABEL_0, LABEL_1]
keep_best: true
max_grad_norm: 1
deepspeed:
  gradient_clipping: 5.0
"""
EIGHT_MISTAKES = [
    "line 2: the key 'model' a second time; remove one of the two",
    "--set; found 'seed'; expected KEY=VALUE",
    "key output is missing",
    "key epochs: found 'two'; input should be a valid integer",
    "unknown key learnin_rate; did you mean learning_rate?",
    "labels: the label names are placeholders; found LABEL_0, LABEL_1",
    "keep_best needs data.eval; set data.eval: {holdout: 2000}",
    "deepspeed.gradient_clipping: 5.0 contradicts max_grad_norm: 1.0; remove one of the two",
]


def test_all_mistakes_are_reported_at_once(tmp_path):
    with pytest.raises(InputError) as raised:
        load(tmp_path, EIGHT, "seed")
    first, *lines = str(raised.value).splitlines()
    assert first == f"run file {tmp_path / 'run.yaml'}: 8 mistakes"
    assert len(lines) == 8
    for line, mistake in zip(lines, EIGHT_MISTAKES, strict=True):
        assert line.startswith(f"  {mistake}")


def test_every_way_to_start_reports_all_mistakes(tmp_path, command, capfd):
    (tmp_path / "run.yaml").write_text(EIGHT)
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    arguments = ["run.yaml", "--set", "seed"]
    started = [command("train", *arguments), command("launch", *arguments, "--hostfile", "hosts")]
    said = [(done.returncode, done.stderr) for done in started]
    ended = process.main(arguments)  # python -m bertnli.train
    for code, stderr in (*said, (ended, capfd.readouterr().err)):
        assert code == 2 and "run file run.yaml: 8 mistakes" in stderr
        assert all(f"\n  {mistake}" in stderr for mistake in EIGHT_MISTAKES), stderr


def test_missing_file_and_wrong_encoding(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_run(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    with pytest.raises(InputError, match="UTF-8"):
        load_run(tmp_path / "latin.yaml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is a pipe, but every rank reads it; write it to a file first"):
        load_run(tmp_path / "pipe")
    with pytest.raises(InputError, match="found nothing; expected a map of keys"):
        load(tmp_path, "# model: minilm\n")


def test_batch_arithmetic_and_schedule(tmp_path):
    run = load(tmp_path, RUN, "global_batch_size=32", "warmup=0.1")
    assert run.steps_per_epoch(8000) == 250 and run.steps_per_epoch(8001) == 251
    assert run.total_steps(8001) == 502
    rates = [run.learning_rate_at(step, 500) for step in range(500)]
    assert rates[0] == 0 and rates[50] == run.learning_rate == max(rates)
    assert rates[25] == pytest.approx(run.learning_rate / 2)
    assert rates[499] == pytest.approx(run.learning_rate / 450)
    constant = load(tmp_path, RUN, "schedule=constant", "warmup=0")
    assert {constant.learning_rate_at(step, 500) for step in range(500)} == {constant.learning_rate}


@pytest.mark.parametrize("total", [1, 2, 3, 10, 37])
@pytest.mark.parametrize("warmup", [0, 0.1, 0.99])
def test_every_run_reaches_its_learning_rate(tmp_path, total, warmup):
    """A run of one step trains; the last step is never a warm-up step, however short the run."""
    run = load(tmp_path, RUN, f"warmup={warmup}")
    rates = [run.learning_rate_at(step, total) for step in range(total)]
    assert max(rates) == run.learning_rate and rates[-1] > 0
    assert all(0 <= rate <= run.learning_rate for rate in rates)


def test_best_model_and_early_stopping_are_off_unless_asked_for(tmp_path):
    run = load(tmp_path, RUN)
    assert not run.keep_best and run.early_stopping is None
    run = load(tmp_path, RUN, "keep_best=true", "early_stopping=3", "eval_every_steps=100")
    assert run.keep_best and run.early_stopping == 3
    assert load(tmp_path, run.to_yaml()) == run


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", ["warmup=0.13", "warmup_steps=13", "warmup_steps=0"])
def test_schedule_is_transformers(tmp_path, schedule, warmup):
    import torch
    from transformers import get_scheduler

    run = load(tmp_path, RUN, f"schedule={schedule}", warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=run.learning_rate)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, 0 if warmup.endswith("=0") else 13, 100)
    for step in range(100):
        assert run.learning_rate_at(step, 100) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_the_run_file_says_which_of_the_two_warm_ups_holds(tmp_path):
    for sets, expected in (
        ((), (0.1, None)),
        (("warmup=0.2",), (0.2, None)),
        (("warmup_steps=7",), (None, 7)),
        (("warmup_steps=0",), (None, 0)),
        (("warmup=null",), (0.1, None)),
    ):
        run = load(tmp_path, RUN, *sets)
        assert (run.warmup, run.warmup_steps) == expected
        assert load(tmp_path, run.to_yaml()) == run


BOMB = "x-a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"x-a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 9)
)


@pytest.mark.parametrize(
    "added, expected",
    [
        (BOMB + "labels: *a8\n", "with its aliases it has more than 100,000 values"),
        (BOMB + "deepspeed: {optimizer: *a8}\n", "with its aliases it has more than 100,000 values"),
        ("labels: &a [*a]\n", "line 5: an alias inside its own anchor"),
        ("keep_best: !!bool maybe\n", "not a YAML file that can be read: 'maybe'"),
    ],
)
def test_odd_yaml_is_refused_at_once(tmp_path, added, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        load(tmp_path, RUN + added)


@given(
    text=st.text() | st.binary().map(lambda data: data.decode("latin-1")),
    key=st.text(max_size=8),
    near=st.sampled_from(["", RUN, "data: ", "&a [*a]", "!!python/object:os.system ", "? [1]\n: 2\n"]),
)
def test_no_run_file_ends_in_a_traceback(tmp_path, text, key, near):
    try:
        load(tmp_path, (near + text).replace("\ud800", ""), f"{key}={text}")
    except InputError as error:
        assert str(error)
    except UnicodeEncodeError:
        pass  # the test's own writing of lone surrogates
