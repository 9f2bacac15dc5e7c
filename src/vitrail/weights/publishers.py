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
    ("jax-augreg-B8-in21k", "B/8", 224, 21843, None,
     "augreg/B_8-i21k-300ep-lr_0.001-aug_medium2-wd_0.1-do_0.0-sd_0.0"),
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
_BSD, _SWAG = "not stated", "cc-by-nc-4.0"
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
    *((f"flexivit_{size.lower()}_i1k{epochs}", f"{size}/16", 1000) for size in "SBL"
      for epochs in ("", "_600ep", "_300ep", "_90ep")),
    *((f"flexivit_b_i21k_{epochs}ep", "B/16", 21843) for epochs in (90, 300, 1000)),
)  # fmt: skip

# Its ViT-S/16 baseline (README, models/vit.py; the number: configs/vit_s16_i1k.py): file, top-1 by its protocol.
BASELINES: tuple[tuple[str, float | None], ...] = (
    ("vit_s16_i1k_90ep", 76.5),
    ("vit_s16_i1k_150ep", None),
    ("vit_s16_i1k_300ep", None),
)

# Its SigLIP and SigLIP 2 (models/proj/image_text/two_towers.py): name, model, image side, file.
SIGLIP: tuple[tuple[str, str, int, str], ...] = (
    ("jax-siglip-B16-224", "B/16", 224, "siglip/webli_en_b16_224_63724782"),
    ("jax-siglip-B16-256", "B/16", 256, "siglip/webli_en_b16_256_60500360"),
    ("jax-siglip-B16-384", "B/16", 384, "siglip/webli_en_b16_384_68578854"),
    ("jax-siglip-B16-512", "B/16", 512, "siglip/webli_en_b16_512_68580893"),
    ("jax-siglip-L16-256", "L/16", 256, "siglip/webli_en_l16_256_60552751"),
    ("jax-siglip-L16-384", "L/16", 384, "siglip/webli_en_l16_384_63634585"),
    ("jax-siglip-So400m14-224", "So400m/14", 224, "siglip/webli_en_so400m_224_57633886"),
    ("jax-siglip-So400m14-384", "So400m/14", 384, "siglip/webli_en_so400m_384_58765454"),
    ("jax-siglip-i18n-B16-256", "B/16", 256, "siglip/webli_i18n_b16_256_66117334"),
    ("jax-siglip-i18n-So400m16-256", "So400m/16", 256, "siglip/webli_i18n_so400m_16_256_78061115"),
    *((f"jax-siglip2-{model.replace('/', '')}-{side}", model, side,
       f"siglip2/siglip2_{model.lower().replace('/', '')}_{side}")
      for model, sides in (
          ("B/32", (256,)), ("B/16", (224, 256, 384, 512)), ("L/16", (256, 384, 512)), ("So400m/14", (224, 384)),
          ("So400m/16", (256, 384, 512)), ("g-opt/16", (256, 384)))
      for side in sides),
)  # fmt: skip

# open_clip's own (its pretrained.py; the licence: their model cards): Hugging Face id, model, image side, width of the
# space shared with texts.
OPEN_CLIP: tuple[tuple[str, str, int, int], ...] = (
    ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "B/32", 224, 512),
    ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", "B/32", 224, 512),
    ("laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", "B/32", 256, 512),
    ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "B/16", 224, 512),
    ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", "B/16", 224, 512),
    ("laion/CLIP-ViT-B-16-DataComp.L-s1B-b8K", "B/16", 224, 512),
    ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "L/14", 224, 768),
    ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "L/14", 224, 768),
    ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "H/14", 224, 1024),
    ("laion/CLIP-ViT-g-14-laion2B-s12B-b42K", "g/14", 224, 1024),
    ("laion/CLIP-ViT-g-14-laion2B-s34B-b88K", "g/14", 224, 1024),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "G/14", 224, 1280),
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
