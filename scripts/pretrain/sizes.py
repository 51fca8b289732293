"""The two models that the project pretrains: the default backbone, and one for the test suite."""

from dataclasses import dataclass

from transformers import LlamaConfig


@dataclass(frozen=True)
class Size:
    """A Llama configuration and what is trained on."""

    vocabulary: int  # V, special tokens included
    hidden: int  # H
    layers: int  # L
    heads: int
    inner: int  # width of the feed-forward network
    context: int = 512

    def config(self, bos: int, eos: int, pad: int) -> LlamaConfig:
        """The configuration in the transformers layout, embeddings tied."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )


SIZES = {
    "tiny": Size(vocabulary=8192, hidden=256, layers=6, heads=4, inner=704),
    "nano": Size(vocabulary=1024, hidden=96, layers=4, heads=3, inner=256),
}
