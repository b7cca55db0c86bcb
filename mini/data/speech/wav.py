"""Reading and writing WAV files, and sound at another rate.

A WAV file is a RIFF file: "RIFF", its size, "WAVE", and then chunks, each a name of four letters, a
size, and so many bytes (and one more if that is odd). Two of them matter:

    fmt     format (1: whole numbers, 3: floating point), channels, samples in a second, bytes in a
            second, bytes of one sample of all channels, bits; 65534: the format comes later
    data    the samples, the channels in turn; 8 bits from 0 to 255, all others with a sign

Python's own `wave` writes them, but refuses to read floating point and format 65534, as which many
programs save 24 bits.
"""
import math
import struct
import wave
from pathlib import Path

import numpy as np
import torch

from mini.data.files import what_is
from mini.utils.config import require, require_file
from mini.utils.run import atomic_open

PCM, FLOAT, EXTENSIBLE = 1, 3, 65534
COMPRESSED = {2: "Microsoft ADPCM", 6: "A-law", 7: "µ-law", 17: "IMA ADPCM", 49: "GSM 6.10",
              80: "MPEG", 85: "MP3"}
UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)     # what programs write that do not know it yet
RATES = (4000, 192000)
REMEDY = "save it as WAV with 16 bits (in Audacity: export, \"WAV, signed 16-bit PCM\")"


def read_wav(path) -> tuple:
    """(samples in a second, samples) of a WAV file, as a NumPy array (N,) or (N, channels).

    8 bits come as uint8, 16 as int16, 24 and 32 as int32 (24 as the upper three bytes), floating
    point as it is. Raises UserError, naming the file and the reason, for anything else.
    """
    require_file(path)
    data = Path(path).read_bytes()
    require(data, f"{path}: an empty file; record it again")
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        reason = what_is(data) or "it does not begin with RIFF … WAVE"
        require(False, f"{path}: not a WAV file ({reason}); {REMEDY}")

    form = None
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[position:position + 8])
        content = data[position + 8:position + 8 + size]
        if name == b"fmt ":
            form = read_format(path, content)
        if name == b"data":
            require(form, f"{path}: a damaged WAV file: nothing says how its samples are stored")
            if size in UNKNOWN_SIZES:
                content = data[position + 8:]
            require(size in UNKNOWN_SIZES or len(content) == size,
                    f"{path}: cut short: {len(content):,} of {size:,} bytes of sound are there; "
                    "copy it again")
            return form[2], to_samples(path, content, *form)
        position += 8 + size + size % 2
    require(False, f"{path}: cut short, or no sound in it: there is no data chunk; copy it again")


def read_format(path, content: bytes) -> tuple:
    """(format, channels, rate, bits) of an fmt chunk. Raises UserError for those not read here."""
    require(len(content) >= 16, f"{path}: cut short, or damaged: its fmt chunk has {len(content)} "
                                "bytes; copy it again")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if kind == EXTENSIBLE and len(content) >= 26:
        kind = struct.unpack("<H", content[24:26])[0]
    name = COMPRESSED.get(kind, f"of format {kind}")
    require(kind in (PCM, FLOAT), f"{path}: a WAV file, but {name}, which is not read here; "
                                  f"{REMEDY}")
    usual = bits in ((32, 64) if kind == FLOAT else (8, 16, 24, 32))
    require(usual, f"{path}: a WAV file of {bits} bits; {REMEDY}")
    require(channels > 0, f"{path}: a damaged WAV file: it has no channels; record it again")
    require(RATES[0] <= rate <= RATES[1], f"{path}: {rate:,} samples in a second; from "
                                          f"{RATES[0]:,} to {RATES[1]:,} can be read; {REMEDY}")
    return kind, channels, rate, bits


def to_samples(path, content: bytes, kind: int, channels: int, rate: int, bits: int) -> np.ndarray:
    """The samples in the bytes of a data chunk."""
    frame = channels * bits // 8
    n = len(content) // frame
    require(n > 0, f"{path}: there is no sound in it, not one sample; record it again")
    content = content[:n * frame]
    if kind == FLOAT:
        samples = np.frombuffer(content, f"<f{bits // 8}")
        require(np.isfinite(samples).all(), f"{path}: damaged: some samples are not numbers")
    elif bits == 24:                                            # three bytes, and a zero below them
        threes = np.frombuffer(content, np.uint8).reshape(-1, 3)
        fours = np.concatenate([np.zeros_like(threes[:, :1]), threes], axis=1)
        samples = fours.reshape(-1).view("<i4")
    else:
        samples = np.frombuffer(content, {8: "u1", 16: "<i2", 32: "<i4"}[bits])
    return samples.reshape(-1, channels) if channels > 1 else samples


def to_float(samples: np.ndarray) -> torch.Tensor:
    """Samples as read_wav returns them as one channel, the mean of all, in [-1, 1]: float (N,)."""
    x = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        x = (x - 128) / 128
    elif samples.dtype.kind == "i":
        x = x / 2.0 ** (8 * samples.dtype.itemsize - 1)
    if x.ndim == 2:
        x = x.mean(axis=1)
    return torch.from_numpy(x)


def resample(x: torch.Tensor, rate: int, new_rate: int) -> torch.Tensor:
    """A sound (N,) with `rate` samples in a second, at another rate. What is too high for the new
    rate is taken away, all else stays: the spectrum is cut, or filled up with zeros."""
    if rate == new_rate:
        return x
    step = rate // math.gcd(rate, new_rate)                     # this many samples become
    new_step = new_rate // math.gcd(rate, new_rate)             # this many
    blocks = math.ceil(len(x) / step)
    x = torch.nn.functional.pad(x, (0, blocks * step - len(x)))
    spectrum = torch.fft.rfft(x)[:blocks * min(step, new_step) // 2 + 1]
    return torch.fft.irfft(spectrum, blocks * new_step) * (new_step / step)


def read_sound(path, rate: int, longest: float = 0.0) -> torch.Tensor:
    """The sound of a WAV file, float (N,) in [-1, 1], one channel, `rate` samples in a second.
    Raises UserError if it is no such file, or takes more than `longest` seconds (0: any length)."""
    own_rate, samples = read_wav(path)
    seconds = len(samples) / own_rate
    require(longest == 0 or seconds <= longest,
            f"{path}: {seconds:,.1f} seconds; there is room for {longest:g} (--max_seconds, when a "
            "model is trained): cut it")
    return resample(to_float(samples), own_rate, rate)


def write_wav(path, x: torch.Tensor, rate: int):
    """Write a sound (N,) in [-1, 1] as a WAV file of 16 bits."""
    samples = (x.clamp(-1, 1) * 32767).round().short().cpu().numpy()
    with atomic_open(path) as file, wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())
