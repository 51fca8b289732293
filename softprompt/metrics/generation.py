"""Metrics of generated text: BLEU and chrF as sacrebleu counts them, ROUGE-L, and exact match.

Papineni et al. 2002, "BLEU", with the mteval-13a tokenisation and exponential smoothing of Post 2018, arXiv:1804.08771;
Popović 2015, "chrF"; Lin 2004, "ROUGE", section 3.2. A reference is one text or several: the best counts, in BLEU the
union. BLEU and chrF are 0 to 100, the others 0 to 1. Letters: D draws, R references of one example.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from softprompt.errors import SoftpromptError
from softprompt.metrics.checks import check_texts
from softprompt.metrics.resampling import Numbers, Tally, mean_tally, ratio, sum_tally

Reference = str | Sequence[str]
ORDERS = 4  # BLEU: word n-grams
CHAR_ORDERS = 6  # chrF: character n-grams
BETA = 2.0  # chrF: weight of recall


def bleu(predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str] | None = None) -> Tally:
    """Corpus BLEU, 0 to 100; 0 where no prediction has four tokens (use exact_match for short answers)."""
    from sacrebleu.metrics.bleu import BLEU

    counter = BLEU(effective_order=True, force=True)  # effective order: no warning; the counts do not depend on it
    rows = []
    for text, targets in _examples(predictions, references):
        score = counter.sentence_score(text, targets)
        rows.append((score.sys_len, score.ref_len, *score.counts, *score.totals))
    return sum_tally(rows, _bleu)


def chrf(predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str] | None = None) -> Tally:
    """Corpus chrF2, 0 to 100, character n-grams up to 6 without white space."""
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    rows = []
    for text, targets in _examples(predictions, references):
        said = extract_all_char_ngrams(text, CHAR_ORDERS)
        candidates = [_overlap(said, extract_all_char_ngrams(target, CHAR_ORDERS)) for target in targets]
        rows.append(candidates[int(np.argmax(_chrf(np.array(candidates, dtype=np.float64))))])
    return sum_tally(rows, _chrf)


def rouge_l(predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str] | None = None) -> Tally:
    """Mean F1 of the longest common subsequence of words, case folded, without stemming; 0 to 1."""
    return _mean_of_best(predictions, references, rouge_l_f1)


def exact_match(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str] | None = None
) -> Tally:
    """The share of answers equal to a reference; runs of white space are one blank, case counts."""
    return _mean_of_best(predictions, references, lambda a, b: float(a.split() == b.split()))


def rouge_l_f1(first: str, second: str) -> float:
    """ROUGE-L of two texts, symmetric; texts without a word are compared as they are."""
    a, b = (re.findall(r"[^\W_]+", text.casefold()) for text in (first, second))
    if not a and not b:
        return float(first.split() == second.split())
    return 2 * lcs_length(a, b) / (len(a) + len(b))


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence (Hyyrö 2004, "Bit-parallel LCS-length computation revisited")."""
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    rows = full  # bit i is 0 where the length grows from a[:i] to a[:i+1]
    for word in b:
        shared = rows & places.get(word, 0)
        rows = ((rows + shared) | (rows - shared)) & full
    return len(a) - rows.bit_count()


def _examples(predictions: Sequence[str], references: Sequence[Reference]) -> list[tuple[str, list[str]]]:
    """Each prediction with the list of its references."""
    check_texts(predictions, "prediction")
    examples = []
    for i, (text, reference) in enumerate(zip(predictions, references, strict=True)):
        targets = [reference] if isinstance(reference, str) else list(reference)
        check_texts(targets, f"reference {i}, alternative")
        if not targets:
            raise SoftpromptError(
                "SP-E603", "no alternative", "at least one text", "add the answer", where=f"reference {i}"
            )
        examples.append((text, targets))
    return examples


def _mean_of_best(
    predictions: Sequence[str], references: Sequence[Reference], similarity: Callable[[str, str], float]
) -> Tally:
    best = [max(similarity(text, t) for t in targets) for text, targets in _examples(predictions, references)]
    return mean_tally(best)


def _bleu(sums: Numbers) -> Numbers:
    """BLEU [D] of sums [D, 10]: tokens predicted, closest reference length, matches and n-grams of each order."""
    said, true, matches, totals = sums[:, 0], sums[:, 1], sums[:, 2 : 2 + ORDERS], sums[:, 2 + ORDERS :]
    # Exponential smoothing: the k-th order without a match counts 2^-k matches.
    smooth = 0.5 ** np.cumsum(matches == 0, axis=1)
    scored = (totals[:, -1] > 0) & (matches[:, 0] > 0)
    precisions = np.where(matches > 0, matches, smooth) / np.where(totals > 0, totals, 1)
    brevity = np.minimum(0.0, 1 - true / np.where(said > 0, said, 1))
    return np.where(scored, 100 * np.exp(np.log(precisions).mean(axis=1) + brevity), 0.0)


def _overlap(said: Sequence[dict[str, int]], true: Sequence[dict[str, int]]) -> list[int]:
    """Predicted, reference and common n-grams of each order; an order the reference lacks counts nothing."""
    row = []
    for ours, theirs in zip(said, true, strict=True):
        common = sum(min(count, theirs[gram]) for gram, count in ours.items() if gram in theirs)
        row += [sum(ours.values()) if theirs else 0, sum(theirs.values()), common]
    return row


def _chrf(sums: Numbers) -> Numbers:
    """ChrF2 [D] of sums [D, 18]: mean precision and recall over the orders that occur on both sides."""
    said, true, common = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    both = (said > 0) & (true > 0)
    orders = np.maximum(both.sum(axis=1), 1)
    precision = np.where(both, common / np.where(both, said, 1), 0).sum(axis=1) / orders
    recall = np.where(both, common / np.where(both, true, 1), 0).sum(axis=1) / orders
    return 100 * np.nan_to_num(ratio((1 + BETA**2) * precision * recall, BETA**2 * precision + recall))
