"""What happens to speech on its way to the recogniser: a room, a microphone, noise."""
import math

import torch

from mini.data.speech.synthesiser import RATE

ECHO = 2048                     # samples of a room's answer to a clap, a quarter of a second
NOISES = ("white", "pink", "babble")
SECONDS_OF_NOISE = 20


def loudness(sound, n):
    """The root mean square of sounds (B, N) over the n samples (B,) that each has: (B, 1)."""
    inside = torch.arange(sound.size(1)) < n[:, None]
    return ((sound**2 * inside).sum(dim=1) / n).sqrt()[:, None]


def in_rooms(sound, rng):
    """Sounds (B, N), each heard in a room of its own, through a microphone of its own.

    The room: what comes straight, and echoes that die away by 60 dB in 0.1 to 0.5 seconds. The
    microphone: a gain that changes smoothly with the frequency, by 5 dB or so; nothing very low.
    """
    B, N = sound.shape
    size = 2 ** math.ceil(math.log2(N + ECHO))                  # of the FFT: nothing wraps around

    time = torch.arange(ECHO) / RATE
    dies_in = 0.1 + 0.4 * torch.rand(B, 1, generator=rng)
    strength = 0.12 * torch.rand(B, 1, generator=rng) ** 2
    room = torch.randn(B, ECHO, generator=rng) * 10 ** (-3 * time / dies_in) * strength
    room[:, 0] = 1.0

    f = torch.linspace(0, 1, size // 2 + 1)                     # 1: half the rate
    dB = torch.zeros(B, len(f))
    for k in range(1, 4):                                       # a few slow waves
        dB += 4.0 * torch.randn(B, 1, generator=rng) / k * torch.cos(math.pi * k * f)
    lowest = (20 + 180 * torch.rand(B, 1, generator=rng)) / (RATE / 2)
    microphone = 10 ** (dB / 20) * f / (f**2 + lowest**2).sqrt()

    Y = torch.fft.rfft(sound, size) * torch.fft.rfft(room, size) * microphone
    return torch.fft.irfft(Y, size)[:, :N]


def make_noises(babble, rng):
    """(3, samples): noises of equal loudness. White: all frequencies alike; pink: 3 dB less with
    each octave; babble: many people at once, sums of the sounds `babble` (B, N)."""
    N = SECONDS_OF_NOISE * RATE
    white = torch.randn(N, generator=rng)
    spectrum = torch.fft.rfft(torch.randn(N, generator=rng))
    pink = torch.fft.irfft(spectrum / torch.arange(1, len(spectrum) + 1).sqrt())
    crowd = torch.zeros(N)
    for _ in range(6):                                          # six people, each all the time
        order = torch.randperm(len(babble), generator=rng)
        speech = torch.cat([babble[i][babble[i] != 0] for i in order])
        crowd += speech.repeat(math.ceil(N / len(speech)))[:N]
    noises = torch.stack([white, pink, crowd])
    return noises / (noises**2).mean(dim=1, keepdim=True).sqrt()


def add_noise(sound, n, snr, noises, rng):
    """Sounds (B, N) with noise, from a random place of one of the noises, snr (B,) dB below."""
    B, N = sound.shape
    kind = torch.randint(len(noises), (B, 1), generator=rng)
    start = torch.randint(noises.size(1) - N, (B, 1), generator=rng)
    noise = noises[kind, start + torch.arange(N)]               # (B, N)
    return sound + noise * loudness(sound, n) * 10 ** (-snr[:, None] / 20)
