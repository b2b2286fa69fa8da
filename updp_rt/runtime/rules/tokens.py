"""ViT's tokens, on a GPU: the class token before the patches, and the positions of all added, in one pass."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from updp_rt.ops import PREPEND_TOKENS
from updp_rt.runtime.fused import CannotFuseError, Fusion, Rule
from updp_rt.runtime.rules.parts import idle, on_gpu


class TokensRule(Rule):
    """A model with a class token, which has a position too, for images of one size."""

    source = (VisionTransformer,)
    method = "_pos_embed"
    optional = True

    def plan(self, module: Any, fusion: Fusion) -> None:
        if not on_gpu(module):
            raise CannotFuseError("on a CPU torch's own operators put tokens together as well")
        if module.cls_token is None or module.pos_embed is None or module.no_embed_class:
            raise CannotFuseError("only a class token with a position of its own has a fused kernel")
        if module.reg_token is not None or module.dynamic_img_size:
            raise CannotFuseError("registers, and positions for images of any size, stay as they are")
        idle(module.pos_drop, "pos_drop")
        fusion.absorb("pos_drop")
        fusion.site("tokens", PREPEND_TOKENS, {"prefix": (module, "cls_token"), "position": (module, "pos_embed")})

    def run(self, module: Any, fusion: Fusion, x: Tensor) -> Tensor:
        return fusion.sites["tokens"](x)


RULES = (TokensRule(),)
