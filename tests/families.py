"""Tiny random models of every family, and batches for them: what the tests of backbones and methods share."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
import transformers as tf
from torch import Tensor, nn

from softprompt.backbones import Backbone, wrap
from softprompt.core import TEXT, Batch, Injection, Output, Prefix, Start

V, H, L, HEADS, D, P, B, T = 96, 32, 3, 4, 8, 4, 3, 7  # D: head size; the other letters as in softprompt.core

SIZES = {"hidden_size": H, "num_hidden_layers": L, "num_attention_heads": HEADS, "intermediate_size": 64}
WORDS = SIZES | {"vocab_size": V, "max_position_embeddings": 64}
GROUPED = WORDS | {"num_key_value_heads": 2}
GPT = {"vocab_size": V, "n_embd": H, "n_layer": L, "n_head": HEADS, "n_positions": 64}
SHORT = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": L, "num_attention_heads": HEADS}
OPT = SHORT | {"ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": H}
DISTIL = {"vocab_size": V, "dim": H, "n_layers": L, "n_heads": HEADS, "hidden_dim": 64, "max_position_embeddings": 64}
T5 = {"vocab_size": V, "d_model": H, "d_kv": D, "d_ff": 64, "num_layers": L, "num_heads": HEADS}
T5 |= {"decoder_start_token_id": 0}
BART = {"vocab_size": V, "d_model": H, "encoder_layers": L, "decoder_layers": L, "encoder_ffn_dim": 64}
BART |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "decoder_ffn_dim": 64}
BART |= {"max_position_embeddings": 64}
IMAGES = SIZES | {"image_size": 16, "patch_size": 4}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**GROUPED)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED, head_dim=D)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**GROUPED, head_dim=D)),
    "gemma3_text": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**GROUPED, head_dim=D)),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**WORDS)),
    "opt": lambda: tf.OPTForCausalLM(tf.OPTConfig(**OPT)),
    "phi": lambda: tf.PhiForCausalLM(tf.PhiConfig(**WORDS)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**WORDS, pad_token_id=0)),
    "olmo2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**WORDS)),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT)),
    "gptj": lambda: tf.GPTJForCausalLM(tf.GPTJConfig(**GPT, rotary_dim=4)),
    "bloom": lambda: tf.BloomForCausalLM(tf.BloomConfig(vocab_size=V, hidden_size=H, n_layer=L, n_head=HEADS)),
    "falcon": lambda: tf.FalconForCausalLM(tf.FalconConfig(**SHORT)),
    "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(**WORDS)),
    "roberta": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**WORDS, pad_token_id=1)),
    "xlm-roberta": lambda: tf.XLMRobertaForMaskedLM(tf.XLMRobertaConfig(**WORDS, pad_token_id=1)),
    "electra": lambda: tf.ElectraForMaskedLM(tf.ElectraConfig(**WORDS, embedding_size=24)),
    "distilbert": lambda: tf.DistilBertForMaskedLM(tf.DistilBertConfig(**DISTIL)),
    "deberta-v2": lambda: tf.DebertaV2ForMaskedLM(tf.DebertaV2Config(**WORDS)),
    "mpnet": lambda: tf.MPNetForMaskedLM(tf.MPNetConfig(**WORDS)),
    "albert": lambda: tf.AlbertForMaskedLM(tf.AlbertConfig(**WORDS, embedding_size=24)),
    "t5": lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)),
    "mt5": lambda: tf.MT5ForConditionalGeneration(tf.MT5Config(**T5)),
    "bart": lambda: tf.BartForConditionalGeneration(tf.BartConfig(**BART)),
    "pegasus": lambda: tf.PegasusForConditionalGeneration(tf.PegasusConfig(**BART)),
    "vit": lambda: tf.ViTModel(tf.ViTConfig(**IMAGES)),
    "deit": lambda: tf.DeiTModel(tf.DeiTConfig(**IMAGES)),
    "dinov2": lambda: tf.Dinov2Model(tf.Dinov2Config(**IMAGES)),
    "clip_vision_model": lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**IMAGES)),
    "siglip_vision_model": lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**IMAGES)),
}
CAUSAL = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "opt", "phi", "phi3", "olmo2", "gpt2"]
ENCODERS = ["bert", "roberta", "xlm-roberta", "electra", "distilbert"]
SEQ2SEQ = ["t5", "mt5", "bart", "pegasus"]
VISION = ["vit", "deit", "dinov2", "clip_vision_model"]
TEXTS = CAUSAL + ENCODERS + SEQ2SEQ
MODELS_OF_IMAGES = {*VISION, "siglip_vision_model"}


def model(name: str) -> nn.Module:
    """A new model of a family, the same weights at every call, large enough that every part of it is heard."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        made = MODELS[name]().eval()
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
            else:
                weight.add_(torch.randn_like(weight) * 0.1)
    return made


