"""Speech made by source and filter (Fant 1960), as in Klatt's synthesiser of 1980, in tensors.

    source      pulses of the vocal folds, at the pitch of the voice; and noise
    filter      the resonances of throat and mouth (formants), which move from sound to sound

A sentence becomes segments (phonemes.py), they become parameters in frames of 5 ms, and these are
smoothed in time, since a tongue cannot jump: that is coarticulation, and it makes the sounds of
quick speech fall short of where they aim. Each frame of the source is then filtered by products in
the frequency domain, and the frames are added up. A batch of sentences is made at once, hundreds of
seconds of sound in a second of computing.

No two people speak alike, so a voice has a size, a pitch, a speed, an accent between three that
were measured, a lazy or a quick tongue, and an "s" of its own. What is said before a pause lasts
longer (Klatt 1979, "Synthesis by rule of segmental durations in English sentences").

The rate is that of the telephone, 8 kHz. Frequencies above 4 kHz are lost; but the first three
formants are below it, everything takes half the time of 16 kHz, and the best known recordings of
spoken digits have this rate too.
"""
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mini.data.speech.phonemes import (ACCENTS, CORONAL, OFF, SHUT, SOUNDS, VOICELESS, VOWELS,
                                         WEAK, WORDS, Segment)

RATE = 8000                     # samples in a second
HOP = 40                        # samples in a frame, 5 ms
N_FFT = 256                     # of a frame: its window, and the ringing of the formants behind it

SILENCE = Segment(0.1, 500, 1500, 2500, voice=-60.0, stretch=0.0)
SOUND_NAMES = ["", *SOUNDS]     # number 0 is silence


# ---- voices

@dataclass
class Voices:
    """n speakers: tensors (n,), if nothing else is said."""
    # the voice
    tract: torch.Tensor         # factor of all formants: 1 for Peterson & Barney's men, women 1.17
    pitch: torch.Tensor         # Hz, mean
    melody: torch.Tensor        # how much the pitch moves: 0 monotonous, 1 lively
    rate: torch.Tensor          # factor of durations: above 1 is slow
    breath: torch.Tensor        # dB, of the breath in the voice
    tilt: torch.Tensor          # 0 to 1: how much of the high harmonics is lost
    open: torch.Tensor          # the share of a period in which the vocal folds are open
    lazy: torch.Tensor          # 0 to 1: how slowly the tongue moves
    width: torch.Tensor         # factor of the bandwidths of formants
    # how each sound is made
    accent: torch.Tensor        # (n, sounds, 3): factor of F1, F2, F3 of each sound
    loud: torch.Tensor          # (n, sounds): how much louder its hiss is, in dB
    place: torch.Tensor         # (n, sounds): factor of the frequency of its hiss
    spread: torch.Tensor        # (n, sounds): factor of the bandwidth of its hiss
    way: torch.Tensor           # a number that picks among the pronunciations of words

    def __getitem__(self, i):
        return Voices(*(getattr(self, name)[i] for name in self.__dataclass_fields__))

    def __len__(self):
        return len(self.tract)


def accent_factors() -> torch.Tensor:
    """(accents, sounds, 3): what to multiply F1, F2, F3 of each sound by for each of ACCENTS."""
    factors = torch.ones(len(ACCENTS), len(SOUND_NAMES), 3)
    for a, vowels in enumerate(ACCENTS):
        for name, formants in vowels.items():
            ours = SOUNDS[name][0][1:4]
            factors[a, SOUND_NAMES.index(name)] = torch.tensor(formants) / torch.tensor(ours)
    return factors


