"""mini/data/speech: the synthesiser against a phonetics table, WAV files against SciPy, time
warping and error rates by hand, and what people bring.
"""
import itertools
import math
import struct
import time
import wave

import numpy as np
import pytest
import torch

from mini.data.speech import recordings as data
from mini.data.speech import rooms, scores, synthesiser, warping
from mini.data.speech.phonemes import ENGLAND, MEN, SOUNDS, WOMEN, WORDS
from mini.data.speech.recordings import Recordings
from mini.data.speech.sentences import HELD_BACK, write_sentences
from mini.data.speech.wav import read_sound, read_wav, resample, to_float, write_wav
from mini.data.speech.pictures import spectrogram_and_attention
from tests.helpers import ROOT, close, refused, rng_of

RATE = synthesiser.RATE
WAV = ROOT / "tests/reference/wav"
GOLDEN = np.load(ROOT / "tests/reference/speech.npz")


# ---- the synthesiser

def plain_voice(**changes):
    """A voice without an accent, and with nothing by chance."""
    voice = synthesiser.make_voices(1, 0)
    voice.accent[:] = 1
    voice.loud[:] = 0
    voice.place[:] = 1
    voice.spread[:] = 1
    for name, value in {"tract": 1.0, "width": 0.7, "tilt": 0.2, "lazy": 0.2, "rate": 1.0,
                        **changes}.items():
        getattr(voice, name)[:] = value
    return voice


def steady(sound: str, voice, seconds=1.0):
    """The Frames of one vowel, held for so long."""
    T = round(seconds * RATE / synthesiser.HOP)
    segment = SOUNDS[sound][0]
    one = torch.ones(1, T)
    formants = torch.tensor(segment[1:4]).expand(1, T, 3) * voice.tract
    return synthesiser.Frames(formants, one, 0.01 * one, 0 * one, 2500 * one, 1000 * one, 270 * one,
                              voice.pitch[:, None] * one, torch.tensor([T]))


def envelope(sound, order=10):
    """(frequencies, level in dB) of the resonances in a sound, by linear prediction: each sample is
    predicted from the ones before it, which an all-pole filter can do best."""
    x = sound.double() * torch.hann_window(len(sound), dtype=torch.float64)
    power = torch.fft.rfft(x, 2 * len(x)).abs() ** 2
    r = torch.fft.irfft(power)[:order + 1]
    lags = (torch.arange(order)[:, None] - torch.arange(order)).abs()
    a = torch.linalg.solve(r[lags] + 1e-9 * r[0] * torch.eye(order), r[1:])
    spectrum = torch.fft.rfft(torch.cat([torch.ones(1), -a]), 8000)
    return torch.arange(4001), -20 * spectrum.abs().log10()


def formants_of(sound):
    """The frequencies of the peaks of its envelope."""
    x = torch.cat([sound[:1], sound[1:] - 0.95 * sound[:-1]])   # high frequencies made louder
    f, level = envelope(x)
    peak = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:])
    return f[1:-1][peak].tolist()


@pytest.mark.parametrize("vowel", MEN)
def test_vowels_have_their_formants(vowel):
    """Peterson & Barney's, measured in the sound by linear prediction: within 6 % or 50 Hz. The
    voice is breath alone, as in whispering: between the harmonics of a voice there is nothing to
    be measured."""
    voice = plain_voice()
    frames = steady(vowel, voice, seconds=3.0)
    frames.voice = 0 * frames.voice
    sound = synthesiser.render(frames, voice, rng_of(1))[0]
    found = formants_of(sound)
    for want in MEN[vowel]:
        nearest = min(found, key=lambda f: abs(f - want))
        assert abs(nearest - want) <= max(50, 0.06 * want), (want, found)


def test_a_shorter_vocal_tract_is_that_of_women():
    """One factor takes the men's formants near those of the women of the same table: F2 and F3
    within 12 %, while unchanged ones are up to 30 % too low."""
    for vowel, of_men in MEN.items():
        for i in (1, 2):
            assert abs(1.16 * of_men[i] / WOMEN[vowel][i] - 1) < 0.12, (vowel, i)


