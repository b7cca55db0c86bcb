"""Makes wav/*.wav and speech.npz: small WAV files and the samples that SciPy reads in them, and the
mel spectrogram of a sound by librosa.

Made with scipy 1.17.1, soundfile 0.14.0, librosa 0.11.0:  python tests/reference/make_speech.py
"""
from pathlib import Path

import librosa
import numpy as np
import soundfile
from scipy.io import wavfile

FOLDER = Path(__file__).parent
WAV = FOLDER / "wav"
KINDS = {                               # name: (subtype and format of soundfile, rate, channels)
    "pcm_8": ("PCM_U8", "WAV", 8000, 1),
    "pcm_16": ("PCM_16", "WAV", 16000, 1),
    "pcm_24": ("PCM_24", "WAV", 44100, 1),
    "pcm_32": ("PCM_32", "WAV", 48000, 1),
    "float_32": ("FLOAT", "WAV", 22050, 1),
    "float_64": ("DOUBLE", "WAV", 22050, 2),
    "stereo_16": ("PCM_16", "WAV", 44100, 2),
    "stereo_24": ("PCM_24", "WAVEX", 48000, 2),         # format 65534
    "a_law": ("ALAW", "WAV", 8000, 1),                  # not read
    "mu_law": ("ULAW", "WAV", 8000, 1),
    "ms_adpcm": ("MS_ADPCM", "WAV", 8000, 1),
    "ima_adpcm": ("IMA_ADPCM", "WAV", 8000, 1),
    "gsm": ("GSM610", "WAV", 8000, 1),
}


def main():
    WAV.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    golden = {}
    for name, (subtype, form, rate, channels) in KINDS.items():
        samples = rng.uniform(-1, 1, (75, channels))    # an odd number: chunks are filled up
        path = WAV / f"{name}.wav"
        soundfile.write(path, samples, rate, subtype=subtype, format=form)
        if subtype.startswith(("PCM", "FLOAT", "DOUBLE")):
            golden[f"{name}_rate"], golden[name] = wavfile.read(path)

    # a chirp with noise, as librosa sees it with the settings of mini/speech.py
    t = np.arange(8000) / 8000
    sound = 0.5 * np.sin(2 * np.pi * (200 * t + 1500 * t**2)) + 0.01 * rng.standard_normal(8000)
    sound = sound.astype(np.float32)
    mel = librosa.feature.melspectrogram(
        y=sound.astype(np.float64), sr=8000, n_fft=256, hop_length=128, window="hann",
        center=False, power=2.0, n_mels=40, fmin=0.0, fmax=4000.0, htk=True, norm=None)
    golden.update(sound=sound, log_mel=np.log10(np.maximum(mel.T, 1e-10)))
    np.savez_compressed(FOLDER / "speech.npz", **golden)


if __name__ == "__main__":
    main()