def make_voices(n: int, seed: int) -> Voices:
    """n voices of men, women and children, the same ones for the same seed."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, generator=rng)

    kind = torch.multinomial(torch.tensor([0.45, 0.45, 0.10]), n, replacement=True, generator=rng)
    share = (2 * normal(n, len(ACCENTS))).softmax(dim=1)        # of each accent in each voice
    accent = torch.einsum("na,asf->nsf", share, accent_factors().log()).exp()
    return Voices(
        tract=torch.tensor([1.0, 1.16, 1.27])[kind] * (0.05 * normal(n)).clamp(-0.1, 0.1).exp(),
        pitch=torch.tensor([118.0, 205.0, 255.0])[kind] * (0.16 * normal(n)).clamp(-0.4, 0.4).exp(),
        melody=uniform(0.2, 1.3),
        rate=(0.1 + 0.16 * normal(n)).clamp(-0.25, 0.4).exp(),
        breath=uniform(-38, -20),
        tilt=uniform(0.0, 0.5),
        open=uniform(0.45, 0.75),
        lazy=uniform(0.0, 1.0),
        width=uniform(0.7, 1.5),
        accent=accent * (0.04 * normal(n, len(SOUND_NAMES), 3)).clamp(-0.1, 0.1).exp(),
        loud=(3.0 * normal(n, len(SOUND_NAMES))).clamp(-6, 6),
        place=(0.08 * normal(n, len(SOUND_NAMES))).clamp(-0.16, 0.16).exp(),
        spread=(0.4 * normal(n, len(SOUND_NAMES))).clamp(-0.7, 0.9).exp(),
        way=torch.randint(2**30, (n,), generator=rng),
    )


# ---- words as segments

SHORT = 0.75        # a vowel before a voiceless consonant is shorter: "seat", "seed" (Klatt 1979)

@dataclass
class Spoken:
    """A way to say a word: K segments."""
    targets: np.ndarray         # (K, 12), the numbers of a Segment
    sound: np.ndarray           # (K,), numbers in SOUND_NAMES
    kind: np.ndarray            # (K,): 2 in a stressed vowel, 1 in another vowel, 0 elsewhere
    rhyme: np.ndarray           # (K,): 1 in the last vowel and behind it, 0 elsewhere


def segments_of(name: str, before: str) -> list:
    """The segments of a sound. "oo" begins further in front behind a sound like t or sh than behind
    h (Hillenbrand, Clark & Nearey 2001)."""
    segments = SOUNDS[name]
    if name == "UW" and before in CORONAL:
        vowel = segments[0]
        half = vowel._replace(seconds=vowel.seconds / 2)
        segments = [half._replace(F2=1.3 * vowel.F2), half]
    return segments


def spoken(way: list) -> Spoken:
    """Segments of a pronunciation, [(sound, stressed), …]. F2 of a consonant follows the next vowel
    of the word, or the last one if none comes."""
    vowels = [i for i, (name, _) in enumerate(way) if name in VOWELS]
    targets = []
    sounds = []
    kinds = []
    rhyme = []
    for i, (name, stressed) in enumerate(way):
        later = [v for v in vowels if v >= i]
        if later:
            beside = SOUNDS[way[later[0]][0]][0]                # where the next vowel begins
        else:
            beside = SOUNDS[way[vowels[-1]][0]][-1]             # where the last one ends
        for segment in segments_of(name, before=way[i - 1][0] if i > 0 else ""):
            F2 = segment.F2 + segment.follow * (beside.F2 - segment.F2)
            if name == "HH":                                    # the mouth is at the vowel already
                segment = segment._replace(F1=beside.F1 + 50, F3=beside.F3)
            if name in VOWELS and i + 1 < len(way) and way[i + 1][0] in VOICELESS:
                segment = segment._replace(seconds=SHORT * segment.seconds)
            targets.append(segment._replace(F2=F2))
            sounds.append(SOUND_NAMES.index(name))
            kinds.append((2 if stressed else 1) if name in VOWELS else 0)
            rhyme.append(1 if i >= vowels[-1] else 0)
    return Spoken(np.array(targets, np.float32), np.array(sounds), np.array(kinds),
                  np.array(rhyme))


WAYS = {word: [spoken(way) for way in ways] for word, ways in WORDS.items()}
PAUSE = Spoken(np.array([SILENCE], np.float32), np.array([0]), np.array([0]), np.array([0]))


def plan(sentences: list, voices: Voices, rng):
    """Segments of B sentences, filled up with silence: targets (B, K, 12), sounds and kinds (B, K),
    and `final` (B, K): 1 from the last vowel before a pause on. A voice says a word always in the
    same one of its ways."""
    rows = []                                                   # each a list of Spoken
    for words, way in zip(sentences, voices.way.tolist()):
        parts = [PAUSE]
        for i, word in enumerate(words):
            ways = WAYS[word]
            parts.append(ways[(way >> (hash_of(word) % 29)) % len(ways)])
            if i < len(words) - 1 and torch.rand(1, generator=rng) < 0.15:
                parts.append(PAUSE)
        rows.append([*parts, PAUSE])
    longest = max(sum(len(part.sound) for part in row) for row in rows)
    targets = np.zeros((len(rows), longest, len(Segment._fields)), np.float32)
    targets[:] = PAUSE.targets
    targets[:, :, 0] = 0                                        # no time at all
    sound = np.zeros((len(rows), longest), np.int64)
    kind = np.zeros((len(rows), longest), np.int64)
    final = np.zeros((len(rows), longest), np.float32)
    for b, row in enumerate(rows):
        k = sum(len(part.sound) for part in row)
        targets[b, :k] = np.concatenate([part.targets for part in row])
        sound[b, :k] = np.concatenate([part.sound for part in row])
        kind[b, :k] = np.concatenate([part.kind for part in row])
        final[b, :k] = np.concatenate([part.rhyme * (after is PAUSE)
                                       for part, after in zip(row, [*row[1:], PAUSE])])
    return tuple(map(torch.from_numpy, (targets, sound, kind, final)))


def hash_of(word: str) -> int:
    """A number that is the same in every process, which Python's own hash is not."""
    return sum((i + 1) * ord(letter) for i, letter in enumerate(word))