def test_accents_are_those_of_the_tables():
    """The factors of England take the men's vowels of 1952 to those of 2005; and each voice lies
    between the accents, but for 12 % of its own."""
    factors = synthesiser.accent_factors()
    number = synthesiser.SOUND_NAMES.index
    for vowel, formants in ENGLAND.items():
        close(factors[2, number(vowel)] * torch.tensor(SOUNDS[vowel][0][1:4]),
              torch.tensor(formants).float(), 1e-5)
    assert (factors[:, number("S")] == 1).all() and (factors[0] == 1).all()
    accent = synthesiser.make_voices(200, 0).accent
    assert (accent > factors.amin(dim=0) * 0.88).all()
    assert (accent < factors.amax(dim=0) * 1.13).all()
    of_england = accent[:, number("UW"), 1] > 1.5               # F2 of "two": 870 or 1616 Hz?
    assert 0.05 < of_england.float().mean() < 0.5


def test_what_comes_before_a_pause_is_longer():
    """From the last vowel on, half as long again; and a vowel before a voiceless sound is short."""
    voices = plain_voice()
    rng = rng_of(0)
    _, sound, _, final = synthesiser.plan([["seven", "lamp"]], voices, rng)
    heard = [synthesiser.SOUND_NAMES[i] for i in sound[0][final[0] == 1]]
    assert heard == ["AE", "M", "P", "P", "P"]
    frames = {words: synthesiser.make_frames([words.split()] * 40, voices[[0] * 40], rng).n.float()
              for words in ("dog", "dog six", "six")}
    alone = frames["dog"].mean()                                # with two pauses of 18 frames
    inside = (frames["dog six"] - frames["six"]).mean() + 36
    assert alone - inside > 8                                   # 40 ms
    vowel = {word: synthesiser.WAYS[word][0].targets[:, 0].max() for word in ("has", "black")}
    assert vowel["black"] < 0.8 * vowel["has"]


def test_oo_begins_in_front_behind_sh():
    first, second = synthesiser.WAYS["shoe"][0].targets[-2:]
    (whole,) = SOUNDS["UW"]
    assert first[2] > 1.2 * second[2] and second[2] == whole.F2
    close(first[0] + second[0], whole.seconds, 1e-6)
    assert len(synthesiser.segments_of("UW", "HH")) == 1        # "who"
    assert len(synthesiser.segments_of("IY", "SH")) == 1        # "she"


def test_the_voice_is_weak_beside_pauses():
    """Of "d" in "dog" after a pause in seven of ten; never of the same sound within a sentence. Of
    the "z" at the end of "keys", and not of the one at the start of "zero"."""
    voices = synthesiser.make_voices(300, 3)
    rng = rng_of(1)

    def voice_of(sentence):
        targets, sound, kind, final = synthesiser.plan([sentence.split()] * 300, voices, rng)
        return synthesiser.weaken(targets, sound, kind, final, rng)[:, :, 4], sound

    voice, sound = voice_of("dog")
    assert 0.6 < (voice[:, 1] == -60).float().mean() < 0.8      # number 0 is the pause
    assert ((voice[:, 1] == -60) | (voice[:, 1] == synthesiser.SHUT)).all()
    z = synthesiser.SOUND_NAMES.index("Z")
    voice, sound = voice_of("keys")
    assert -17 < voice[sound == z].mean() < -13 and voice[sound == z].min() > -24
    voice, sound = voice_of("zero")
    assert (voice[sound == z] == -8).all()
    voice, sound = voice_of("old dog")
    d = synthesiser.SOUND_NAMES.index("D")
    within = (sound == d) & (torch.nn.functional.pad(sound[:, :-1], (1, 0)) != 0)
    assert (voice[within] > -60).all()
    frames = synthesiser.make_frames([["dog"]] * 300, voices, rng)
    burst = (frames.hiss > 0.01).float().argmax(dim=1)          # the first frame of it
    before = frames.voice.gather(1, burst[:, None] - 4)
    assert 0.55 < (before == 0).float().mean() < 0.85


def test_pitch_is_the_one_asked_for():
    voice = plain_voice(pitch=150.0)
    sound = synthesiser.render(steady("AA", voice), voice, rng_of(1))[0, 2000:6000]
    r = torch.fft.irfft(torch.fft.rfft(sound, 8192).abs() ** 2)
    assert abs(RATE / (r[30:100].argmax().item() + 30) - 150) < 3


