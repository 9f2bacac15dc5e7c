"""What a model costs, from its configuration alone."""

from vitrail.config import ViTConfig


def parameters(config: ViTConfig) -> int:
    """Number of trainable numbers."""
    width, hidden = config.width, config.mlp_dim
    embedding = config.channels * config.patch_size[0] * config.patch_size[1] * width + width
    norm = 2 * width
    qkv = 3 * width * (width + config.qkv_bias)
    out = width * (width + 1)
    mlp = hidden * (width + 1) + width * (hidden + 1)
    features = config.pre_logits or width
    pre_logits = features * (width + 1) if config.pre_logits else 0
    head = config.classes * (features + 1)
    tokens = (config.tokens + config.prefix) * width  # positions, class token
    return embedding + tokens + config.depth * (2 * norm + qkv + out + mlp) + norm + pre_logits + head


def flops(config: ViTConfig, *, all_tokens: bool = True) -> int:
    """Operations of one image's forward pass: two per multiply-add of every matrix product and of the attention.

    `all_tokens=False` counts what vitrail runs: the last block for the class token only.
    """
    width, hidden, tokens = config.width, config.mlp_dim, config.tokens
    embedding = config.patches * config.channels * config.patch_size[0] * config.patch_size[1] * width

    def block(queries: int) -> int:
        projections = 2 * tokens * width * width + 2 * queries * width * width  # k, v; q, out
        attention = 2 * queries * tokens * width  # scores, mixing
        return projections + attention + 2 * queries * width * hidden

    last = tokens if all_tokens or config.pool != "token" else 1
    features = config.pre_logits or width
    head = (width * features if config.pre_logits else 0) + features * config.classes
    return 2 * (embedding + (config.depth - 1) * block(tokens) + block(last) + head)
