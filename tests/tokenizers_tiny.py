"""Tiny real tokenizers, built in memory: what the tests of templates, prompts and generation share."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def words(size: int = 96, *, pad: int = 0, eos: int = 2, unk: int = 3) -> PreTrainedTokenizerFast:
    """A word-level tokenizer: id i is the word `w<i>`, but for the three special tokens; `w7 w9` is ids 7, 9."""
    special = {pad: "<pad>", eos: "</s>", unk: "<unk>"}
    vocabulary = {special.get(i, f"w{i}"): i for i in range(size)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=special[pad], eos_token=special[eos], unk_token=special[unk]
    )
