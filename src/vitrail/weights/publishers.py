"""Tables of what publishers other than timm have put out; weights/catalog.py makes its rows of them."""

from typing import TypeAlias

# The original JAX code's files: name, model, image side, classes, top-1 by its own protocol, file.
_Jax: TypeAlias = tuple[str, str, int, int, float | None, str]
_ON_IN1K = "--imagenet2012-steps_20k"
JAX: tuple[_Jax, ...] = (
    ("jax-augreg-Ti16-in1k-384", "Ti/16", 384, 1000, 78.22,
     f"augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0{_ON_IN1K}-lr_0.03-res_384"),
    ("jax-augreg-S32-in1k-384", "S/32", 384, 1000, 79.58,
     f"augreg/S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0{_ON_IN1K}-lr_0.01-res_384"),
    ("jax-augreg-S16-in1k-384", "S/16", 384, 1000, 83.73,
     f"augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0{_ON_IN1K}-lr_0.03-res_384"),
    ("jax-augreg-B32-in1k-384", "B/32", 384, 1000, 83.59,
     f"augreg/B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0{_ON_IN1K}-lr_0.01-res_384"),
    ("jax-augreg-B16-in1k-384", "B/16", 384, 1000, 85.49,
     f"augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0{_ON_IN1K}-lr_0.03-res_384"),
    ("jax-augreg-L16-in1k-384", "L/16", 384, 1000, 85.59,
     f"augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0{_ON_IN1K}-lr_0.01-res_384"),
    ("jax-augreg-R+Ti16-in1k-384", "R+Ti/16", 384, 1000, 75.40,
     f"augreg/R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0{_ON_IN1K}-lr_0.03-res_384"),
    ("jax-augreg-R26+S32-in1k-384", "R26+S/32", 384, 1000, 83.85,
     f"augreg/R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0{_ON_IN1K}-lr_0.01-res_384"),
    ("jax-augreg-R50+L32-in1k-384", "R50+L/32", 384, 1000, 85.99,
     f"augreg/R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1{_ON_IN1K}-lr_0.01-res_384"),
    ("jax-augreg-Ti16-in21k", "Ti/16", 224, 21843, None,
     "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"),
    ("jax-augreg-S32-in21k", "S/32", 224, 21843, None,
     "augreg/S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0"),
    ("jax-augreg-S16-in21k", "S/16", 224, 21843, None,
     "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0"),
    ("jax-augreg-B32-in21k", "B/32", 224, 21843, None,
     "augreg/B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"),
    ("jax-augreg-B16-in21k", "B/16", 224, 21843, None,
     "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"),
    ("jax-augreg-L16-in21k", "L/16", 224, 21843, None,
     "augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0"),
    ("jax-augreg-R+Ti16-in21k", "R+Ti/16", 224, 21843, None,
     "augreg/R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0"),
    ("jax-augreg-R26+S32-in21k", "R26+S/32", 224, 21843, None,
     "augreg/R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0"),
    ("jax-augreg-R50+L32-in21k", "R50+L/32", 224, 21843, None,
     "augreg/R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1"),
    ("jax-B16-in21k", "B/16", 224, 21843, None, "imagenet21k/ViT-B_16"),
    ("jax-B32-in21k", "B/32", 224, 21843, None, "imagenet21k/ViT-B_32"),
    ("jax-L16-in21k", "L/16", 224, 21843, None, "imagenet21k/ViT-L_16"),
    ("jax-L32-in21k", "L/32", 224, 21843, None, "imagenet21k/ViT-L_32"),
    ("jax-R50+B16-in21k", "R50+B/16", 224, 21843, None, "imagenet21k/R50+ViT-B_16"),
)  # fmt: skip

