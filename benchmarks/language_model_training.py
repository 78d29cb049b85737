"""Train the transformer of the Shakespeare task in less time than the task itself takes, on one core.

    FEATHERWEIGHT_DATA=... OMP_NUM_THREADS=1 python benchmarks/language_model_training.py [--rounds 8]

The task's own baseline is trained in float32 for 16 rounds, in about one and a half hours on one core. Here the same
network, data, seed and optimizer take fewer rounds, in bfloat16 autocast, with attention written out (the fused one is
several times slower in bfloat16 on the CPU). The result is ``models/shakespeare-transformer-bfloat16-<rounds>.
safetensors`` in the data folder: another model than the task's, and never taken for it.
"""

import argparse
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from featherweight.architectures.characters import Attention, CharacterTransformer
from featherweight.tasks.data import data_folder
from featherweight.tasks.download import write_atomically
from featherweight.tasks.shakespeare import TRANSFORMER, loss, plain_data, training_data
from featherweight.tasks.training import rise_and_fall

ROUNDS = 8


class WrittenOut(Attention):
    """The same parameters and the same function as :class:`Attention`, as two products and a softmax."""

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            layer(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        later = torch.full(2 * (states.shape[1],), float("-inf"), dtype=query.dtype).triu(1)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + later
        outer: Tensor = self.output((scores.softmax(-1, dtype=query.dtype) @ value).transpose(1, 2).flatten(2))
        return outer


def checkpoint(rounds: int = ROUNDS) -> Path:
    """Where the trained model is kept."""
    return data_folder() / "models" / f"shakespeare-transformer-bfloat16-{rounds}.safetensors"


def trained(rounds: int = ROUNDS) -> nn.Module:
    """The model that :func:`train` left, in evaluation mode."""
    model = CharacterTransformer()
    model.load_state_dict(safetensors.torch.load_file(checkpoint(rounds)))
    return model.eval()


def train(rounds: int, every: int = 300) -> None:
    """Train and keep the model; every ``every`` steps it is kept beside it, with ``-unfinished`` in its name."""
    torch.manual_seed(TRANSFORMER.seed)
    model = CharacterTransformer()
    for layer in model.layers:
        layer.attention.__class__ = WrittenOut
    data = training_data(TRANSFORMER.batch_size)
    steps = rounds * len(data)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=TRANSFORMER.learning_rate, weight_decay=TRANSFORMER.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rise_and_fall(step, steps))
    path, start, step = checkpoint(rounds), time.perf_counter(), 0
    for _ in range(rounds):
        for batch in data:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model(batch[0]), batch)
            value.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 50 == 0:
                print(
                    f"step {step} of {steps}: {value.item():.4f} nats, {time.perf_counter() - start:.0f} s", flush=True
                )
            if step % every == 0:
                unfinished = path.with_stem(path.stem + "-unfinished")
                write_atomically(unfinished, safetensors.torch.save(model.state_dict()))
    write_atomically(path, safetensors.torch.save(model.state_dict()))
    path.with_stem(path.stem + "-unfinished").unlink(missing_ok=True)
    print(f"selection part: {bits(trained(rounds)):.4f} bits per character")


@torch.inference_mode()
def bits(model: nn.Module) -> float:
    """Of a character of the selection part."""
    values = [loss(model(batch[0]), batch).item() * batch[0].numel() for batch in plain_data("selection")]
    return sum(values) / sum(batch[0].numel() for batch in plain_data("selection")) / 0.6931471805599453


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    train(parser.parse_args().rounds)
