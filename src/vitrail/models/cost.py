"""What a model costs, from its configuration alone."""

from vitrail.config import ResNetConfig, ViTConfig


def parameters(config: ViTConfig | ResNetConfig) -> int:
    """Number of trainable numbers."""
    if isinstance(config, ResNetConfig):
        return _resnet(config)[0]
    width, hidden = config.width, config.mlp_dim * (2 if config.mlp == "swiglu" else 1)
    stem = 0 if config.stem is None else _resnet(config.stem)[0]
    embedding = _patch_inputs(config) * width + (width if config.patch_bias else 0)
    tokens = config.prefix + (config.position_rows + config.patches if config.position == "learned" else 0)
    biases = 0 if not config.qkv_bias else 3 * width if config.key_bias else 2 * width
    qkv = 3 * width * width + biases + (4 * width // config.heads if config.qk_norm else 0)
    mlp = hidden * (width + 1) + width * (config.mlp_dim + 1)
    scales = 2 * width if config.layer_scale is not None else 0
    block = 4 * width + qkv + width * (width + 1) + scales + mlp
    norms = 4 * width if config.norm_before else 2 * width
    return stem + embedding + tokens * width + config.depth * block + norms + _pool(config) + _heads(config)


def flops(config: ViTConfig | ResNetConfig, *, all_tokens: bool = True) -> int:
    """Operations of one image's forward pass: two per multiply-add of every matrix product, convolution and attention.

    `all_tokens=False` counts what vitrail runs: the last block for the tokens that the head reads only.
    """
    if isinstance(config, ResNetConfig):
        return 2 * _resnet(config)[1]
    width, tokens = config.width, config.tokens
    stem = 0 if config.stem is None else _resnet(config.stem)[1]
    embedding = config.patches * _patch_inputs(config) * width

    def block(queries: int) -> int:
        projections = 2 * tokens * width * width + 2 * queries * width * width  # k, v; q, out
        attention = 2 * queries * tokens * width  # scores, mixing
        return projections + attention + (3 if config.mlp == "swiglu" else 2) * queries * width * config.mlp_dim

    last = tokens if all_tokens or config.pool != "token" else config.heading
    pool = 0
    if config.pool == "map":
        patches = config.patches
        pool = 2 * patches * width * width + 2 * width * width + 2 * patches * width + 2 * width * config.mlp_dim
    pooled = config.pooled
    heads = (pooled * config.pre_logits if config.pre_logits else 0) + (
        (config.pre_logits or pooled) * config.classes * (2 if config.distilled else 1)
    )
    return 2 * (stem + embedding + (config.depth - 1) * block(tokens) + block(last) + pool + heads)


def _patch_inputs(config: ViTConfig) -> int:
    inputs = config.channels if config.stem is None else config.stem.features
    return inputs * config.patch_size[0] * config.patch_size[1]


def _pool(config: ViTConfig) -> int:
    """Parameters of attention pooling: probe, four projections, norm, MLP."""
    width, hidden = config.width, config.mlp_dim
    if config.pool != "map":
        return 0
    return width + 4 * width * (width + 1) + 2 * width + hidden * (width + 1) + width * (hidden + 1)


def _heads(config: ViTConfig) -> int:
    pooled = config.pooled
    pre_logits = config.pre_logits * (pooled + 1) if config.pre_logits else 0
    head = config.classes * ((config.pre_logits or pooled) + config.head_has_bias)
    return pre_logits + head * (2 if config.distilled else 1)


def _resnet(config: ResNetConfig) -> tuple[int, int]:
    """Parameters and multiply-adds of a ResNet."""

    def half(side: int) -> int:
        return -(-side // 2)

    rows, cols = (half(side) for side in config.image_size)
    weights = 49 * config.channels * config.width
    count, products = weights + 2 * config.width, weights * rows * cols
    rows, cols, inputs = half(rows), half(cols), config.width
    for i, units in enumerate(config.layers):
        width = config.width * 2**i
        for j in range(units):
            stride = 2 if i and not j else 1
            before = rows * cols
            rows, cols = (half(rows), half(cols)) if stride == 2 else (rows, cols)
            first, rest = inputs * width, 9 * width * width + 4 * width * width
            projection = 4 * width * inputs if stride == 2 or inputs != 4 * width else 0
            count += first + rest + projection + 2 * (2 * width + 4 * width) + (8 * width if projection else 0)
            products += first * before + (rest + projection) * rows * cols
            inputs = 4 * width
    head = inputs * config.classes
    return count + head + config.classes, products + head
