"""kill -9 in the middle of training: the run goes on from its last whole checkpoint to the same end."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import zsbir
from tests.engine.conftest import same_weights

SCRIPT = textwrap.dedent(
    """
    import sys
    import torch
    import zsbir
    torch.set_num_threads(1)
    if sys.argv[3] == "resume":  # in a process like the first: another number of threads rounds differently
        trainer = zsbir.Trainer.resume(sys.argv[2])
        print(trainer.step)
        trainer.fit()
        sys.exit()
    torch.manual_seed(0)
    data = zsbir.DATASETS.build("folder", root=sys.argv[1], unseen="bar")
    method = zsbir.build("dann", backbone={"name": "tiny", "image_size": 32, "width": 8})
    recipe = zsbir.Recipe(epochs=int(sys.argv[3]), batch_size=6, lr=1e-3, augment="affine")
    zsbir.Trainer(method, data, recipe=recipe, out=sys.argv[2], device="cpu", workers=0, save_every=1).fit()
    """
)


def test_killed_run_resumes_to_the_same_weights(shapes_root, tmp_path, rows):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = tmp_path / "killed"
    command = [sys.executable, str(script), str(shapes_root), str(run), "12"]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    # A checkpoint is written after every step, so at this moment it is most likely writing one.
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_text().count("\n") > 7:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    resume = [*command[:3], str(run), "resume"]
    done = subprocess.run(resume, env=env, check=True, capture_output=True, text=True)
    assert 0 < int(done.stdout) < 36
    whole = tmp_path / "whole"
    subprocess.run([*command[:3], str(whole), "12"], env=env, check=True, stderr=subprocess.DEVNULL)
    assert same_weights(zsbir.load(whole), zsbir.load(run))
    assert rows(run) == rows(whole)
