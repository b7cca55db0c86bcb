"""Neighbouring tokens, merged quickly: what the trainings of BPE and WordPiece do again and again.

The plain way to merge a pair is to go through each word that holds it. But without spaces, as in
Chinese, a "word" is a whole text, and each of a thousand merges goes through all of it. Here each
token knows its neighbours, and each pair its places, so that a merge costs only the places where it
happens.
"""
import heapq
from array import array
from collections import Counter, defaultdict


class Neighbours:
    """Words, lists of tokens, which stand one after the other with an empty place behind each."""

    def __init__(self, words):
        self.tokens = []                    # at each place: a token, or None
        for word in words:
            self.tokens += word
            self.tokens.append(None)
        n = len(self.tokens)
        # Where the token to the left stands, and the one to the right. For the first token the left
        # one is at −1, the last place, which is empty.
        self.before = array("q", range(-1, n - 1))
        self.after = array("q", range(1, n + 1))
        self.places = defaultdict(lambda: array("q"))   # {pair: where it stands, or once stood}
        for place, pair in enumerate(zip(self.tokens, self.tokens[1:])):
            if None not in pair:
                self.places[pair].append(place)

    def merge(self, pair: tuple, joined):
        """Replace the pair by the token `joined` wherever it stands, from the left: of a a a, the
        first two. Yields (pair, change, place) for each pair of neighbours that comes (change = 1)
        or goes (change = −1)."""
        tokens = self.tokens
        for place in sorted(self.places.pop(pair, ())):
            second = self.after[place]
            if (tokens[place], tokens[second]) != pair:     # an earlier merge took one of the two
                continue
            left = self.before[place]
            right = self.after[second]
            yield pair, -1, place
            if tokens[left] is not None:
                yield (tokens[left], pair[0]), -1, left
                yield (tokens[left], joined), 1, left
                self.places[tokens[left], joined].append(left)
            if tokens[right] is not None:
                yield (pair[1], tokens[right]), -1, place
                yield (joined, tokens[right]), 1, place
                self.places[joined, tokens[right]].append(place)
            tokens[place] = joined
            tokens[second] = None
            self.after[place] = right
            self.before[right] = place

    def words(self):
        """Yields each word as it is now, a list of tokens."""
        place = 0
        while place < len(self.tokens):
            word = []
            while self.tokens[place] is not None:
                word.append(self.tokens[place])
                place = self.after[place]
            yield word
            place += 1


class PairCounts:
    """How often each pair of neighbours occurs in words; the n-th word occurs times[n] times."""

    def __init__(self, words: list, times: list):
        self.neighbours = Neighbours(words)
        self.times = array("q")             # at each place
        for word, n in zip(words, times):
            self.times.extend([n] * (len(word) + 1))
        self.counts = Counter()
        for pair, places in self.neighbours.places.items():
            self.counts[pair] = sum(self.times[place] for place in places)
        self.queue = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.queue)           # the most frequent first; counts can be old ones

    def most_frequent(self) -> tuple:
        """(the most frequent pair, its count); of several the smallest. (None, 0) if there is none.
        """
        while self.queue:
            count, pair = self.queue[0]
            if -count == self.counts[pair]:
                return pair, -count
            heapq.heappop(self.queue)       # the count has changed since it was queued
        return None, 0

    def merge(self, pair: tuple, joined):
        """Replace the pair by the token `joined` everywhere."""
        changed = set()
        for other, change, place in self.neighbours.merge(pair, joined):
            self.counts[other] += change * self.times[place]
            changed.add(other)
        for other in changed:
            if self.counts[other] > 0:
                heapq.heappush(self.queue, (-self.counts[other], other))
            else:
                del self.counts[other]
