"""Several processes: torchrun with two, on CPU, must take the steps of one with the doubled batch."""

import json
import math
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent(
    """
    import json, sys
    import torch
    import zsbir

    root, out, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = zsbir.DATASETS.build("folder", root=root, unseen="bar", validation=2)
    method = zsbir.build("puxim", backbone={"name": "vit_tiny_patch16_224", "image_size": 32}, masker="none")
    for module in method.modules():  # each process draws its own dropout, so the sums could not agree
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    recipe = zsbir.Recipe(epochs=2, batch_size=batch, lr=1e-4, augment="affine")
    trainer = zsbir.Trainer(method, data, recipe=recipe, out=out, device="cpu", workers=0, progress=False)
    trainer.fit()
    print(json.dumps([trainer.accelerator.num_processes, trainer.accelerator.process_index, trainer.best]))
    """
)


def _run(command, tmp_path, text=SCRIPT):
    script = tmp_path / "train.py"
    script.write_text(text)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run([*command[:1], *command[1:]], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return sorted(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


@pytest.fixture
def losses():
    def read(run):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row]

    return read


def test_two_processes_equal_one_with_the_doubled_batch(five_shapes_root, tmp_path, losses):
    script = str(tmp_path / "train.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29537"]
    two = _run([*torchrun, script, str(five_shapes_root), str(tmp_path / "two"), "3"], tmp_path)
    one = _run([sys.executable, script, str(five_shapes_root), str(tmp_path / "one"), "6"], tmp_path)
    assert [row[:2] for row in two] == [[2, 0], [2, 1]]
    assert [row[:2] for row in one] == [[1, 0]]
    assert two[0][2] == two[1][2] == pytest.approx(one[0][2], abs=1e-5)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)


SBKA = textwrap.dedent(
    """
    import hashlib, json, sys
    import torch
    import zsbir

    root, out = sys.argv[1], sys.argv[2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = zsbir.DATASETS.build("folder", root=root, unseen="bar", hold_out=0.34)
    method = zsbir.build("sbka", classes=data.train.classes, backbone="test_efficientnet", image_size=32, prior=0.0,
                         warmup=0)
    teacher = method.teacher.head.weight.detach().clone()
    recipe = zsbir.Recipe(epochs=2, batch_size=4, sampling="mixed", sketch_share=0.5, lr=1e-3, augment="affine")
    trainer = zsbir.Trainer(method, data, recipe=recipe, out=out, device="cpu", workers=0, select_on="accuracy",
                            progress=False)
    trainer.fit()
    digest = hashlib.sha256()
    for parameter in method.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    moved = not torch.equal(method.teacher.head.weight, teacher)
    state = [trainer.accelerator.process_index, trainer.step, trainer.best, moved, digest.hexdigest()]
    print(json.dumps(state))
    """
)


def test_method_with_batch_norm_and_a_part_that_learns_later(shapes_root, tmp_path, losses):
    """SBKA: BatchNorm, a teacher's head without gradient up to the warm-up, selection by accuracy."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29543"]
    script = str(tmp_path / "train.py")
    first, second = _run([*torchrun, script, str(shapes_root), str(tmp_path / "run")], tmp_path, SBKA)
    assert (first[0], second[0]) == (0, 1)
    assert first[1] == second[1] > 0
    assert first[2] == second[2]  # the score that the first process has measured
    assert first[3]
    assert second[3]
    assert first[4] == second[4], "both processes hold the same weights"
    assert all(math.isfinite(value) for value in losses(tmp_path / "run"))
    assert len(losses(tmp_path / "run")) == first[1]