# transformers': Hugging Face id, model, image side, classes, format.
TRANSFORMERS: tuple[tuple[str, str, int, int, str], ...] = (
    ("google/vit-base-patch16-224", "B/16", 224, 1000, "transformers-vit"),
    ("google/vit-base-patch16-384", "B/16", 384, 1000, "transformers-vit"),
    ("google/vit-base-patch32-384", "B/32", 384, 1000, "transformers-vit"),
    ("google/vit-large-patch16-224", "L/16", 224, 1000, "transformers-vit"),
    ("google/vit-large-patch16-384", "L/16", 384, 1000, "transformers-vit"),
    ("google/vit-large-patch32-384", "L/32", 384, 1000, "transformers-vit"),
    ("google/vit-base-patch16-224-in21k", "B/16", 224, 0, "transformers-vit"),
    ("google/vit-base-patch32-224-in21k", "B/32", 224, 0, "transformers-vit"),
    ("google/vit-large-patch16-224-in21k", "L/16", 224, 0, "transformers-vit"),
    ("google/vit-huge-patch14-224-in21k", "H/14", 224, 0, "transformers-vit"),
    ("facebook/deit-tiny-patch16-224", "Ti/16", 224, 1000, "transformers-vit"),
    ("facebook/deit-small-patch16-224", "S/16", 224, 1000, "transformers-vit"),
    ("facebook/deit-base-patch16-224", "B/16", 224, 1000, "transformers-vit"),
    ("facebook/deit-base-distilled-patch16-224", "B/16", 224, 1000, "transformers-deit"),
    ("facebook/dinov2-small", "S/14", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-base", "B/14", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-large", "L/14", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-giant", "g/14 gated", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-with-registers-small", "S/14", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-with-registers-base", "B/14", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-with-registers-large", "L/14", 518, 0, "transformers-dinov2"),
    ("facebook/dinov2-with-registers-giant", "g/14 gated", 518, 0, "transformers-dinov2"),
    ("facebook/dinov3-vits16-pretrain-lvd1689m", "S/16", 224, 0, "transformers-dinov3"),
    ("facebook/dinov3-vits16plus-pretrain-lvd1689m", "S+/16", 224, 0, "transformers-dinov3"),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", "B/16", 224, 0, "transformers-dinov3"),
    ("facebook/dinov3-vitl16-pretrain-lvd1689m", "L/16", 224, 0, "transformers-dinov3"),
    ("facebook/dinov3-vith16plus-pretrain-lvd1689m", "H+/16", 224, 0, "transformers-dinov3"),
    ("facebook/dinov3-vit7b16-pretrain-lvd1689m", "7B/16", 224, 0, "transformers-dinov3"),
    ("openai/clip-vit-base-patch32", "B/32", 224, 512, "transformers-clip"),
    ("openai/clip-vit-base-patch16", "B/16", 224, 512, "transformers-clip"),
    ("openai/clip-vit-large-patch14", "L/14", 224, 768, "transformers-clip"),
    ("openai/clip-vit-large-patch14-336", "L/14", 336, 768, "transformers-clip"),
    ("google/siglip-base-patch16-224", "B/16", 224, 0, "transformers-siglip"),
    ("google/siglip-base-patch16-256", "B/16", 256, 0, "transformers-siglip"),
    ("google/siglip-base-patch16-384", "B/16", 384, 0, "transformers-siglip"),
    ("google/siglip-base-patch16-512", "B/16", 512, 0, "transformers-siglip"),
    ("google/siglip-large-patch16-256", "L/16", 256, 0, "transformers-siglip"),
    ("google/siglip-large-patch16-384", "L/16", 384, 0, "transformers-siglip"),
    ("google/siglip-so400m-patch14-384", "So400m/14", 384, 0, "transformers-siglip"),
)

# torchvision's: weights enumeration, model, image side, top-1 by torchvision's protocol, licence.
_BSD, _SWAG = "not stated (the library: bsd-3-clause)", "cc-by-nc-4.0"
TORCHVISION: tuple[tuple[str, str, int, float, str], ...] = (
    ("ViT_B_16_Weights.IMAGENET1K_V1", "B/16", 224, 81.072, _BSD),
    ("ViT_B_32_Weights.IMAGENET1K_V1", "B/32", 224, 75.912, _BSD),
    ("ViT_L_16_Weights.IMAGENET1K_V1", "L/16", 224, 79.662, _BSD),
    ("ViT_L_32_Weights.IMAGENET1K_V1", "L/32", 224, 76.972, _BSD),
    ("ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", "B/16", 384, 85.304, _SWAG),
    ("ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1", "L/16", 512, 88.064, _SWAG),
    ("ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1", "H/14", 518, 88.552, _SWAG),
    ("ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1", "B/16", 224, 81.886, _SWAG),
    ("ViT_L_16_Weights.IMAGENET1K_SWAG_LINEAR_V1", "L/16", 224, 85.146, _SWAG),
    ("ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1", "H/14", 224, 85.708, _SWAG),
)

# big_vision's FlexiViT (README of configs/proj/flexivit): file, model at 240 px, classes. Each file holds one kernel
# and one grid of positions, which the network resizes to the patch that it is run with.
FLEXIVIT: tuple[tuple[str, str, int], ...] = (
    ("flexivit_s_i1k", "S/16", 1000),
    ("flexivit_b_i1k", "B/16", 1000),
    ("flexivit_l_i1k", "L/16", 1000),
    ("flexivit_b_i21k_300ep", "B/16", 21843),
    ("flexivit_b_i21k_1000ep", "B/16", 21843),
)

# DINOv3's own files (hub/backbones.py): name, model.
DINOV3: tuple[tuple[str, str], ...] = (
    ("dinov3_vits16_pretrain_lvd1689m-08c60483", "S/16"),
    ("dinov3_vits16plus_pretrain_lvd1689m-4057cbaa", "S+/16"),
    ("dinov3_vitb16_pretrain_lvd1689m-73cec8be", "B/16"),
    ("dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd", "L/16"),
    ("dinov3_vith16plus_pretrain_lvd1689m-7c1da9a5", "H+/16"),
    ("dinov3_vit7b16_pretrain_lvd1689m-a955f4ea", "7B/16"),
)