def test_hiss_is_high_and_voice_is_low():
    """More than half of the power of s lies above 3 kHz, and of the vowel below 1 kHz. And p is
    silent before it bursts."""
    voice = plain_voice()
    sound, n = synthesiser.speak([["six"]], voice, rng_of(2))
    frames = synthesiser.make_frames([["six"]], voice, rng_of(2))
    power = torch.stft(sound[0], 256, synthesiser.HOP, window=torch.hann_window(256),
                       return_complex=True).abs() ** 2          # (129, T)
    hiss = frames.hiss[0].argmax()
    voiced = (frames.voice[0] - 10 * frames.hiss[0]).argmax()
    assert power[96:, hiss].sum() > 0.5 * power[:, hiss].sum()
    assert power[:32, voiced].sum() > 0.5 * power[:, voiced].sum()
    assert SOUNDS["P"][0].voice == -60 and SOUNDS["P"][0].hiss == -60


def test_the_tongue_does_not_jump():
    """F2 moves by less than 180 Hz in 5 ms, though targets lie 1,000 Hz apart."""
    frames = synthesiser.make_frames([["zero", "seven", "yellow"]], plain_voice(), rng_of(0))
    assert frames.formants[0, :, 1].diff().abs().max() < 180
    assert frames.formants[0, :, 1].max() - frames.formants[0, :, 1].min() > 1000


def test_the_same_seed_gives_the_same_speech():
    voices = synthesiser.make_voices(3, 5)
    sentences = write_sentences(3, 5)
    a, n = synthesiser.speak(sentences, voices, rng_of(1))
    b, _ = synthesiser.speak(sentences, voices, rng_of(1))
    assert torch.equal(a, b) and a.abs().max() <= 1 and not a.isnan().any()
    assert not torch.equal(a[0], synthesiser.speak(sentences, voices, rng_of(2))[0][0])
    assert ((n / RATE > 0.5) & (n / RATE < 4.0)).all()


def test_every_word_can_be_said_and_every_way_is_used():
    words = [[word] for word in WORDS]
    for seed in (0, 1):
        sound, n = synthesiser.speak(words, synthesiser.make_voices(len(words), seed), rng_of(0))
        assert (rooms.loudness(sound, n) > 0.005).all()
    ways = {(word, v >> (synthesiser.hash_of(word) % 29) & 1) for word in WORDS
            for v in synthesiser.make_voices(40, 0).way.tolist()}
    assert len(ways) == 2 * len(WORDS)


def test_it_is_fast():
    """Hundreds of seconds of sound in a second; far fewer are asked for here, on a busy machine."""
    sentences = write_sentences(32, 1)
    voices = synthesiser.make_voices(32, 1)
    synthesiser.speak(sentences[:16], voices[:16], rng_of(1))
    start = time.process_time()
    _, n = synthesiser.speak(sentences, voices, rng_of(1))
    seconds = time.process_time() - start
    assert n.sum() / RATE > 50 * seconds


def test_held_back_pairs_are_not_learnt_from():
    """And each of their words is."""
    learnt = write_sentences(3000, 1)
    pairs = {pair for words in learnt for pair in zip(words, words[1:])}
    assert not pairs & HELD_BACK
    assert set(itertools.chain(*HELD_BACK)) <= set(itertools.chain(*learnt)) <= set(WORDS)
    for words in write_sentences(50, 1, unseen=True):
        assert set(zip(words, words[1:])) & HELD_BACK


# ---- rooms and noise

def test_noise_is_as_loud_as_asked_for():
    """The level is that of the speech, not of the silence that fills up the batch."""
    sound = torch.zeros(3, 8000)
    n = torch.tensor([8000, 4000, 1000])
    for row, length in zip(sound, n.tolist()):
        row[:length] = torch.randn(length, generator=rng_of(length))
    noises = rooms.make_noises(sound, rng_of(0))
    assert noises.shape == (3, rooms.SECONDS_OF_NOISE * RATE)
    for level in (0.0, 10.0):
        noisy = rooms.add_noise(sound, n, torch.full((3,), level), noises, rng_of(0))
        ratio = rooms.loudness(sound, n) / rooms.loudness(noisy - sound, torch.full((3,), 8000))
        assert (20 * ratio.log10() - level).abs().max() < 2.5


def test_a_room_comes_after_the_sound():
    click = torch.zeros(1, 4000)
    click[0, 1000] = 1
    heard = rooms.in_rooms(click, rng_of(0))
    assert heard.shape == click.shape
    assert heard[0, :950].abs().max() < 0.2 * heard.abs().max()
    assert heard[0, 995:1006].abs().max() == heard.abs().max()