def fresh(name: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """A new backbone of a family, for tests that change it."""
    return wrap(model(name).to(dtype), None, name)


@cache
def backbone(name: str) -> Backbone:
    """The backbone of a family, shared by all tests that leave it as it is."""
    return fresh(name)


def tokens(ids: Tensor, mask: Tensor | None = None) -> Batch:
    """A batch of plain tokens [B, T]."""
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool) if mask is None else mask, torch.full_like(ids, TEXT))


def batch(name: str, slots: int = 0, left: bool = False, first: int = 1) -> Batch:
    """B rows of `slots` + T tokens, the slots from place `first` on; the last row has two tokens fewer.

    Encoder-decoders get four decoder tokens a row, vision models get images.
    """
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, V, (B, slots + T), generator=generator)
    place = torch.full_like(ids, TEXT)
    place[:, first : first + slots] = torch.arange(slots)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[-1, -2:] = False
    if left:
        ids[-1], place[-1], mask[-1] = ids[-1].roll(2), place[-1].roll(2), mask[-1].roll(2)
    decoder = tokens(torch.randint(5, V, (B, 4), generator=generator)) if name in SEQ2SEQ else None
    if name not in MODELS_OF_IMAGES:
        return Batch(ids, mask, place, decoder=decoder)
    empty = torch.zeros(B, 0, dtype=torch.long)
    return Batch(empty, empty.bool(), empty, pixels=torch.randn(B, 3, 16, 16, generator=generator))


def take(data: Batch, rows: list[int]) -> Batch:
    """The batch of these rows."""
    side = None if data.decoder is None else take(data.decoder, rows)
    pixels = None if data.pixels is None else data.pixels[rows]
    taken = Batch(data.input_ids[rows], data.mask[rows], data.slots[rows], decoder=side, pixels=pixels)
    return taken if pixels is None else replace(taken, vectors=data.vectors)  # images need no slots


def output(frozen: Backbone, data: Batch, injection: Injection) -> Output:
    """Logits at every position, or hidden states of models that have no words."""
    if frozen.spec.kind == "vision":
        return frozen(data, injection)
    side = data.input_ids if data.decoder is None else data.decoder.input_ids
    return frozen(data, injection, columns=torch.arange(side.shape[1]))


def answer(frozen: Backbone, data: Batch, injection: Injection | None = None) -> Tensor:
    """The tensor in `output`: [B, T, V] or [B, T, H]."""
    out = output(frozen, data, injection or Injection())
    result = out.hidden if out.logits is None else out.logits
    assert result is not None
    return result


def real(data: Batch) -> Tensor:
    """[B, T] bool: where `answer` stands on a real token."""
    if data.pixels is not None:
        return torch.ones(len(data), 1, dtype=torch.bool)
    return data.mask if data.decoder is None else data.decoder.mask


def prefix(frozen: Backbone, length: int = P, rows: int = 1, layers: int | None = None) -> Prefix:
    """Random keys and values for the (first) stack, ready for gradients."""
    spec = frozen.spec
    shape = (rows, spec.kv_heads or HEADS, length, spec.head_dim or D)
    depth = (spec.layers or L) if layers is None else layers
    return tuple((leaf(shape), leaf(shape)) for _ in range(depth))


def leaf(shape: tuple[int, ...]) -> Tensor:
    """A random tensor that asks for its gradient."""
    return torch.randn(shape).requires_grad_()


def leaves(value: object) -> list[Tensor]:
    """Every floating-point tensor in nested tuples and injections."""
    if isinstance(value, Injection):
        value = tuple(vars(value).values())
    if isinstance(value, tuple):
        return [x for item in value for x in leaves(item)]
    return [value] if isinstance(value, Tensor) and value.is_floating_point() else []


def start(frozen: Backbone, length: int = P) -> Start:
    """Where a method begins: embeddings of real tokens (for images: anything), and keys and values of that input.

    Beside them three prompts of other tasks, near the same embeddings, for methods that read several.
    """
    ids = torch.arange(10, 10 + length)[None]
    if frozen.spec.kind == "vision":
        vectors = torch.randn(length, frozen.spec.hidden, generator=torch.Generator().manual_seed(3))
        made = frozen.record(batch("vit")).prefix
        return Start(
            vectors * frozen.spec.rms,
            tuple(pair and (pair[0][:1, :, :length], pair[1][:1, :, :length]) for pair in made),
        )
    recorded, embeds = frozen.record(tokens(ids)), frozen.tokens(ids)[0].float()
    apart = torch.randn(3, *embeds.shape, generator=torch.Generator().manual_seed(4)) * frozen.spec.rms / 10
    return Start(embeds, recorded.prefix, recorded.decoder, recorded.cross, sources=embeds + apart)


def recompute(frozen: Backbone) -> Backbone:
    """Activation checkpointing on; it acts in train mode only, so every dropout is silenced and train mode set."""
    for module in frozen.modules():
        for name in ("p", "dropout", "attention_dropout", "activation_dropout", "layerdrop", "dropout_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    frozen.model.gradient_checkpointing_enable()
    nn.Module.train(frozen.model, True)
    return frozen
