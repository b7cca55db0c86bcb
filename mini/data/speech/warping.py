"""Dynamic time warping, by which words were recognised before there were better ways.

A recording is compared with templates, each a word that somebody said. Two people never say a word
at the same speed, so time is stretched: each moment of the recording is laid beside a moment of the
template, never going back, so that the sum of their distances is as small as it can be (Vintsyuk
1968, Sakoe & Chiba 1978). The one-pass algorithm (Vintsyuk 1971, Ney 1984) does it for all words
of a sentence at once: where a template ends, any other may begin. Distances are those of cepstra
and of how they change (Davis & Mermelstein 1980, Furui 1986), which were the rule: with log-mel
spectrograms themselves, more words are wrong (69 %, not 40 %, of 167).
"""
import math

import torch

from mini.data.speech.phonemes import WORDS
from mini.data.speech.recordings import spoken_sentences
from mini.data.speech.synthesiser import make_voices
from mini.utils.progress import Progress

PER_WORD = 16                   # templates of a word, in as many voices
MOST = 600                      # templates of your own recordings
NEW_WORD = 2.0                  # what it costs to begin a word: else there would be too many
N_CEPSTRA = 13


def cepstra(mel):
    """Log-mel spectra (T, M) as (T, 26): cosine waves over the bands, which tell the broad shape of
    each spectrum, without loudness (wave 0); and how they change from 32 ms before to 32 ms after.
    """
    T, M = mel.shape
    k = torch.arange(1, N_CEPSTRA + 1)[:, None]
    waves = torch.cos(math.pi * k * (torch.arange(M) + 0.5) / M) / math.sqrt(M / 2)
    c = mel @ waves.T                                           # (T, M) -> (T, 13)
    at = torch.arange(T)
    change = c[(at + 2).clamp(max=T - 1)] - c[(at - 2).clamp(min=0)]
    return torch.cat([c, change], dim=1)


def templates_of(train_set, to_features) -> tuple:
    """([(text, cepstra (L, 26)), …], may they follow each other?).

    For sentences they are words, each in PER_WORD voices; else recordings that are learnt from, as
    many of each text, and they stand alone.
    """
    made = all(word in WORDS for text in train_set.texts for word in text.split())
    made = made and any(" " in text for text in train_set.texts)
    if made:
        words = [[word] for word in WORDS for _ in range(PER_WORD)]
        train_set = spoken_sentences(words, make_voices(len(words), 3 * 10**6), 3 * 10**6)
        chosen = range(len(words))
    else:
        texts = set(train_set.texts)
        left = dict.fromkeys(texts, max(1, MOST // len(texts)))
        chosen = []
        for i, text in enumerate(train_set.texts):
            if left[text] > 0 and len(chosen) < MOST:
                left[text] -= 1
                chosen.append(i)
    templates = []
    for i in chosen:
        n = train_set.n[i:i + 1]
        x = cepstra(to_features(train_set.sound[i:i + 1, :n.max()].float() / 32768, n)[0])
        # without the silence at both ends, if the templates are to follow each other
        templates.append((train_set.texts[i], x[3:-3] if made and len(x) > 9 else x))
    return templates, made


class Warping:
    """Writes down recordings by time warping."""

    def __init__(self, templates: tuple):
        templates, self.connected = templates
        if self.connected:                                      # silence is a word, too
            quiet = torch.stack([x[-1] for _, x in templates]).mean(dim=0, keepdim=True)
            templates = [("", quiet), *templates]
        self.texts = [text for text, _ in templates]
        self.frames = torch.cat([x for _, x in templates])      # (P, M), all templates in a row
        lengths = torch.tensor([len(x) for _, x in templates])
        self.last = lengths.cumsum(0) - 1                       # where each ends
        self.first = self.last - lengths + 1
        self.second = torch.where(lengths > 1, self.first + 1, self.first)

    def recognise(self, x) -> str:
        """The text of a recording with cepstra (T, 26)."""
        distance = torch.cdist(x, self.frames)                  # (T, P)
        infinite = float("inf")
        cost = torch.full((len(self.frames),), infinite)        # of the best path to each place
        began = torch.zeros(len(self.frames), dtype=torch.long)     # when its last word began
        before = 0.0                                            # cost of the best end, a moment ago
        ends = []                                               # (template, when it began), by time
        for t in range(len(x)):
            # stay at a place of the template, go to the next one, or leave one out
            step = torch.cat([torch.tensor([infinite]), cost[:-1]])
            skip = torch.cat([torch.tensor([infinite] * 2), cost[:-2]])
            begin = before + NEW_WORD if t == 0 or self.connected else infinite
            step[self.first] = begin
            skip[self.first] = infinite
            skip[self.second] = torch.where(self.second == self.first, infinite, begin)
            cost, way = torch.stack([cost, step, skip]).min(dim=0)
            shifted = torch.cat([began[:1], began[:-1]])
            twice = torch.cat([began[:1], began[:1], began[:-2]])
            shifted[self.first] = t
            twice[self.second] = t
            began = torch.where(way == 0, began, torch.where(way == 1, shifted, twice))
            cost = cost + distance[t]
            best = cost[self.last].argmin().item()
            before = cost[self.last[best]].item()
            ends.append((best, began[self.last[best]].item()))
        texts = []
        t = len(x) - 1
        while t >= 0:                                           # from the last word to the first
            template, start = ends[t]
            texts.append(self.texts[template])
            t = start - 1
        return " ".join(text for text in reversed(texts) if text)

    def write(self, recordings, to_features) -> list:
        """The texts of Recordings."""
        progress = Progress("compared", len(recordings))
        texts = []
        for i in range(len(recordings)):
            n = recordings.n[i:i + 1]
            x = cepstra(to_features(recordings.sound[i:i + 1, :n.max()].float() / 32768, n)[0])
            texts.append(self.recognise(x))
            progress.add()
        return texts
