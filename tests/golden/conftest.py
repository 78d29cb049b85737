import torch

torch.set_num_threads(1)  # the tensors are tiny, and several processes may share the cores
