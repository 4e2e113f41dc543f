"""A network of ours in PyTorch, layer by layer and with its weights: the peer of benchmarks."""


def torch_twin(network):
    """The same network as a `torch.nn.Module` that takes and gives a tensor for each modality."""
    import keras
    import torch
    from torch.nn import functional as F

    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weighted = torch.nn.ModuleDict()
            for layer in network.layers:
                if isinstance(layer, keras.layers.Conv2D):
                    self.weighted[layer.name] = as_convolution(layer)
                elif isinstance(layer, keras.layers.BatchNormalization):
                    self.weighted[layer.name] = as_norm(layer)

        def forward(self, *images):
            values = dict(zip(names, images, strict=True))
            for name, kind, sources in plan:
                values[name] = self.apply_one(name, kind, [values[s] for s in sources])
            return tuple(values[output] for output in outputs)

        def apply_one(self, name, kind, x):
            if name in self.weighted:
                y = self.weighted[name](x[0])
                return torch.sigmoid(y) if name in sigmoids else y
            return {
                "ReLU": lambda: F.relu(x[0]),
                "Add": lambda: x[0] + x[1],
                "Multiply": lambda: x[0] * x[1],
                "Concatenate": lambda: torch.cat(x, 1),
                "AveragePooling2D": lambda: F.avg_pool2d(x[0], 2),
                "UpSampling2D": lambda: F.interpolate(x[0], scale_factor=2, mode="nearest"),
            }[kind]()

    def source(tensor):
        return tensor._keras_history.operation.name

    names = [source(tensor) for tensor in network.input.values()]
    outputs = [source(tensor) for tensor in network.output.values()]
    plan = [
        (layer.name, type(layer).__name__, [source(t) for t in keras.tree.flatten(layer.input)])
        for layer in network.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    sigmoids = {c.name for c in convolutions if c.activation is keras.activations.sigmoid}
    return Twin()


def as_convolution(layer):
    """A Keras convolution as a `torch.nn.Conv2d`."""
    import torch

    kernel, bias = layer.get_weights()
    height, width, inputs, outputs = kernel.shape
    convolution = torch.nn.Conv2d(inputs, outputs, (height, width), padding=height // 2)
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
        convolution.bias.copy_(torch.from_numpy(bias))
    return convolution


def as_norm(layer):
    """A Keras batch normalisation as a `torch.nn.BatchNorm2d`."""
    import torch

    gamma, beta, mean, variance = map(torch.from_numpy, layer.get_weights())
    norm = torch.nn.BatchNorm2d(len(gamma), eps=layer.epsilon, momentum=1 - layer.momentum)
    with torch.no_grad():
        norm.weight.copy_(gamma)
        norm.bias.copy_(beta)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    return norm
