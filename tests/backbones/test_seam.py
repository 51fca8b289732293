"""The seam against oracles that know nothing of it: real tokens, the library's own cache, the whole text, one row."""

import hashlib
from dataclasses import replace

import pytest
import torch
from families import (
    CAUSAL,
    ENCODERS,
    SEQ2SEQ,
    TEXTS,
    VISION,
    B,
    H,
    P,
    answer,
    backbone,
    batch,
    fresh,
    leaf,
    leaves,
    model,
    prefix,
    real,
    recompute,
    take,
    tokens,
)
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DynamicCache, EncoderDecoderCache

from softprompt.backbones import Backbone, wrap
from softprompt.backbones.base import gap
from softprompt.core import TEXT, Batch, Injection, Pair, Prefix
from softprompt.errors import Unsupported

FRONT = 3  # tokens of a text that become a prefix
INSIDE = ["bart", "pegasus"]  # families that count positions inside the model
DISTANT = ["t5", "mt5"]  # families with a bias by distance: a prefix cannot stand in front of padding


def near(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def same_gradients(ours: Tensor, theirs: Tensor, given: list[Tensor]) -> None:
    """Every tensor gets the same gradient of the same random loss, within 1e-5 of that gradient's own scale."""
    weight = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), given) for x in (ours, theirs)), strict=True):
        assert b.abs().max() > 0
        near(a / b.abs().max(), b / b.abs().max())


def part(recorded: Prefix | None, length: int = FRONT) -> Prefix:
    """The first places of recorded keys and values."""
    assert recorded is not None
    return tuple((pair[0][:, :, :length], pair[1][:, :, :length]) for pair in recorded if pair is not None)


def injection(frozen: Backbone, field: str) -> Injection:
    """Random prompt vectors or keys and values, with a prefix for a decoder too where there is one."""
    if field == "embeds":
        return Injection(embeds=leaf((1, P, frozen.spec.hidden)))
    depth = frozen.spec.decoder_layers
    side = Injection(prefix=prefix(frozen, layers=depth), cross=prefix(frozen, layers=depth)) if depth else None
    return Injection(prefix=prefix(frozen), decoder=side)


