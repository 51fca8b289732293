"""Vision transformers: prompt vectors after CLS (VPT-shallow), and hidden states or keys and values at every layer.

Jia et al. 2022, "Visual Prompt Tuning", arXiv:2203.12119. `embeds` stand between CLS and all other tokens, without a
position. `deep` is VPT-deep: layer i reads its own P vectors in that place and what it makes of them is dropped, which
equals giving it their keys and values, because nobody reads what the replaced tokens attended to.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from softprompt.attention import Prefixes, Stack
from softprompt.backbones.base import Backbone, Recorded
from softprompt.core import Batch, Injection, Output, Pair, Spec
from softprompt.errors import Unsupported


class Vision(Backbone):
    """ViT, DeiT, DINOv2 and CLIP's vision tower, run layer by layer. `tokenizer` is the image processor."""

    def __init__(self, model: Any, tokenizer: Any = None, name: str = "") -> None:
        super().__init__(model, tokenizer, name)
        self.trunk: Any = model.base_model
        self.layers: list[nn.Module] = layers_of(self.trunk)
        config = model.config
        probe = torch.zeros(1, config.num_channels, config.image_size, config.image_size, device=self.device)
        with torch.no_grad():
            embedded = self.stem(probe)
        prefixes = Prefixes(record=True)
        states = self.seam(lambda: self.run(embedded, prefixes))
        self.attention_modules = self.attentions(prefixes)
        if not self.attention_modules:
            raise Unsupported(
                "SP-E411",
                f"attention outside the registry of transformers in {config.model_type}",
                "ViT, DeiT, DINOv2 or CLIP vision",
                "use one of these families",
            )
        self.refuse(("offset",), "images have no token embeddings")
        self.refuse(("cross", "decoder"), "it has no decoder")
        key = prefixes.record[0][1][0]
        self.spec = Spec(
            kind="vision",
            hidden=embedded.shape[-1],
            states=states.shape[-1],
            layers=len(self.attention_modules),
            kv_heads=key.shape[1],
            head_dim=key.shape[3],
            rms=embedded.float().square().mean().sqrt().item(),
        )

    def stem(self, pixels: Tensor) -> Tensor:
        """CLS (and distillation) tokens and patches with their positions [B, T, H] of images [B, channels, h, w]."""
        before = getattr(self.trunk, "pre_layrnorm", nn.Identity())  # CLIP has one, spelt so
        x: Tensor = before(self.trunk.embeddings(pixels.to(self.dtype)))
        return x

    def run(self, x: Tensor, prefixes: Prefixes) -> Tensor:
        """The layers and the last norm over [B, T, H]."""
        for layer in self.layers:
            x = layer(x, attention_mask=None, prefixes=prefixes)
        norm = getattr(self.trunk, "layernorm", None) or self.trunk.post_layernorm
        result: Tensor = norm(x)
        return result

    def forward(self, batch: Batch, injection: Injection, *, columns: Tensor | None = None) -> Output:
        """Hidden states [B, T, H], CLS first; prompt vectors stand directly after it.

        Raises `Unsupported` for logits, which these models do not have.
        """
        if columns is not None or batch.pixels is None:
            raise Unsupported("SP-E414", "a request for words", "images and a classifier head", "set task.head")
        given = 0 if injection.embeds is None else injection.embeds.shape[1]
        self.accept(replace(batch, vectors=batch.vectors or given), injection)  # images need no slots: one place only
        if injection.deep is not None and injection.prefix is not None:
            raise Unsupported("SP-E419", "both 'prefix' and 'deep'", "one of them", "give keys and values, or states")
        x = self.stem(batch.pixels)
        if injection.embeds is not None:
            x = torch.cat([x[:, :1], injection.embeds.to(x.dtype).expand(len(x), -1, -1), x[:, 1:]], 1)
        prefix = injection.prefix
        if injection.deep is not None:
            prefix = tuple(map(self.project, self.layers, self.attention_modules, injection.deep))
        prefixes = Prefixes(
            [] if prefix is None else [Stack(self.attention_modules, prefix, False, keep=injection.prefix_mask)]
        )
        hidden = self.run(x, prefixes)
        prefixes.check()
        return Output(hidden=hidden)

    def project(self, layer: nn.Module, attention: nn.Module, hidden: Tensor) -> Pair:
        """The keys and values [1|B, K, P, D] that a frozen layer makes of `hidden` [1|B, P, H]."""
        prefixes = Prefixes(record=True)
        layer(hidden.to(self.dtype), attention_mask=None, prefixes=prefixes)
        pair = prefixes.pairs([attention])[0]
        assert pair is not None
        return pair

    @torch.no_grad()
    def record(self, batch: Batch) -> Recorded:
        """Keys and values that the layers make of images."""
        if batch.pixels is None:
            raise Unsupported("SP-E413", "text for a vision backbone", "images", "initialise from images or at random")
        prefixes = Prefixes(record=True)
        self.run(self.stem(batch.pixels), prefixes)
        return Recorded(prefixes.pairs(self.attention_modules))


def layers_of(trunk: Any) -> list[nn.Module]:
    """The transformer layers, first layer first: the only list of modules as long as the configuration says."""
    depth = trunk.config.num_hidden_layers
    lists = [m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise Unsupported("SP-E411", "no list of layers", "ViT, DeiT, DINOv2 or CLIP vision", "use one of these")
    return list(lists[0])