# ---- segments as frames

FINAL = 1.5         # before a pause all is longer, from the last vowel on (Klatt 1979)
QUICK = 0.065       # seconds in which a quick tongue goes from one sound to the next
LAZY = 0.120        # … and a lazy one


def smooth(x, seconds: float):
    """Frames (B, T, P), averaged over so many seconds with a Hann window."""
    n = max(1, round(seconds * RATE / HOP)) // 2 * 2 + 1
    window = torch.hann_window(n + 2, periodic=False)[1:-1]
    kernel = (window / window.sum()).view(1, 1, n)
    B, T, P = x.shape
    x = x.transpose(1, 2).reshape(B * P, 1, T)
    x = F.pad(x, (n // 2, n // 2), mode="replicate")
    return F.conv1d(x, kernel).view(B, P, T).transpose(1, 2)


@dataclass
class Frames:
    """Parameters of B sentences in T frames of 5 ms."""
    formants: torch.Tensor      # (B, T, 3) Hz
    voice: torch.Tensor         # (B, T) amplitude
    breath: torch.Tensor        # (B, T)
    hiss: torch.Tensor          # (B, T)
    hiss_at: torch.Tensor       # (B, T) Hz
    hiss_width: torch.Tensor    # (B, T) Hz
    zero: torch.Tensor          # (B, T) Hz
    pitch: torch.Tensor         # (B, T) Hz
    n: torch.Tensor             # (B,) frames of each sentence, without the silence that fills it up


def weaken(targets, sound, kind, final, rng):
    """The segments of `plan` with a weaker voice in the consonants beside pauses. Behind one, "b",
    "d" and "g" mostly begin without a voice (Lisker & Abramson 1964); before one, their voice and
    that of "z" and "v" fades (Docherty 1992)."""
    B, K = sound.shape
    voice = targets[:, :, 4]
    after_pause = F.pad(sound[:, :-1] == 0, (1, 0), value=True)
    silent = after_pause & (voice == SHUT) & (torch.rand(B, K, generator=rng) < 0.7)
    fades = (final == 1) & (kind == 0) & (voice < WEAK)
    voice = torch.where(silent, OFF, voice) - fades * 15 * torch.rand(B, 1, generator=rng)
    targets = targets.clone()
    targets[:, :, 4] = voice
    return targets


def make_frames(sentences: list, voices: Voices, rng) -> Frames:
    """Parameters over time: durations by speed and stress, targets smoothed, a melody."""
    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    targets, sound, kind, final = plan(sentences, voices, rng)
    targets = weaken(targets, sound, kind, final, rng)
    B, K, _ = targets.shape

    # how long each segment lasts
    seconds = targets[:, :, 0]
    stretch = targets[:, :, -1]
    slow = voices.rate[:, None].log() + 0.08 * normal(B, 1) + 0.10 * normal(B, K)
    slow = slow + torch.tensor([0.0, -0.12, 0.12])[kind]        # stressed vowels are long
    slow = slow + final * (math.log(FINAL) + 0.2 * normal(B, 1)).clamp(min=0)
    seconds = seconds * (slow * stretch).exp()
    pause = (sound == 0) & (seconds > 0)
    seconds = torch.where(pause, 0.03 + 0.12 * torch.rand(B, K, generator=rng), seconds)
    ends = seconds.cumsum(dim=1)
    n = (ends[:, -1] * RATE / HOP).long()

    # the segment of each frame, and what it aims at
    T = int(n.max())
    time = (torch.arange(T) + 0.5) * HOP / RATE
    segment = torch.searchsorted(ends, time.expand(B, T).contiguous()).clamp(max=K - 1)
    aim = targets.gather(1, segment[:, :, None].expand(-1, -1, targets.size(2)))
    sound = sound.gather(1, segment)
    kind = kind.gather(1, segment)

    # the mouth: formants of this voice
    who = torch.arange(B)[:, None]
    formants = aim[:, :, 1:4] * voices.accent[who, sound]       # (B, T, 3)
    lazy = voices.lazy[:, None, None]
    formants = (1 - lazy) * smooth(formants, QUICK) + lazy * smooth(formants, LAZY)
    formants = formants * voices.tract[:, None, None]

    # levels, in dB, as amplitudes; stressed vowels are louder
    level = aim[:, :, 4:7].clone()
    level[:, :, 0] += torch.tensor([0.0, -2.0, 1.0])[kind]
    breathy = level[:, :, 0] + voices.breath[:, None]           # some breath is in every voice
    level[:, :, 1] = torch.maximum(level[:, :, 1], breathy)
    level[:, :, 2] += voices.loud[who, sound]
    level = smooth(level, 0.020)
    amplitude = 10 ** (level / 20) * (level > -55)

    # the melody, in semitones: it falls towards the end, and rises in stressed vowels
    place = time / (n[:, None] * HOP / RATE)                    # from 0 to 1
    accents = (kind == 2) * (2.0 + 1.5 * normal(B, K).gather(1, segment))
    semitones = 2.0 - 4.0 * place.clamp(max=1) + smooth(accents[:, :, None], 0.14)[:, :, 0]
    wobble = smooth(normal(B, T, 1), 0.03)[:, :, 0]             # no voice is perfectly steady
    semitones = voices.melody[:, None] * semitones + 0.35 * wobble
    pitch = voices.pitch[:, None] * 2 ** (semitones / 12)

    # the resonance of teeth and lips in this voice
    hiss_at, hiss_width, zero = aim[:, :, 7:10].unbind(2)
    hiss_at = (hiss_at * voices.place[who, sound]).clamp(max=3900)
    hiss_width = hiss_width * voices.spread[who, sound]
    smoothed = smooth(torch.stack([hiss_at, hiss_width, zero], dim=2), 0.015)
    hiss_at, hiss_width, zero = smoothed.unbind(2)

    voice, breath, hiss = amplitude.unbind(2)
    return Frames(formants, voice, breath, hiss, hiss_at, hiss_width, zero, pitch, n)


# ---- frames as sound

def glottal_pulses(pitch, open_share):
    """The flow of air through the vocal folds, differentiated as the lips do it: (B, N).

    pitch (B, N) in Hz at each sample. In a period the flow is x²(1 − x), x from 0 to 1 while the
    folds are open, and then 0 (Rosenberg 1971). Its differences are taken between samples, so that
    the sudden closing falls between two samples without a whistle (aliasing).
    """
    period = (pitch / RATE).cumsum(dim=1)                       # how many periods have gone by
    x = (period % 1.0) / open_share[:, None]
    flow = torch.where(x < 1, 6.75 * x**2 * (1 - x), 0.0)
    pulses = flow.diff(dim=1, prepend=flow[:, :1])
    return pulses * (RATE / pitch) * 0.4


def resonance(frequency, bandwidth):
    """The coefficients (…, 3) of 1 − 2 r cos θ z⁻¹ + r² z⁻², whose inverse is a resonance of that
    frequency and bandwidth in Hz: r = e^(−π · bandwidth / rate), θ = 2π · frequency / rate."""
    r = torch.exp(-math.pi * bandwidth / RATE)
    theta = 2 * math.pi * frequency / RATE
    return torch.stack([torch.ones_like(r), -2 * r * torch.cos(theta), r**2], dim=-1)


def product(a, b):
    """The product of polynomials in z⁻¹: coefficients (…, m) and (…, n) -> (…, m + n − 1)."""
    n = b.size(-1)
    c = torch.zeros(*a.shape[:-1], a.size(-1) + n - 1)
    for i in range(a.size(-1)):
        c[..., i:i + n] += a[..., i:i + 1] * b
    return c


def tract_filter(frames: Frames, voices: Voices):
    """What throat, mouth and nose let through, (B, T, bins): four formants; and a zero and a pole
    of the nose, which cancel unless the zero moves away (Klatt 1980). Gain 1 at frequency 0."""
    F1, F2, F3 = frames.formants.unbind(2)
    F4 = 3500 * voices.tract[:, None].expand_as(F1)
    width = voices.width[:, None].expand_as(F1)
    poles = resonance(F1.clamp(min=150), 55 * width)
    poles = product(poles, resonance(F2.clamp(max=3400), 75 * width))
    poles = product(poles, resonance(F3.clamp(max=3700), 110 * width))
    poles = product(poles, resonance(F4.clamp(max=3850), 200 * width))
    nose = torch.full_like(F1, 120.0)                           # bandwidth
    poles = product(poles, resonance(torch.full_like(F1, 270.0), nose))
    zeros = resonance(frames.zero, nose)
    gain = poles.sum(dim=2, keepdim=True) / zeros.sum(dim=2, keepdim=True)
    return torch.fft.rfft(zeros * gain, N_FFT) / torch.fft.rfft(poles, N_FFT)


def hiss_filter(frames: Frames):
    """The noise of teeth and lips: one wide resonance, (B, T, bins). Gain 1 where it is highest."""
    poles = resonance(frames.hiss_at, frames.hiss_width)
    r = poles[:, :, 2].sqrt()
    double = torch.cos(4 * math.pi * frames.hiss_at / RATE)     # cos 2θ
    gain = (1 - r) * (1 - 2 * r * double + r**2).sqrt()
    return (gain * frames.hiss)[:, :, None] * torch.fft.rfft(poles, N_FFT).reciprocal()


def render(frames: Frames, voices: Voices, rng) -> torch.Tensor:
    """The sound of the frames, (B, T · HOP), loudest sample 1."""
    B, T = frames.pitch.shape
    pitch = F.interpolate(frames.pitch[:, None], scale_factor=HOP, mode="linear")[:, 0]
    pulses = glottal_pulses(pitch, voices.open)
    noise = torch.randn(B, T * HOP, generator=rng)

    # cut into windows of two frames, which overlap by one and add up to 1
    window = torch.hann_window(2 * HOP)

    def spectra(x):
        return torch.fft.rfft(F.pad(x, (HOP // 2, HOP // 2 + HOP)).unfold(1, 2 * HOP, HOP)[:, :T]
                              * window, N_FFT)

    tilt = voices.tilt[:, None, None]
    angle = 2 * math.pi * torch.arange(N_FFT // 2 + 1) / N_FFT
    z = torch.polar(torch.ones_like(angle), -angle)             # z⁻¹ = e^(−iω) of each bin
    low_pass = (1 - tilt) / (1 - tilt * z)
    noise = spectra(noise)
    source = spectra(pulses) * low_pass * frames.voice[:, :, None]
    source = source + noise * frames.breath[:, :, None]
    Y = source * tract_filter(frames, voices)
    Y = Y + noise * hiss_filter(frames)

    # back to sound; what rings on is added to the frames after it
    y = torch.fft.irfft(Y, N_FFT)                               # (B, T, N_FFT)
    length = (T - 1) * HOP + N_FFT
    y = F.fold(y.transpose(1, 2), (1, length), (1, N_FFT), stride=(1, HOP))[:, 0, 0]
    y = y[:, HOP // 2:HOP // 2 + T * HOP]
    return y / y.abs().amax(dim=1, keepdim=True).clamp(min=1e-6)


def speak(sentences: list, voices: Voices, rng, at_once: int = 16):
    """(sound (B, N) in [-1, 1], samples of each sentence (B,)): sentence b, a list of words, in
    voice b. Shorter ones are filled up with silence."""
    sounds = []
    lengths = []
    for start in range(0, len(sentences), at_once):             # few at once: they fit in the cache
        part = slice(start, start + at_once)
        frames = make_frames(sentences[part], voices[part], rng)
        sounds += render(frames, voices[part], rng).unbind()
        lengths.append(frames.n * HOP)
    return torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True), torch.cat(lengths)
