"""Files that the commands are tried on."""

from pathlib import Path

import pytest
from torch import nn

from .commands import Ran, run

USER_TASK = '''
import multiprocessing
import os
from pathlib import Path

import torch
from torch import nn
from featherweight import Example, Task

class Net(nn.Module):
    """Two tied layers, a buffer, a bias."""
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, 32, bias=False)
        self.second = nn.Linear(32, 32)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.arange(32.0))
    def forward(self, x):
        return self.second(torch.relu(self.first(x)) + self.shift)

def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()

def data():
    inputs = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [(inputs, model()(inputs).argmax(1))]

def judge(net):
    with torch.no_grad():
        return -float((net(torch.ones(4, 32)) - model()(torch.ones(4, 32))).abs().mean())

def judged():
    return Task("judged", architecture=Net, model=model, example=lambda: Example((torch.zeros(1, 32),)), evaluate=judge)

def bare():
    return Task("bare", architecture=Net, model=model, example=lambda: Example((torch.zeros(1, 32),)))

def broken():
    return Task("broken", architecture=Net, model=lambda: 1 / 0, example=lambda: Example((torch.zeros(1, 32),)))

def shared():
    """Selection has every fifth sample of the evaluation."""
    inputs, targets = data()[0]
    return Task(
        "shared", architecture=Net, model=model, example=lambda: Example((torch.zeros(1, 32),)),
        evaluation=data, selection=lambda: [(inputs[::5], targets[::5])], calibration=data,
        chosen=lambda: torch.arange(50) % 5 == 0,
    )

def watched_loss(outputs, batch):
    """Leaves a file that says in which process it was asked, and of how many samples."""
    Path(__file__).with_name(f"{os.getpid()}-{len(outputs)}.asked").touch()
    return nn.functional.cross_entropy(outputs, batch[1])

def learns():
    return Task(
        "learns", architecture=Net, model=model, example=lambda: Example((torch.zeros(1, 32),)),
        evaluation=data, selection=data, train=data, loss=watched_loss,
    )

def leaves():
    """Another process than the first ends here."""
    if multiprocessing.parent_process() is not None:
        os._exit(3)
    return learns()

def task():
    return Task(
        name="mine", architecture=Net, model=model, example=lambda: Example((torch.zeros(1, 32),)),
        evaluation=data, selection=data, calibration=data, unseen=False,
    )
'''


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, digits_model: nn.Module) -> Ran:
    """The digits network made small with the least of efforts."""
    path = tmp_path_factory.mktemp("digits") / "digits.fwt"
    ran = run("compress", "digits", "--max-size", "30kB", "--trials", 2, "--epochs", 1, "-o", path, "--json")
    assert ran.code == 0, ran.err
    return ran


@pytest.fixture(scope="session")
def digits_file(digits_run: Ran) -> Path:
    return Path(digits_run.json["file"])


@pytest.fixture(scope="session")
def user_task(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("user") / "my_task.py"
    path.write_text(USER_TASK)
    return f"{path}:task"


@pytest.fixture(scope="session")
def user_file(user_task: str) -> Path:
    """A file of a task that is not built in, with tied weights."""
    path = Path(user_task.rpartition(":")[0]).with_name("mine.fwt")
    ran = run("compress", user_task, "--max-size", "2kB", "--trials", 3, "-o", path)
    assert ran.code == 0, ran.err
    return path