@pytest.mark.parametrize("name", TEXTS)
def test_slots_that_hold_token_embeddings_are_those_tokens(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    where = torch.tensor([5, 0, 3, 2])  # anywhere in the row, in any order
    slots = torch.full_like(data.slots, TEXT)
    slots[:, where] = torch.arange(P)
    vectors = frozen.tokens(data.input_ids[:, where])
    scrambled = data.input_ids.clone()
    scrambled[:, where] = 9  # the ids below the slots must not matter
    with_slots = Batch(scrambled, data.mask, slots, decoder=data.decoder)
    near(answer(frozen, with_slots, Injection(embeds=vectors)), answer(frozen, data))


@pytest.mark.parametrize("name", TEXTS)
def test_an_offset_between_two_tokens_turns_one_into_the_other_but_leaves_slots_alone(name: str) -> None:
    frozen, data = backbone(name), batch(name, slots=P)
    other = data.input_ids.roll(1, 0)
    offset = frozen.tokens(other) - frozen.tokens(data.input_ids)
    vectors = leaf((1, P, frozen.spec.hidden))
    ours = answer(frozen, data, Injection(embeds=vectors, offset=offset))
    near(ours, answer(frozen, replace(data, input_ids=other), Injection(embeds=vectors)))


@pytest.mark.parametrize("name", CAUSAL + [name for name in ENCODERS if name != "distilbert"])  # which has no cache
def test_a_prefix_is_the_librarys_own_cache(name: str) -> None:
    frozen, data, given = backbone(name), batch(name), prefix(backbone(name))
    bare = model(name)
    bare.set_attn_implementation("eager")
    rows = [(k.expand(B, -1, -1, -1), v.expand(B, -1, -1, -1)) for k, v in filter(None, given)]
    mask = torch.cat([torch.ones(B, P, dtype=torch.bool), data.mask], 1)
    theirs = bare(input_ids=data.input_ids, attention_mask=mask.long(), past_key_values=DynamicCache(rows))
    theirs = theirs.logits[data.mask]
    ours = answer(frozen, data, Injection(prefix=given))[data.mask]
    near(ours, theirs)
    same_gradients(ours, theirs, leaves(given))


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_a_prefix_of_the_decoder_is_the_librarys_own_cache(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    assert data.decoder is not None
    given = prefix(frozen, layers=frozen.spec.decoder_layers)
    bare = model(name)
    bare.set_attn_implementation("eager")
    rows = [(k.expand(B, -1, -1, -1), v.expand(B, -1, -1, -1)) for k, v in filter(None, given)]
    theirs = bare(
        input_ids=data.input_ids,
        attention_mask=data.mask.long(),
        decoder_input_ids=data.decoder.input_ids,
        past_key_values=EncoderDecoderCache(DynamicCache(rows), DynamicCache()),
    ).logits
    ours = answer(frozen, data, Injection(decoder=Injection(prefix=given)))
    near(ours, theirs)
    same_gradients(ours, theirs, leaves(given))


def without_positions(frozen: Backbone) -> Backbone:
    """BART's kin count positions from 0 whatever stands in front: with equal positions, texts can be cut in two."""
    for name, weight in frozen.model.named_parameters():
        if "embed_positions" in name:
            weight.data[:] = weight.data[:1]
    return frozen


@pytest.mark.parametrize("name", TEXTS)
def test_recorded_keys_and_values_replay_the_text_they_came_from(name: str) -> None:
    frozen = without_positions(fresh(name)) if name in INSIDE else backbone(name)
    ids = batch(name).input_ids
    front = Injection(prefix=part(frozen.record(tokens(ids)).prefix))
    whole = frozen(tokens(ids), Injection()).hidden
    near(frozen(tokens(ids[:, FRONT:]), front).hidden, whole[:, FRONT:])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_recorded_keys_and_values_replay_in_the_decoder(name: str) -> None:
    frozen = without_positions(fresh(name)) if name in INSIDE else backbone(name)
    ids = batch(name).input_ids
    recorded = frozen.record(tokens(ids))
    memory = frozen(tokens(ids), Injection()).hidden
    columns = torch.arange(ids.shape[1])
    whole = frozen(replace(tokens(ids), decoder=tokens(ids)), Injection(), columns=columns).logits
    late = tokens(ids[:, FRONT:])
    side = Injection(prefix=part(recorded.decoder), cross=part(recorded.cross))
    ours = frozen(
        replace(late, decoder=late), Injection(decoder=side), columns=columns[:-FRONT], memory=memory[:, FRONT:]
    ).logits
    near(ours, whole[:, FRONT:])


@pytest.mark.parametrize("name", VISION)
def test_recorded_keys_and_values_replay_an_image(name: str) -> None:
    from softprompt.attention import Prefixes, Stack

    frozen, data = backbone(name), batch(name)
    x = frozen.stem(data.pixels)
    given = part(frozen.record(data).prefix)
    late = frozen.run(x[:, FRONT:], Prefixes([Stack(frozen.attention_modules, given, False)]))
    near(late, frozen(data, Injection()).hidden[:, FRONT:])


@pytest.mark.parametrize("field", ["embeds", "prefix"])
@pytest.mark.parametrize("name", TEXTS)
def test_left_and_right_padding_agree_or_left_is_refused(name: str, field: str) -> None:
    frozen, slots = backbone(name), P if field == "embeds" else 0
    given = injection(frozen, field)
    right, left = batch(name, slots), batch(name, slots, left=True)
    if name in INSIDE or (name in DISTANT and field == "prefix"):
        with pytest.raises(Unsupported, match="SP-E417"):
            answer(frozen, left, given)
        return
    ours, theirs = answer(frozen, left, given)[-1], answer(frozen, right, given)[-1]
    near(ours, theirs) if left.decoder is not None else near(ours[2:], theirs[:-2])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_left_and_right_padding_of_the_decoder_agree_or_left_is_refused(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    assert data.decoder is not None
    ids, mask = data.decoder.input_ids, data.decoder.mask.clone()
    mask[:, -1] = False
    right = replace(data, decoder=tokens(ids, mask))
    left = replace(data, decoder=tokens(ids.roll(1, 1), mask.roll(1, 1)))
    with pytest.raises(Unsupported, match="SP-E417"):
        answer(frozen, left, injection(frozen, "prefix"))
    if name in INSIDE:
        with pytest.raises(Unsupported, match="SP-E417"):
            answer(frozen, left)
        return
    near(answer(frozen, left)[:, 1:], answer(frozen, right)[:, :-1])


@pytest.mark.parametrize("name", TEXTS)
def test_padding_content_is_irrelevant(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    changed = data.input_ids.masked_fill(~data.mask, 8)
    given = injection(frozen, "prefix")
    inside = real(data)
    near(answer(frozen, replace(data, input_ids=changed), given)[inside], answer(frozen, data, given)[inside])


@pytest.mark.parametrize("field", ["embeds", "prefix", "deep"])
@pytest.mark.parametrize("name", TEXTS + VISION)
def test_activation_checkpointing_changes_neither_loss_nor_gradient(name: str, field: str) -> None:
    if field == "deep" and name in TEXTS:
        pytest.skip("text families refuse `deep` (test_silence.py)")
    plain = backbone(name)
    data = batch(name, P if field == "embeds" else 0)
    given = injection(plain, field)
    if field == "deep":
        given = Injection(deep=tuple(leaf((1, P, H)) for _ in range(plain.spec.layers)))
    results = []
    for frozen in (recompute(fresh(name)), plain):
        loss = answer(frozen, data, given).square().mean()
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves(given))])
    for on, off in zip(*results, strict=True):
        assert gap(on, off) <= (1e-6 if on.dim() == 0 else 1e-5)  # T5's decoder rounds a little differently


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS, "t5", "mt5", "vit"])
def test_a_row_with_a_shorter_prefix_in_a_mixed_batch_is_the_row_alone(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    given = prefix(frozen, rows=B)
    lengths = torch.tensor([P, 1, P - 1])
    keep = torch.arange(P) >= P - lengths[:, None]  # short prefixes stand next to their text
    mixed = answer(frozen, data, Injection(prefix=given, prefix_mask=keep))
    for row, length in enumerate(lengths.tolist()):
        own = tuple(
            (k[row : row + 1, :, P - length :], v[row : row + 1, :, P - length :]) for k, v in filter(None, given)
        )
        alone = answer(frozen, take(data, [row]), Injection(prefix=own))
        inside = real(take(data, [row])).expand(alone.shape[:2])
        near(mixed[row : row + 1][inside], alone[inside])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_row_with_a_shorter_decoder_prefix_is_the_row_alone(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    own, cross = (prefix(frozen, rows=B, layers=frozen.spec.decoder_layers) for _ in range(2))
    keep = torch.ones(B, P, dtype=torch.bool)
    keep[0, 0] = False
    side = Injection(prefix=own, cross=cross, prefix_mask=keep)
    mixed = answer(frozen, data, Injection(decoder=side))
    first = [tuple((k[:1, :, 1:], v[:1, :, 1:]) for k, v in filter(None, x)) for x in (own, cross)]
    alone = answer(frozen, take(data, [0]), Injection(decoder=Injection(prefix=first[0], cross=first[1])))
    near(mixed[:1], alone)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_text_read_token_by_token_through_a_cache_is_the_text_read_at_once(name: str) -> None:
    frozen, data = backbone(name), batch(name, left=True)
    given, cache = Injection(prefix=prefix(frozen)), DynamicCache()
    whole = frozen(data, given).hidden
    width = data.input_ids.shape[1]
    cuts = [(0, width - 2), (width - 2, width - 1), (width - 1, width)]
    for first, last in cuts:
        new = Batch(data.input_ids[:, first:last], data.mask[:, :last], data.slots[:, first:last])
        near(frozen(new, given, cache=cache).hidden[:, -1], whole[:, last - 1])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_a_decoder_that_reads_through_a_cache_answers_as_without(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    assert data.decoder is not None
    given = injection(frozen, "prefix")
    whole, memory = answer(frozen, data, given), frozen(data, Injection(prefix=given.prefix)).hidden
    cache, column = EncoderDecoderCache(DynamicCache(), DynamicCache()), torch.tensor([-1])
    for last in range(1, 5):
        new = tokens(data.decoder.input_ids[:, last - 1 : last], data.decoder.mask[:, :last])
        step = frozen(replace(data, decoder=new), given, columns=column, memory=memory, cache=cache).logits
        near(step[:, 0], whole[:, last - 1])


@pytest.mark.parametrize("name", VISION)
def test_embeds_of_an_image_stand_between_cls_and_all_other_tokens(name: str) -> None:
    frozen, data, vectors = backbone(name), batch(name), torch.randn(1, P, H)
    bare = model(name)
    trunk = bare.base_model
    entry = nn.Identity() if not hasattr(trunk, "pre_layrnorm") else trunk.pre_layrnorm
    embedded = entry(trunk.embeddings(data.pixels))
    x = torch.cat([embedded[:, :1], vectors.expand(B, -1, -1), embedded[:, 1:]], 1)
    for layer in encoder_layers(bare):
        x = layer(x, attention_mask=None)
    near(answer(frozen, data, Injection(embeds=vectors)), last_norm(trunk)(x))


@pytest.mark.parametrize("name", VISION)
def test_deep_is_replacing_the_prompt_tokens_at_every_layer(name: str) -> None:
    frozen, data = backbone(name), batch(name)
    deep = tuple(leaf((1, P, H)) for _ in range(frozen.spec.layers))
    bare = model(name)
    trunk = bare.base_model
    entry = nn.Identity() if not hasattr(trunk, "pre_layrnorm") else trunk.pre_layrnorm
    x = entry(trunk.embeddings(data.pixels))
    for layer, vectors in zip(encoder_layers(bare), deep, strict=True):
        x = layer(torch.cat([x[:, :1], vectors.expand(B, -1, -1), x[:, 1:]], 1), attention_mask=None)
        x = torch.cat([x[:, :1], x[:, 1 + P :]], 1)  # what the layer made of them is dropped
    ours, theirs = answer(frozen, data, Injection(deep=deep)), last_norm(trunk)(x)
    near(ours, theirs)
    same_gradients(ours, theirs, list(deep))


def encoder_layers(bare: nn.Module) -> nn.ModuleList:
    """The layers of a vision model, named as transformers names them."""
    name = next(n for n, m in bare.named_modules() if n.endswith(("layer", "layers")))
    found = bare.get_submodule(name)
    assert isinstance(found, nn.ModuleList)
    return found


def last_norm(trunk: nn.Module) -> nn.Module:
    return trunk.get_submodule("post_layernorm" if hasattr(trunk, "post_layernorm") else "layernorm")


@pytest.mark.parametrize("field", ["embeds", "prefix"])
@pytest.mark.parametrize("name", TEXTS + VISION)
def test_a_bfloat16_backbone_takes_a_float32_prompt(name: str, field: str) -> None:
    exact, rounded = backbone(name), fresh(name, torch.bfloat16)
    data, given = batch(name, P if field == "embeds" else 0), injection(exact, field)
    ours = answer(rounded, data, given)
    assert ours.dtype == torch.bfloat16
    inside = real(data).expand(ours.shape[:2])
    error = (ours.float() - answer(exact, data, given))[inside].square().mean().sqrt()
    assert error < 0.15 * answer(exact, data, given)[inside].std()
    for gradient in torch.autograd.grad(ours.float().square().sum(), leaves(given)):
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", TEXTS + VISION)
def test_a_step_of_training_leaves_every_tensor_of_the_backbone_as_it_was(name: str) -> None:
    frozen = fresh(name).train()
    assert not any(module.training for module in frozen.modules())
    before = digest(frozen.model)
    given = injection(frozen, "prefix")
    optimiser = torch.optim.AdamW([*leaves(given), *frozen.parameters()], lr=0.1)  # all of them, to tempt it
    answer(frozen, batch(name), given).square().mean().backward()
    optimiser.step()
    assert all(weight.grad is None for weight in frozen.parameters())
    assert digest(frozen.model) == before


def digest(module: nn.Module) -> str:
    """SHA-256 over every byte of every tensor."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "vit"])
def test_the_fingerprint_knows_the_weights_and_not_their_type(name: str) -> None:
    mark = backbone(name).fingerprint
    assert fresh(name).fingerprint == mark
    assert fresh(name, torch.bfloat16).fingerprint == mark
    keys = list(model(name).state_dict())
    for key in (keys[0], keys[len(keys) // 2], keys[-1]):
        changed = model(name)
        changed.state_dict()[key].add_(1)
        assert wrap(changed).fingerprint != mark, key


def test_the_fingerprint_of_a_table_too_long_for_float32_to_count() -> None:
    """GPT-2's embeddings have 38,597,376 values; float32 rounds the place of the last one past the end."""
    frozen = fresh("llama")
    frozen.model.register_buffer("table", torch.zeros(1, dtype=torch.bfloat16).expand(38_597_376))
    assert len(frozen.fingerprint) == 64


def test_families_agree_between_their_own_attention_and_the_seam() -> None:
    """GPT-OSS adds a sink to every attention, which the registry's function does not know."""
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"hidden_size": H, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = GptOssForCausalLM(
        GptOssConfig(vocab_size=96, **sizes, num_key_value_heads=2, head_dim=8, num_local_experts=4)
    ).eval()
    nn.init.constant_(made.model.layers[0].self_attn.sinks, 2.0)
    ids = torch.arange(10, 16)[None]
    own = made.model(input_ids=ids).last_hidden_state
    frozen = wrap(made)
    assert "prefix" in frozen.unsupported
    near(frozen(tokens(ids), Injection()).hidden, own)


def pair_of(given: Prefix) -> Pair:
    assert given[0] is not None
    return given[0]


def test_a_prefix_may_enter_some_layers_only() -> None:
    frozen, data, given = backbone("llama"), batch("llama"), prefix(backbone("llama"))
    some = (None, pair_of(given), None)
    changed = answer(frozen, data, Injection(prefix=some))
    assert (changed - answer(frozen, data)).abs().max() > 1e-2
    changed.sum().backward()
    assert all(x.grad is not None for x in leaves(some))
