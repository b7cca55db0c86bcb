"""mini/data/text/reviews.py: the built-in reviews agree with their labels by a second reading; own files; bad files."""
import os
import random
import re
import sys

import pytest
import torch
from helpers import refused

from mini.data.text import reviews
from mini.data.text.reviews import (ADJECTIVES, DID, Writer, load_reviews, read_reviews,
                                    write_reviews)


def test_the_same_at_every_call_and_evenly_labelled():
    pairs = write_reviews(400)
    assert pairs == write_reviews(400) and pairs != write_reviews(400, seed=1)
    assert len({text for text, _ in pairs}) == 400 and sum(label for _, label in pairs) == 200
    for text, _ in pairs:
        assert text[0].isupper() and text.endswith(".") and "  " not in text and "+" not in text, text
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text


def test_no_word_is_both_good_and_bad():
    for lists in (reviews.ADJECTIVES, reviews.THINGS, reviews.DID, reviews.FELT, reviews.JUDGED, reviews.ADVICE):
        bad, good = (set(reviews._words(listing)) for listing in lists)
        assert len(bad) > 5 and len(good) > 5 and not bad & good


def read_simple_clause(text):
    """What a clause says, read by rules that the writer does not have: 1 for, 0 against, None unknown."""
    good, bad = (set(reviews._words(ADJECTIVES[p])) for p in (1, 0))
    turned = re.search(r"\b(not|never|hardly|far from|anything but|by no means|nowhere near)\b", text)
    hits = [p for p, words in ((1, good), (0, bad)) for w in re.findall(r"[a-z]+", text) if w in words]
    for p in (1, 0):
        hits += [p for phrase in DID[p].split("/") if re.search(rf"\b{phrase}\b", text)]
    return (hits[0] ^ bool(turned)) if len(set(hits)) == 1 else None


def test_clauses_mean_what_they_are_labelled():
    writer, known = Writer(random.Random(3)), 0
    for i in range(2000):
        clause, noun = writer.clause(i % 2)
        assert noun in clause
        if not clause.startswith("I "):
            read = read_simple_clause(clause)
            assert read == i % 2, clause
            known += 1
    assert known > 1500


def test_the_main_clause_of_a_contrast_decides():
    writer, forms = Writer(random.Random(4)), set()
    for i in range(2000):
        p, text = i % 2, writer.contrast(i % 2)
        for pattern, main in ((r"(?P<x>.+), but (?P<main>.+)", None), (r"although (?P<x>.+), (?P<main>.+)", None),
                              (r"(?P<main>.+), although (?P<x>.+)", None), (r"(?P<x>.+); still, (?P<main>.+)", None),
                              (r"(?P<main>.+), even if (?P<x>.+)", None)):
            if match := re.fullmatch(pattern, text):
                main, other = match["main"], match["x"]
                if not main.startswith("I ") and not other.startswith("I "):
                    assert (read_simple_clause(main), read_simple_clause(other)) == (p, 1 - p), text
                    forms.add(pattern)
                break
        else:
            assert text.startswith("for all the film's")
    assert len(forms) == 5


def test_the_split():
    data = load_reviews(few=50)
    assert len(data.learn) == 50 and len(data.test) == 1000 and data.names == ["bad", "good"]
    test = {text for text, _ in data.test}
    assert not test & set(data.unlabelled) and not test & {text for text, _ in data.learn}
    other = load_reviews(few=50, seed=1)
    assert other.test == data.test and other.unlabelled == data.unlabelled and other.learn != data.learn
    assert load_reviews(few=80).learn[:50] == data.learn            # more labels: the same, and more


