"""RLPrompt: a small network over a frozen language model writes prompts and learns from their scores.

Deng et al. 2022, arXiv:2205.12548, sections 2.2 to 2.4; soft Q-learning of Guo et al. 2021, arXiv:2106.07704.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from softprompt.backbones import Backbone, load_backbone
from softprompt.backbones.causal import Causal
from softprompt.backbones.text import tokens_only
from softprompt.core import Example, Injection
from softprompt.search.candidates import Ids
from softprompt.search.operator import Operator
from softprompt.search.score import Judged, Scorer

WIDTH = 2048  # of the hidden layer, the paper's
TOP = 256  # tokens that are sampled from, the paper's
RATE = 2e-3
LEVEL = 0.3  # rate of the level of each place, in nats
CLIP = 5.0
FOLLOW = 0.1  # share by which the target network follows
RIGHT, WRONG = 200.0, 180.0  # what the gap of a right and of a wrong answer counts
SCALE = 5.0  # of the shaped reward
SOURCE = "classification"  # what the policy reads before its first token
WRITER = "softprompt/nano"  # the policy's model where the task's model does not write


class Network(nn.Module):
    """The part that learns: what it makes of a state [..., N, H] is read by the frozen output embeddings.

    `level` [N] is added to the values of all tokens of a place. It begins so that V of every place is the entropy of
    what is left to write, which is what V is while all rewards are alike.
    """

    def __init__(self, hidden: int, length: int, tokens: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(hidden, WIDTH), nn.ReLU(), nn.Linear(WIDTH, hidden))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain=1e-4)
                nn.init.zeros_(layer.bias)
        self.level = nn.Parameter(torch.arange(length - 1.0, -1.0, -1.0) * math.log(tokens))

    @override
    def forward(self, states: Tensor) -> Tensor:
        return self.mlp(states)  # type: ignore[no-any-return]


class RlPrompt(Operator):
    """The policy's model is the task's own where it is causal, else `softprompt/nano`; its passes are paid for too.

    A prompt that was drawn several times is scored once and counts as often as it was drawn. Deviations: rates are
    larger, because a search here has hundreds of steps, not 12,000: 2e-3, not 5e-5, and the target follows by 0.1, not
    1e-3; values have a level for every place, which is learned, where the original adds one constant (`logit_bias`):
    V cannot be learned by a readout without bias, and where it is wrong all that is drawn becomes likelier; a prompt
    that does not survive decode and encode teaches nothing.
    """

    name = "rlprompt"
    paper = 'Deng et al. 2022, "RLPrompt: Optimizing Discrete Text Prompts with Reinforcement Learning", 2205.12548'
    summary = "a policy over a frozen model that learns from scores"

    def __init__(self, scorer: Scorer, at: Ids) -> None:
        super().__init__(scorer, at)
        own = scorer.prompt.backbone
        self.shared = own.spec.kind == "causal"
        self.writer: Backbone = own if self.shared else load_backbone(WRITER)
        self.length, self.barred = len(at), self.unwritable()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = Network(self.writer.spec.states, self.length, int((~self.barred).sum()))
        self.net.to(self.writer.device)
        self.target = deepcopy(self.net).requires_grad_(False)
        rates = [{"params": self.net.mlp.parameters(), "lr": RATE}, {"params": [self.net.level], "lr": LEVEL}]
        self.optimizer = torch.optim.Adam(rates)
        self.sampled: dict[Ids, list[tuple[Tensor, Tensor]]] = {}  # states [N, H] and tokens [N] of every draw

    def unwritable(self) -> Tensor:
        """[V] bool: tokens of the writer that no prompt should hold."""
        rows = self.writer.model.get_input_embeddings().weight.shape[0]
        barred = torch.ones(rows, dtype=torch.bool, device=self.writer.device)
        if self.shared:
            barred[self.candidates.allowed] = False
            return barred
        tokenizer = self.writer.tokenizer
        texts = [tokenizer.decode([i]) for i in range(min(rows, len(tokenizer)))]
        plain = [i for i, text in enumerate(texts) if text.strip() and text.isprintable() and text.isascii()]
        barred[plain] = False
        barred[tokenizer.all_special_ids] = True
        return barred

    @override
    def price(self, passes: int, count: int) -> int:
        return count

    @override
    @torch.no_grad()
    def propose(self, at: Ids, examples: Sequence[Example], count: int, rng: Random) -> list[Ids]:
        self.scorer.ledger.spend(count)  # every token of a text that is written runs once
        assert isinstance(self.writer, Causal)
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        begin = self.writer.tokenizer(SOURCE, add_special_tokens=False)["input_ids"]
        text, cache = torch.tensor([begin] * count, device=self.writer.device), self.writer.new_cache()
        states, chosen, read = [], [], 0
        for place in range(self.length):
            new = tokens_only(text[:, read:], torch.ones_like(text, dtype=torch.bool))
            hidden, read = self.writer(new, Injection(), cache=cache).hidden, text.shape[1]
            assert hidden is not None
            states.append(hidden[:, -1].float())
            values, tokens = self.values(self.net, states[-1][:, None], place)[:, 0].topk(self.most(), 1)
            drawn = torch.multinomial(values.softmax(1).cpu(), 1, generator=generator).to(tokens.device)
            chosen.append(tokens.gather(1, drawn)[:, 0])
            text = torch.cat([text, chosen[-1][:, None]], 1)
        self.sampled = {}
        for state, tokens in zip(torch.stack(states, 1), torch.stack(chosen, 1), strict=True):  # [N, H], [N]
            ids: Ids = tuple(tokens.tolist())
            if not self.shared:
                ids = self.candidates.read(self.writer.tokenizer.decode(list(ids)))
            self.sampled.setdefault(ids, []).append((state, tokens))
        return list(self.sampled)

    def most(self) -> int:
        """From how many tokens one is drawn."""
        return min(TOP, int((~self.barred).sum()))

    def values(self, net: Network, states: Tensor, first: int = 0) -> Tensor:
        """Q-values [K, n, V] of every token after states [K, n, H] of the places from `first` on."""
        readout = self.writer.model.get_output_embeddings()
        scores = readout(net(states).to(readout.weight.dtype)).float()
        level = net.level[first : first + states.shape[1], None]
        return (scores + level).masked_fill(self.barred, -1e9)  # type: ignore[no-any-return]

    @override
    def learn(self, tried: Sequence[tuple[Ids, Judged]]) -> None:
        draws = [(reward(judged), *draw) for ids, judged in tried for draw in self.sampled.get(ids, [])]
        if len(draws) < 2:  # a reward is how a prompt compares with others
            return
        rewards = torch.tensor([worth for worth, _, _ in draws])
        shaped = SCALE * (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-4)
        states = torch.stack([state for _, state, _ in draws])  # [K, N, H]
        tokens = torch.stack([token for _, _, token in draws])
        loss = soft_q(self.values(self.net, states), self.values(self.target, states), tokens, shaped.to(states))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.net.mlp.parameters(), CLIP)
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.net.parameters(), strict=True):
                old.lerp_(new, FOLLOW)

    @override
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"target/{name}": value for name, value in self.target.state_dict().items()}
        for i, weight in enumerate(self.net.parameters()):
            tensors |= {f"adam/{i}/{name}": value for name, value in self.optimizer.state[weight].items()}
        return {name: value.detach().cpu().clone() for name, value in tensors.items()}, {}

    @override
    def load(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for part, module in (("net/", self.net), ("target/", self.target)):
            module.load_state_dict({n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)})
        weights = list(self.net.parameters())
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            if part == "adam":
                index, _, key = rest.partition("/")
                weight = weights[int(index)]
                self.optimizer.state[weight][key] = value.clone() if key == "step" else value.to(weight.device)


def reward(judged: Judged) -> float:
    """How good a prompt is: the gap of the right class to the best other one, more for a right answer than a wrong one.

    Of tasks without classes: the mean log-probability of the answer.
    """
    if judged.logs is None or judged.target is None:
        return -judged.mean
    chances = judged.logs.double().exp()
    right = chances.gather(1, judged.target[:, None])[:, 0]
    rest = chances.scatter(1, judged.target[:, None], -1.0).max(1).values
    gap = right - rest
    return torch.where(gap > 0, RIGHT * gap, WRONG * gap).mean().item()


def soft_q(values: Tensor, fixed: Tensor, tokens: Tensor, rewards: Tensor) -> Tensor:
    """The loss of soft Q-learning with one reward at the end: consistency of single steps and of all that follow.

    `values` and `fixed` [K, N, V] are Q of the network and of its target, `tokens` [K, N] what was chosen, `rewards`
    [K]. With V = logsumexp Q and A = Q(a) - V: A_t is to be V'_t+1 - V'_t (at the end R - V'_t), and the sum of A from
    t on is to be R - V'_t. Both hold with the roles of the two networks exchanged too: advantages alone would never
    learn how large V is, and with V too small every prompt that was tried, good or bad, becomes likelier.
    """
    learned = consistency(values, fixed.detach(), tokens, rewards)
    return (learned + consistency(fixed.detach(), values, tokens, rewards)) / 2


def consistency(acting: Tensor, valuing: Tensor, tokens: Tensor, rewards: Tensor) -> Tensor:
    """How far the advantages of one network are from the differences of worth of another, squared."""
    advantage = acting.gather(2, tokens[..., None])[..., 0] - acting.logsumexp(2)  # [K, N]
    worth = valuing.logsumexp(2)
    after = torch.cat([worth[:, 1:], rewards[:, None]], 1)
    ahead = advantage.flip(1).cumsum(1).flip(1)
    return (F.mse_loss(advantage, after - worth) + F.mse_loss(ahead, rewards[:, None] - worth)) / 2
