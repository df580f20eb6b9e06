"""EfficientNet-lite0 and the 1-D ResNet in torch, written from their papers' tables: what ours are compared with."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

# blocks, size of the square, stride of the first, growth, channels: Tan and Le 2019, Table 1 and section 4
LITE0 = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192)]
LITE0 += [(1, 3, 1, 6, 320)]


def pad_same(x, size, stride):
    """TensorFlow's padding: ceil(pixels / stride) outputs, an odd zero at the end."""
    pads = []
    for pixels in (x.shape[3], x.shape[2]):
        total = max((-(-pixels // stride) - 1) * stride + size - pixels, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def conv(width, out, size, stride=1, groups=1):
    return nn.Conv2d(width, out, size, stride, groups=groups, bias=False)


def norm(width):
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Bottleneck(nn.Module):
    def __init__(self, width, out, size, stride, growth):
        super().__init__()
        hidden = width * growth
        if growth > 1:
            self._expand_conv, self._bn0 = conv(width, hidden, 1), norm(hidden)
        self._depthwise_conv, self._bn1 = conv(hidden, hidden, size, stride, hidden), norm(hidden)
        self._project_conv, self._bn2 = conv(hidden, out, 1), norm(out)
        self.size, self.stride, self.adds = size, stride, stride == 1 and width == out

    def forward(self, x):
        h = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        h = F.relu6(self._bn1(self._depthwise_conv(pad_same(h, self.size, self.stride))))
        h = self._bn2(self._project_conv(h))
        return x + h if self.adds else h


class EfficientNetLite(nn.Module):
    def __init__(self, stem=32, stages=LITE0, head=1280, classes=1000):
        super().__init__()
        self._conv_stem, self._bn0 = conv(3, stem, 3, 2), norm(stem)
        width, blocks = stem, []
        for count, size, stride, growth, out in stages:
            for i in range(count):
                blocks.append(Bottleneck(width, out, size, stride if i == 0 else 1, growth))
                width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = conv(width, head, 1), norm(head)
        self._fc = nn.Linear(head, classes)

    def forward(self, x):
        """Every state (b, h, w, c), and the logits."""
        h = F.relu6(self._bn0(self._conv_stem(pad_same(x, 3, 2))))
        states = [h]
        for block in self._blocks:
            h = block(h)
            states.append(h)
        h = F.relu6(self._bn1(self._conv_head(h))).mean((2, 3))
        return [state.permute(0, 2, 3, 1) for state in states], self._fc(h)


# channels, size of the convolution, residual blocks, their size, downsampling, its order: Yuan et al. 2024
HARNET = {
    5: [(64, 5, 2, 5, 2, 2), (128, 5, 2, 5, 2, 2), (256, 5, 2, 5, 3, 1), (256, 5, 2, 5, 3, 1), (512, 5, 0, 5, 3, 1)],
    10: [(64, 5, 2, 5, 2, 2), (128, 5, 2, 5, 2, 2), (256, 5, 2, 5, 5, 1), (512, 5, 2, 5, 5, 1), (1024, 5, 0, 5, 3, 1)],
    30: [(64, 5, 2, 5, 3, 1), (128, 5, 2, 5, 3, 1), (256, 5, 2, 5, 5, 1), (512, 5, 2, 5, 5, 1), (1024, 5, 0, 5, 4, 0)],
}


def circular(width, out, size):
    return nn.Conv1d(width, out, size, padding=size // 2, padding_mode="circular", bias=False)


class Residual(nn.Module):
    def __init__(self, width, size):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm1d(width), circular(width, width, size)
        self.bn2, self.conv2 = nn.BatchNorm1d(width), circular(width, width, size)

    def forward(self, x):
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


class Blur(nn.Module):
    """A box convolved with itself `order` times, every `factor`-th sample (Zhang 2019)."""

    def __init__(self, width, factor, order):
        super().__init__()
        kernel = np.ones(1)
        for _ in range(order + 1):
            kernel = np.convolve(kernel, np.full(factor, 1 / factor))
        self.register_buffer("kernel", torch.tensor(kernel, dtype=torch.float32).expand(width, 1, -1).clone())
        self.factor, self.padding = factor, order * (factor - 1) // 2

    def forward(self, x):
        return F.conv1d(x, self.kernel, stride=self.factor, padding=self.padding, groups=x.shape[1])


class Classifier(nn.Module):
    def __init__(self, width, hidden, classes):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, classes)

    def forward(self, x):
        return self.linear2(F.relu(self.linear1(x)))


class HarNet(nn.Module):
    def __init__(self, layers, classes=4):
        super().__init__()
        width, self.feature_extractor = 3, nn.Sequential()
        for i, (out, size, blocks, inner, factor, order) in enumerate(layers):
            parts = [circular(width, out, size), *(Residual(out, inner) for _ in range(blocks)), nn.BatchNorm1d(out)]
            parts += [nn.ReLU(), Blur(out, factor, order)]
            self.feature_extractor.add_module(f"layer{i + 1}", nn.Sequential(*parts))
            width = out
        self.classifier = Classifier(width, 512, classes)

    def forward(self, x):
        """Every state (b, time, c), the input first, and the logits."""
        states = [x]
        for layer in self.feature_extractor:
            states.append(layer(states[-1]))
        return [state.transpose(1, 2) for state in states], self.classifier(states[-1].mean(2))