def test_own_file(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("text\tlabel\n" + "".join(f"text {i}\t{'yes' if i % 3 else 'no'}\n\n" for i in range(40)))
    assert read_reviews(path)[:2] == [("text 0", "no"), ("text 1", "yes")]
    data = load_reviews(str(path), few=0)
    assert (len(data.learn), len(data.test), data.names) == (36, 4, ["no", "yes"])
    for text, label in data.learn + data.test:
        assert data.names[label] == ("yes" if int(text.split()[1]) % 3 else "no")
    assert len(load_reviews(str(path), few=10).learn) == 10


ROWS = [(f"text {i}", "yes" if i % 3 else "no") for i in range(12)]


@pytest.mark.parametrize("lines, said", [
    ([f"{a}\t{b}" for a, b in ROWS], ""),
    ([f"{b}\t{a}" for a, b in ROWS], "first column"),
    (["Label\tSentence", *(f"{b}\t{a}" for a, b in ROWS)], "names the columns"),
    (["Sentence\tSentiment", *(f"{a}\t{b}" for a, b in ROWS)], "names the columns: Sentence, Sentiment"),
    (["Satz\tUrteil", *(f"{a}\t{b}" for a, b in ROWS)], "line 1"),
    ([f"{a},{b}" for a, b in ROWS], "separated by commas"), ([f"{a};{b}" for a, b in ROWS], "separated by semicolons"),
    ([f'"{a}","{b}"' for a, b in ROWS], "separated by commas"), ([f'"{a}"\t"{b}"' for a, b in ROWS], "24 columns"),
    ([f'"{a}"\t{b}' for a, b in ROWS], "quotation marks"), ([f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(ROWS)], "1 of 3"),
    (["\ttext\tlabel", *(f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(ROWS))], "names the columns"),
    ([f"{a}\t{b.upper() if a == 'text 7' else b} " for a, b in ROWS], "'YES' for 'yes'")], ids=repr)
def test_what_other_programs_write_is_read_and_said(tmp_path, capsys, lines, said):
    path = tmp_path / "own.tsv"
    for end in ("\n", "\r\n", "\r"):
        path.write_bytes("".join(line + end for line in lines).encode())
        assert read_reviews(path) == ROWS
        out = capsys.readouterr().out
        assert out.startswith(f"note: {path}") and said in out if said else not out


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there all names are Unicode")
def test_a_name_that_is_not_utf8_can_be_printed(tmp_path, capsys):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tsv")
    with open(path, "w") as file:
        file.write("".join(f"{b},{a}\n" for a, b in ROWS))
    assert read_reviews(path) == ROWS and capsys.readouterr().out.count("caf\\udce9.tsv") == 2


def test_commas_and_quotation_marks_inside_a_text(tmp_path, capsys):
    path = tmp_path / "own.csv"
    path.write_text('text,label\n"Good, really",yes\n"He said ""no"".",no\nAll in all,yes\n"Two\nlines",no\n')
    assert read_reviews(path) == [("Good, really", "yes"), ('He said "no".', "no"), ("All in all", "yes"),
                                  ("Two\nlines", "no")]
    path.write_text('"Good"\tyes\n"He said ""no""."\tno\n"Yes" and "no"\tno\n')
    assert read_reviews(path) == [('"Good"', "yes"), ('He said "no".', "no"), ('"Yes" and "no"', "no")]
    path.write_text("Good, really\nBad, really\n")
    refused(lambda: read_reviews(path), "line 1", "1 columns")


def test_labels_that_are_numbers(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("".join(f"text {i}\t{i % 2}\n" for i in range(40)))
    data = load_reviews(str(path), few=0)
    assert data.names == ["0", "1"] and len(data.learn) == 36
    path.write_text("".join(f"{i % 2}\ttext {i}\n" for i in range(40)))
    assert load_reviews(str(path), few=0) == data
    path.write_text("".join(f"text {i}\t0.{i}\n" for i in range(40)))
    refused(lambda: load_reviews(str(path)), "40 different labels in 40 lines")


@pytest.mark.parametrize("content, words", [
    ("".join(f"{a}\t{b}\tweb\n" for a, b in ROWS), ["line 1", "3 columns", "cut -f1,3"]),
    ("", ["no lines"]), ("\n \n", ["no lines"]), ("a\tgood\nb\n", ["line 2", "1 columns"]),
    ("a\tgood\nb\tbad\tworse\n", ["line 2", "3 columns"]), ("a\tgood\n\tbad\n", ["line 2", "text is empty"]),
    ("a\tgood\nb\t \n", ["line 2", "label is empty"]), ("a\tgood\nb\tgood\n", ["every label is 'good'"]),
    ("a\tgood\nb\tbad\n", ["more texts are needed"])])
def test_bad_files(tmp_path, content, words):
    path = tmp_path / "own.tsv"
    path.write_text(content)
    refused(lambda: load_reviews(str(path)), *words)


def test_a_rare_label_is_among_the_few(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("".join(f"text {i}\t{'rare' if i % 100 == 7 else 'usual'}\n" for i in range(400)))
    for seed in range(8):
        everything = load_reviews(str(path), few=0, seed=seed).learn
        for few in (2, 3, 20, 200):
            learn = load_reviews(str(path), few=few, seed=seed).learn
            assert len(set(learn)) == few and {label for _, label in learn} == {0, 1}
            as_drawn = everything[:few]
            assert learn == as_drawn or {label for _, label in as_drawn} == {1}     # 0 is "rare"
            assert set(learn) <= set(everything)
    refused(lambda: load_reviews(str(path), few=1), "1 of 2 labels (not '")


def test_missing_and_foreign_files(tmp_path):
    refused(lambda: load_reviews(str(tmp_path / "none.tsv")), "no such file", "none.tsv")
    (tmp_path / "latin.tsv").write_bytes("caf\xe9\tgood".encode("latin-1"))
    refused(lambda: load_reviews(str(tmp_path / "latin.tsv")), "not UTF-8")
    refused(lambda: load_reviews(few=1), "1 of 2 labels (not '")


def test_texts_without_labels_tell_which_words_are_of_a_kind():
    """By linear algebra alone: the first eigenvector of the correlations of words within reviews has one sign at
    the good ones and the other at the bad ones. Without this no pre-training could find out."""
    kind = {word: 2 * p - 1 for lists in (reviews.ADJECTIVES, reviews.THINGS, reviews.DID) for p in (0, 1)
            for word in reviews._words(lists[p]) if " " not in word}
    found = [set(re.findall(r"[a-z]+", text.lower())) for text in load_reviews().unlabelled]
    X = torch.tensor([[word in words for word in kind] for words in found], dtype=torch.float64)
    X = (X - X.mean(0)) / X.std(0)
    C = (X.T @ X / len(X)).fill_diagonal_(0)
    values, vectors = torch.linalg.eigh(C)
    agree = ((vectors[:, -1] > 0) == (torch.tensor(list(kind.values())) > 0)).double().mean()
    assert max(agree, 1 - agree) > 0.95 and values[-1] > 2 * values[-2]