# ---- WAV files

READ = ["pcm_8", "pcm_16", "pcm_24", "pcm_32", "float_32", "float_64", "stereo_16", "stereo_24"]


@pytest.mark.parametrize("name", READ)
def test_wav_is_read_as_scipy_reads_it(name):
    rate, samples = read_wav(WAV / f"{name}.wav")
    assert rate == GOLDEN[f"{name}_rate"]
    assert samples.dtype == GOLDEN[name].dtype and np.array_equal(samples, GOLDEN[name])
    x = to_float(samples)
    assert x.shape == (75,) and x.abs().max() <= 1 and x.abs().max() > 0.5


def test_other_chunks_are_passed_over(tmp_path):
    """One of three bytes is filled up with a fourth, which its size does not count."""
    whole = (WAV / "pcm_16.wav").read_bytes()
    (tmp_path / "x.wav").write_bytes(whole[:36] + b"note\x03\0\0\0abc\0" + whole[36:])
    assert np.array_equal(read_wav(tmp_path / "x.wav")[1], GOLDEN["pcm_16"])


def test_bits_do_not_matter():
    """The same sound as 8, 16, 24 and 32 bits: 8 bits have their middle at 128."""
    for dtype, low, high in ((np.uint8, 0, 255), (np.int16, -2**15, 2**15 - 1),
                             (np.int32, -2**31, 2**31 - 1)):
        middle = 128 if dtype == np.uint8 else 0
        x = to_float(np.array([low, middle, high], dtype))
        assert x[0] == -1 and x[1] == 0 and x[2] > 0.99
    assert to_float(np.array([[0, 2**14]], np.int16)).tolist() == [0.25]        # the mean of both


def test_written_and_read_again(tmp_path):
    x = torch.linspace(-1, 1, 999)
    write_wav(tmp_path / "x.wav", x, 11025)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 11025, 999)
    assert (read_sound(tmp_path / "x.wav", 11025) - x).abs().max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_another_rate_keeps_tones_and_drops_what_is_too_high(rate):
    """A tone of 1,000 Hz stays one. What is above 4,000 Hz must vanish: without a filter a tone of
    5,000 Hz would turn up at 3,000."""
    t = torch.arange(rate).double() / rate
    want = torch.sin(2 * math.pi * 1000 * torch.arange(RATE).double() / RATE)
    got = resample(torch.sin(2 * math.pi * 1000 * t), rate, RATE)
    assert got.shape == want.shape and (got - want)[100:-100].abs().max() < 1e-3
    if rate > 10000:
        assert resample(torch.sin(2 * math.pi * 5000 * t), rate, RATE).abs().max() < 1e-3


@pytest.mark.parametrize("name, said", [("a_law", "A-law"), ("mu_law", "µ-law"), ("gsm", "GSM"),
                                        ("ms_adpcm", "Microsoft ADPCM"),
                                        ("ima_adpcm", "IMA ADPCM")])
def test_other_formats_are_refused_by_name(name, said):
    refused(lambda: read_wav(WAV / f"{name}.wav"), f"{name}.wav", said, "16 bits")


def test_broken_files_are_refused(tmp_path):
    whole = (WAV / "pcm_16.wav").read_bytes()
    path = tmp_path / "me.wav"
    header = whole[:36]
    for content, said in ((b"", "an empty file"),
                          (whole[:100], "cut short: 56 of 150 bytes"),
                          (whole[:30], "cut short"),
                          (header, "no data chunk"),
                          (header + b"data" + struct.pack("<I", 0), "not one sample"),
                          (b"hello, this is a text\n" * 9, "not a WAV file"),
                          (b"<html>sign in</html>", "HTML"),
                          (b"PK\x03\x04" + bytes(99), "unpack"),
                          (bytes(1000), "nothing but zeros"),
                          (header[:12] + b"data" + struct.pack("<I", 4) + bytes(4), "damaged")):
        path.write_bytes(content)
        refused(lambda: read_wav(path), "me.wav", said)
    for position, form, value, said in ((22, "<H", 0, "no channels"), (24, "<I", 3, "3 samples"),
                                        (34, "<H", 12, "12 bits"), (20, "<H", 99, "format 99")):
        broken = bytearray(whole)
        struct.pack_into(form, broken, position, value)
        path.write_bytes(broken)
        refused(lambda: read_wav(path), "me.wav", said)
    refused(lambda: read_wav(tmp_path), "a folder")
    refused(lambda: read_wav(tmp_path / "no.wav"), "no such file")


