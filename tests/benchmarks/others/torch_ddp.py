"""The U-Net's step in PyTorch under DistributedDataParallel, channels last; one of the processes.

torch_ddp.py RANK PORT,... STEPS        prints the seconds of each step, as JSON
"""

# ruff: noqa: E402 (what is in the environment must be there before)
from __future__ import annotations

import json
import os
import sys
import time

rank, ports, steps = int(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": ports[0], "RANK": str(rank), "WORLD_SIZE": str(len(ports))}

import torch  # type: ignore[import-not-found, unused-ignore]
from torch import nn

SIZE, BATCH, LAYERS, FEATURES, DROP = 172, 4, 3, 16, 0.25

torch.set_num_threads(1)
torch.manual_seed(1)
torch.distributed.init_process_group("gloo")


def convolutions(inputs: int, features: int) -> nn.Sequential:
    """Twice: convolution, ReLU, dropout."""
    parts: list[nn.Module] = []
    for before in (inputs, features):
        parts += [nn.Conv2d(before, features, 3), nn.ReLU(inplace=True), nn.Dropout(DROP)]
    return nn.Sequential(*parts)


class UNet(nn.Module):
    """The same 116 770 parameters."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [FEATURES * 2**level for level in range(LAYERS)]
        self.down = nn.ModuleList(
            convolutions(1 if not level else sizes[level - 1], sizes[level]) for level in range(3)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(sizes[level + 1], sizes[level], 2, 2) for level in (1, 0))
        self.join = nn.ModuleList(convolutions(2 * sizes[level], sizes[level]) for level in (1, 0))
        self.logits = nn.Conv2d(FEATURES, 2, 1)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Logits [b, 2, h - 40, w - 40] of images [b, 1, h, w]."""
        skipped = []
        for level, part in enumerate(self.down):
            value = part(value)
            if level < LAYERS - 1:
                skipped.append(value)
                value = nn.functional.max_pool2d(value, 2)
        for up, join in zip(self.up, self.join, strict=True):
            value = nn.functional.relu(up(value))
            before = skipped.pop()
            top, left = ((before.shape[axis] - value.shape[axis]) // 2 for axis in (2, 3))
            cut = before[:, :, top : top + value.shape[2], left : left + value.shape[3]]
            value = join(torch.cat([cut, value], dim=1))
        result: torch.Tensor = self.logits(value)
        return result


plain = UNet()
assert sum(parameter.numel() for parameter in plain.parameters()) == 116_770
model = nn.parallel.DistributedDataParallel(plain.to(memory_format=torch.channels_last))
optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.2)
images = torch.rand(BATCH, 1, SIZE, SIZE).to(memory_format=torch.channels_last)
labels = (torch.rand(BATCH, SIZE - 40, SIZE - 40) > 0.5).long()
seconds = []
for _ in range(steps):
    began = time.perf_counter()
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    float(loss.detach())
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds))
