"""Scores of written stories: are they free of contradictions, and are they new?"""
import torch

from mini.data.text.story_reader import check


def first_story(text: str) -> str:
    """The text up to its first blank line."""
    return text.strip("\n").partition("\n\n")[0]


def with_reading(text: str) -> str:
    """The first story of the text, and below it in brackets what the reader says of it."""
    story = first_story(text)
    found = check(story)
    remark = "contradictions: " + "; ".join(found) if found else "no contradiction"
    return f"{story}\n[{remark}]"


def share_consistent(stories: list) -> float:
    """The share of stories in which the reader finds no contradiction."""
    return sum(not check(story) for story in stories) / len(stories)


def story_scores(texts: list, corpus, baseline, tokenizer, temperature: float) -> dict:
    """Scores of stories that a model wrote, beside true ones and those of a baseline.

    texts: the first story of each counts; corpus: the Corpus that was learnt from; baseline: a
    KneserNey model of the same tokens, which writes as many stories at the same temperature.
    consistent: the share without a contradiction; new: the share that is not in the training part.
    """
    stories = [first_story(text) for text in texts]
    counted = write_by_counting(baseline, tokenizer, len(stories), temperature)
    learnt = {story.strip("\n") for story in corpus.train}
    return {
        "consistent": share_consistent(stories),
        "consistent_kneser_ney": share_consistent(counted),
        "consistent_true": share_consistent([story.strip("\n") for story in corpus.test]),
        "new": sum(story not in learnt for story in stories) / len(stories),
        "stories_scored": len(stories),
    }


def write_by_counting(baseline, tokenizer, n: int, temperature: float, longest: int = 246) -> list:
    """n stories written by a KneserNey model, token by token."""
    rng = torch.Generator().manual_seed(0)
    idx = torch.tensor([tokenizer.encode(tokenizer.start)] * n)         # (n, T)
    for _ in range(longest):
        logits = baseline.probs(idx[:, -4:]).log() / temperature        # (n, V)
        probs = torch.softmax(logits, dim=-1)
        token = torch.multinomial(probs, 1, generator=rng)              # (n, 1)
        idx = torch.cat([idx, token], dim=1)
    return [first_story(tokenizer.decode(row)) for row in idx.tolist()]


def story_report(scores: dict) -> str:
    """The scores of `story_scores` in words."""
    return (f"stories without a contradiction: {scores['consistent']:.1%} of "
            f"{scores['stories_scored']} (by counting {scores['consistent_kneser_ney']:.1%}, true "
            f"ones {scores['consistent_true']:.1%}); new: {scores['new']:.1%}")