def test_any_bytes_are_read_or_refused(tmp_path):
    """No damage leads to a traceback: 300 files with random bytes changed."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.wav"
    for i in range(300):
        name = READ[i % len(READ)]
        content = bytearray((WAV / f"{name}.wav").read_bytes())
        for at in rng.integers(0, 60, rng.integers(1, 4)):
            content[at] = rng.integers(256)
        path.write_bytes(content[:rng.integers(20, 400)])
        try:
            read_sound(path, RATE)
        except data.UserError as error:
            assert "x.wav" in str(error)


# ---- recordings that people bring

def speak_to(path, text="one", seconds=0.4, loud=0.5, seed=1, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = torch.arange(int(seconds * rate)) / rate
    write_wav(path, loud * torch.sin(2 * math.pi * (300 + 200 * seed) * t), rate)


def test_silence_is_trimmed_and_loudness_does_not_matter(tmp_path):
    tone = torch.sin(torch.arange(2000) * 0.7)
    quiet = 0.0005 * torch.randn(20000, generator=rng_of(0))
    x = quiet.clone()
    x[9000:11000] += 0.5 * tone
    trimmed = data.trim(x)
    assert 2000 <= len(trimmed) <= 2000 + 2 * data.MARGIN + 13 * RATE // 100
    for loud in (0.9, 0.01):
        speak_to(tmp_path / "x.wav", loud=loud)
        heard = data.hear(tmp_path / "x.wav")
        assert abs(heard.sound.abs().max() / 32767 - 0.7) < 0.01


def test_folders_are_words(tmp_path, capsys):
    for word, i in itertools.product(("Seven", "right_now"), range(10)):
        speak_to(tmp_path / word / f"{i}.wav", seed=i, rate=(8000, 44100)[i % 2])
    (tmp_path / "Seven/bad.wav").write_bytes(b"no sound")
    write_wav(tmp_path / "Seven/silent.wav", torch.zeros(4000), RATE)
    speak_to(tmp_path / "Seven/long.wav", seconds=4)
    (tmp_path / "notes.txt").write_text("x")
    train, held_out = data.own_recordings(str(tmp_path), 3.0)
    assert len(train) == 18 and len(held_out["held out"]) == 2
    assert set(train.texts) == {"seven", "right now"}
    assert train.sound.dtype == torch.int16 and train.n.max() <= train.sound.size(1)
    out = capsys.readouterr().out
    for said in ("nothing to be heard", "more than 3 seconds", "bad.wav: not a WAV file"):
        assert f"left out: 1 recordings" in out and said in out


def test_names_and_parts_and_tables(tmp_path, capsys):
    """7_ann_3.wav is a 7; test/… is held out; a table says what is said."""
    for i in range(12):
        speak_to(tmp_path / f"flat/{i % 3}_ann_{i}.wav", seed=i)
        speak_to(tmp_path / f"parts/{'test' if i % 4 == 0 else 'train'}/{i % 3}/{i}.wav", seed=i)
    train, held_out = data.own_recordings(str(tmp_path / "flat"), 3.0)
    assert set(train.texts + held_out["held out"].texts) == {"0", "1", "2"}
    train, held_out = data.own_recordings(str(tmp_path / "parts"), 3.0)
    assert len(train) == 9 and len(held_out["held out"]) == 3

    lines = ["path\tsentence"] + [f"flat/{i % 3}_ann_{i}.wav\tHello, World {i}!" for i in range(12)]
    (tmp_path / "own.tsv").write_text("\n".join(lines))
    train, held_out = data.own_recordings(str(tmp_path / "own.tsv"), 3.0)
    assert "hello world 1" in train.texts + held_out["held out"].texts and len(train) == 11
    (tmp_path / "own.tsv").write_text("flat/none.wav\thello\n")
    refused(lambda: data.own_recordings(str(tmp_path / "own.tsv"), 3.0), "line 1", "none.wav")
    (tmp_path / "own.tsv").write_text("flat/0_ann_0.wav\t!!\n")
    refused(lambda: data.own_recordings(str(tmp_path / "own.tsv"), 3.0), "line 1", "a tab")
    (tmp_path / "empty").mkdir()
    refused(lambda: data.own_recordings(str(tmp_path / "empty"), 3.0), "no recording")
    refused(lambda: data.own_recordings(str(tmp_path / "nobody"), 3.0), "no such file or folder")


# ---- errors and time warping

def test_errors_by_hand():
    assert scores.edit_distance("kitten", "sitting") == 3
    assert scores.edit_distance([], ["a", "b"]) == 2 == scores.edit_distance("ab", "")
    assert scores.word_errors(["one two", "three"], ["one too", "three four"]) == 2 / 4
    assert scores.word_errors(["a b c d"], ["x"]) == 4          # more errors than words
    by = scores.errors(["ab", "c"], ["ab", "d"])
    assert by == {"wer": 0.5, "cer": 1 / 3, "wrong": 0.5}
    assert scores.most_frequent(["a b a", "a"], 2) == ["a a", "a a"]


def test_edit_distance_by_all_ways():
    """The table against a search through all ways to edit."""
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    rng = np.random.default_rng(0)
    for _ in range(40):
        a, b = (rng.integers(0, 3, rng.integers(0, 6)).tolist() for _ in range(2))
        assert scores.edit_distance(a, b) == slow(a, b)


def stretched(x, times):
    return torch.repeat_interleave(x, torch.tensor(times), dim=0)


def test_time_warping_does_not_mind_speed():
    """Two templates are found in a sentence in which each is said slowly, quickly, and again."""
    rng = rng_of(0)
    one, two = (torch.randn(n, 26, generator=rng) for n in (5, 7))
    spoken = warping.Warping(([("one", one), ("two", two)], True))
    x = torch.cat([stretched(two, [2] * 7), one, two[::2], stretched(one, [1, 3, 1, 2, 1])])
    assert spoken.recognise(x) == "two one two one"
    alone = warping.Warping(([("one", one), ("two", two)], False))
    assert alone.recognise(stretched(one, [1, 4, 1, 2, 3])) == "one"
    assert alone.recognise(torch.cat([one, two])) in ("one", "two")     # never both


def test_time_warping_costs_as_a_table_says():
    """The cost of the best path, one template, by the definition."""
    rng = rng_of(3)
    x, template = (torch.randn(n, 4, generator=rng) for n in (9, 6))
    d = torch.cdist(x, template)
    cost = torch.full((9, 6), math.inf)
    for t, j in itertools.product(range(9), range(6)):
        before = [cost[t - 1, i] for i in (j, j - 1, j - 2) if t > 0 and i >= 0]
        if t == 0 and j <= 1:                           # it may begin at its second frame, too
            before = [torch.tensor(warping.NEW_WORD)]
        cost[t, j] = min(before, default=math.inf) + d[t, j]
    found = warping.Warping(([("x", template)], False))
    paths = []
    plain = torch.Tensor.argmin

    def spy(self, *args):
        paths.append(self.clone())
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "argmin", spy)
        found.recognise(x)
    close(paths[-1], cost[-1, -1:], 1e-6)


def test_a_picture_of_attention():
    mel = torch.zeros(20, 40)
    mel[5, 3] = 1
    attention = torch.eye(10)[:4]
    picture = spectrogram_and_attention(mel, attention, list("ab c"))
    height, width = picture.shape
    assert height == 40 * 6 + 8 + 4 * 26 and width == 36 + 20 * 30
    assert picture[(39 - 3) * 6, 36 + 5 * 30] == 0 and picture[0, 36] == 255
    assert picture[248 + 26 + 5, 36 + 60 + 30] == 0      # "b" looks at the second tenth


def test_sets_that_are_made(monkeypatch):
    monkeypatch.setattr(data, "HELD_OUT", 4)
    train, held_out = data.load_speech("sentences", 6, 3.0, 1)
    assert len(train) == 6 and list(held_out) == ["unseen voices", "unseen combinations", "10 dB",
                                                  "0 dB"]
    assert held_out["10 dB"].texts == held_out["unseen voices"].texts
    again, _ = data.load_speech("sentences", 6, 3.0, 1)
    assert torch.equal(train.sound, again.sound) and train.texts == again.texts
    assert isinstance(train[:2], Recordings) and len(train[:2]) == 2
