"""mini/data/text/tools.py: the calculator against Python itself and against mischief; the facts; and the questions' own rules."""
import json
import random
import re
import time
from fractions import Fraction

import pytest

from mini.data.text import questions
from mini.data.text.pieces import PieceTokenizer, as_ascii, transcript
from mini.data.text.questions import (ALONE, DO_NOT_KNOW, HELD_OUT, PHRASES, PROPERTIES, Writer,
                                      held_out)
from mini.data.text.tools import (ERROR, LONGEST, UNKNOWN, calculator, lookup, plain, read_facts,
                                  run_call)
from tests.helpers import refused

# ---- the calculator

@pytest.mark.parametrize("expression, value", [
    ("2+3*4", "14"), ("(2+3)*4", "20"), ("2**3**2", "512"), ("-2**2", "-4"), ("(-2)**2", "4"), ("7//2", "3"), ("-7//2", "-4"),
    ("-7%3", "2"), ("7/2", "3.5"), ("1/3", "0.3333"), ("1/30000", "3.333e-05"), ("200/3", "66.6667"), ("6/3", "2"), ("0.1+0.2", "0.3"),
    ("- - 5", "5"), ("+5", "5"), ("1,234+1", "1235"), ("12,345,678", "12345678"), ("2**-1", "0.5"), ("4**0.5", "2"), (" 1 + 1 ", "2"),
    ("999999999999999", "999999999999999"), ("10**15", "1" + 15 * "0"), ("123456789*1000001", "123456912456789"), ("100.0", "100"),
    ("0.00", "0"), ("1500/10", "150"), ("20*50", "1000"), (".5", "0.5"), ("5.", "5")])
def test_values(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize("expression, why", [
    ("9**9**9", "too large"), ("10**15+1", "too large"), ("99999999999999999", "too large"), ("9**(9**2)", "too large"),
    ("0.5**-9999", "too large"), ("(10**15)**(10**15)", "too large"), ("(-9)**999999", "too large"), ("1/0", "division by zero"),
    ("1%0", "division by zero"), ("1//0", "division by zero"), ("0**-1", "division by zero"), ("0.0**-1", "division by zero"),
    ("(-8)**0.5", "no real number"), ("", "not arithmetic"), ("()", "not arithmetic"), ("1+", "not arithmetic"), ("(1", "not arithmetic"),
    ("1 2", "not arithmetic"), ("1(2)", "not arithmetic"), ("007", "not arithmetic"), ("1e9", "not arithmetic"), ("0x10", "not arithmetic"),
    ("1_000", "not arithmetic"), ("1,23", "not arithmetic"), ("1<2", "not arithmetic"), ("1j", "not arithmetic"), ("x", "not arithmetic"),
    ("1;2", "not arithmetic"), ("(1,2)", "not arithmetic"), ("'a'*9", "not arithmetic"), ("١+١", "not arithmetic"), ("1\n+1", "not arithmetic"),
    ("__import__('os').system('true')", "not arithmetic"), ("1 if 1 else 2", "not arithmetic"), ("[1]*9", "not arithmetic"),
    ("1" * (LONGEST + 1), "too long"), ("1+" * 5000 + "1", "too long"), ("9" * 10000, "too long")])
def test_what_it_cannot_do(expression, why):
    start = time.perf_counter()
    assert calculator(expression) == ERROR + why
    assert time.perf_counter() - start < 0.5


def test_as_python_computes():
    """Random expressions, by Python's own eval with exact fractions in place of the numbers."""
    rng, checked = random.Random(0), 0

    def expression(depth):
        if depth == 0 or rng.random() < 0.2:
            return str(rng.randint(0, 99)) if rng.random() < 0.8 else f"{rng.randint(0, 99)}.{rng.randint(0, 9)}"
        text = expression(depth - 1) + rng.choice([" + ", "-", " * ", "/", "//", "%"]) + expression(depth - 1)
        return rng.choice(["({})", "-({})", "{}"]).format(text)

    for _ in range(2000):
        text = expression(rng.randint(1, 4))
        exact = re.sub(r"\d+(\.\d+)?", r"Fraction('\g<0>')", text)
        try:
            want = float(eval(exact, {"Fraction": Fraction}))
        except ZeroDivisionError:
            want = None
        got = calculator(text)
        if "." in text and ("//" in text or "%" in text) or len(text) > LONGEST:
            continue                                                # floats may fall on the other side of a whole number
        if want is None:
            assert got == ERROR + "division by zero" or got.startswith(ERROR)
        elif abs(want) < 1e12 and not got.startswith(ERROR):
            assert float(got) == pytest.approx(want, rel=6e-4, abs=6e-5), text
            checked += 1
    assert checked > 700


def test_nothing_takes_long_and_nothing_escapes():
    """Mutated text of every kind: always a short text, at once; there is no exception and no warning."""
    rng, alphabet = random.Random(1), "0123456789.+-*/%() ,**//((calculatorlookup()of=\n_eExj'\"[]{}:;!é"
    start = time.perf_counter()
    for _ in range(5000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 5, 20, 100, 199, 300])))
        for answer in (calculator(text), run_call(text), run_call(f"calculator({text})"), lookup(text)):
            assert isinstance(answer, str) and len(answer) <= 60
    for depth in (50, 98, 150, 5000):
        for text in ("(" * depth + "1" + ")" * depth, "-" * depth + "1", "(" * depth, ")" * depth, "**".join(["9"] * depth)):
            assert len(calculator(text)) < 60
        assert len(run_call("calculator(" * depth + "1" + ")" * depth)) < 60
    assert time.perf_counter() - start < 10


# ---- the encyclopedia, and calls

def test_look_up_is_tolerant():
    assert lookup("capital of France") == "Paris" == lookup("  Capital  of THE fránce. ")
    assert lookup("population of the United States") == lookup("population of united states") != UNKNOWN
    for key in ("capital of Atlantis", "", "France", "capital", "capital of", "x" * 10000):
        assert lookup(key) == UNKNOWN
    assert plain("The Côte-d'Azur, THE 2nd!") == "cote d azur 2nd"


@pytest.mark.parametrize("call, value", [
    ("calculator(2*(3+4))", "14"), ("lookup(symbol of gold)", "Au"), (" calculator( 1 + 1 ) ", "2"),
    ("calculator(calculator(2+3)*4)", "20"), ("calculator(2*calculator(1+calculator(1+1)))", "6"), ("calculator(calculator(1-3)**2)", "4"),
    ("calculator(lookup(population of France)/lookup(area of Spain))", "130.4348"), ("lookup(capital of lookup(capital of Peru))", UNKNOWN),
    ("calculator(lookup(population of Atlantis)*2)", UNKNOWN), ("calculator(calculator(1/0)+1)", ERROR + "division by zero"),
    ("calculator(lookup(capital of France)*2)", ERROR + "not arithmetic"), ("calculator(9**9**9)", ERROR + "too large"),
    ("exec(1)", ERROR + "no such tool"), ("calculator(1", ERROR + "no such tool"), ("", ERROR + "no such tool"),
    ("calculator(" * 6 + "1" + ")" * 6, ERROR + "too long"), ("calculator(" + "1" * 10000 + ")", ERROR + "too long")])
def test_calls(call, value):
    assert run_call(call) == value


def test_a_call_in_a_fact_is_not_run(tmp_path):
    path = tmp_path / "facts.tsv"
    path.write_text("A\tcapital\tlookup(capital of A)\nB\tarea\t7\n")
    assert run_call("lookup(capital of lookup(capital of A))", path) == UNKNOWN
    assert run_call("calculator(lookup(area of B)*2)", path) == "14"
    assert run_call("calculator(lookup(capital of A))", path) == ERROR + "not arithmetic"


def test_a_header_above_the_facts(tmp_path, capsys):
    path = tmp_path / "facts.tsv"
    path.write_text("# mine\nentity\tproperty\tvalue\nA\tarea\t7\nB\tarea\t8\n")
    assert read_facts.__wrapped__(path) == {("A", "area"): "7", ("B", "area"): "8"}
    assert "line 2: left out" in capsys.readouterr().out


def test_facts_are_well_formed():
    facts = read_facts()
    assert len(facts) > 400 and {name for _, name in facts} == set(PROPERTIES)
    numbers = {}
    for (entity, name), value in facts.items():
        assert as_ascii(entity) == entity and as_ascii(value) == value and len(entity) < 25, entity
        if name in questions.NUMERIC:
            assert re.fullmatch("[1-9][0-9]*", value), (entity, name)
            numbers.setdefault(name, []).append(int(value))
    symbols = [value for (_, name), value in facts.items() if name == "symbol"]
    assert len(set(symbols)) == len(symbols) and all(re.fullmatch("[A-Z][a-z]?", s) for s in symbols)
    assert len(set(numbers["atomic number"])) == len(symbols) and max(numbers["atomic number"]) == 94
    for name, low, high in (("population", 1e5, 1.5e9), ("area", 1e3, 1.8e7), ("length", 300, 7000), ("height", 900, 8849)):
        assert low < min(numbers[name]) and max(numbers[name]) <= high
    capitals = [value for (_, name), value in facts.items() if name == "capital"]
    assert len(capitals) == len(set(capitals)) == len(numbers["population"]) == len(numbers["area"])
    for entity in {entity for entity, name in facts if name == "population"}:       # a slip of a digit would show
        assert 1 < int(facts[entity, "population"]) / int(facts[entity, "area"]) < 1500, entity


def test_broken_files_of_facts(tmp_path):
    path = tmp_path / "facts.tsv"
    refused(lambda: read_facts(path), path, "no such file")
    for text, word in (("France\tcapital\n", "line 1"), ("# a\nA\tb\tc\td\n", "line 2"), ("A\tb\t \n", "line 1"), ("# nothing\n", "no fact"),
                       ("A\tarea\t1\nthe a\tarea\t2\n", "line 2")):
        path.write_text(text)
        refused(lambda: read_facts.__wrapped__(path), path, word)
    path.write_bytes(b"A\tb\t\xff\n")
    refused(lambda: read_facts.__wrapped__(path), path, "UTF-8")


# ---- tokens

def test_any_text_survives_its_tokens():
    tokenizer, rng = PieceTokenizer(["capital", "of", "the", "of"]), random.Random(0)
    texts = ["the capital of Rome", "of\nthe  of", " capitals ofthe", "McDonald 007 1234567 ABC aBc", ""]
    texts += ["".join(chr(rng.randint(32, 126)) for _ in range(50)) + "\n" for _ in range(300)]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("the capital of")) == 3 and tokenizer.encode("\n") == [0]
    assert [tokenizer.pieces[i] for i in tokenizer.encode("the theory of 10")] == ["the", *" theory", " of", " ", "1", "0"]
    assert tokenizer.vocab_size == len(set(tokenizer.pieces)) == len(tokenizer.index)
    assert as_ascii("  Où est\tla Curaçao\n№ 中? ") == "Ou est la Curacao No ??"


# ---- questions

@pytest.mark.parametrize("new", [(), ("numbers",), ("entities",), ("phrasings",), HELD_OUT])
def test_answers_are_what_the_tools_say(new):
    """Each call gives what the dialogue says, for entities that are not made up, and the answer follows from the last."""
    writer = Writer(3, new)
    writer.made_up_share = 0.0
    for d in [writer.write() for _ in range(1500)]:
        for call, value in d.steps:
            if call.startswith("calculator") or value != UNKNOWN:
                assert run_call(call) == value, d
        last = d.steps[-1][1] if d.steps else ""
        if d.kind == "talk":
            assert not d.steps and d.question in {q for lists in PHRASES.values() for q in lists["phrasings" in new]}
        elif last == UNKNOWN:
            assert d.answer == DO_NOT_KNOW
        elif last.startswith(ERROR):
            assert d.answer == f"I cannot: {last.removeprefix(ERROR)}."
        else:
            assert d.answer.split(" km2")[0].removesuffix(" km").removesuffix(" m") == last


@pytest.mark.parametrize("new", [(), ("numbers",), ("entities",), ("phrasings",), HELD_OUT])
def test_nothing_held_out_is_in_training(new):
    writer = Writer(5, new)
    entities = {entity.lower() for entity, _ in read_facts()}
    numbers_seen, entities_seen = 0, 0
    for d in [writer.write() for _ in range(2000)]:
        for n in re.findall(r"(?<![\d.])\d{2,}", re.sub(r"[A-Z][a-z ]+ \d+|lookup\(.*?\)|\b[a-z]+ \d\d\b", "", d.question)):
            if d.kind == "arithmetic" and "%" not in d.question:
                assert held_out(int(n)) == ("numbers" in new), d.question
                numbers_seen += 1
        for call, value in d.steps:
            name = call.partition(" of ")[2].rstrip(")")
            if name.lower() in entities and value != UNKNOWN:
                real = [e for e, _ in read_facts() if e.lower() == name.lower()]
                assert any(held_out(e) == ("entities" in new) for e in real), d
                entities_seen += 1
    assert (numbers_seen > 100 or new == ("entities",)) and (entities_seen > 100 or new == ("numbers",))


def test_held_out_phrasings_are_others():
    for heading, (training, new) in PHRASES.items():
        assert training and new and not set(training) & set(new), heading
        for phrase in training + new:
            assert set(re.findall(r"{(\w+)}", phrase)) == set(re.findall(r"{(\w+)}", training[0])) or "{n}" in training[0], phrase


def test_writers_are_deterministic_and_the_pieces_say_who_writes():
    a, b, c = ([d.pieces() for d in map(lambda _: w.write(), range(50))] for w in (Writer(1), Writer(1), Writer(2)))
    assert a == b != c
    d = questions.Dialogue("chain", "Q?", "3 km2", [("lookup(a of b)", "1"), ("calculator(1+2)", "3")])
    assert d.pieces() == [("Q?\n", False), ("lookup(a of b)=", True), ("1\n", False), ("calculator(1+2)=", True), ("3\n", False),
                          ("3 km2\n", True)]
    assert d.alone() == [(f"Q?\n{ALONE}", False), ("3 km2\n", True)]
    assert transcript("Q?", "3", d.steps).splitlines() == ["Q?", "    lookup(a of b) = 1", "    calculator(1+2) = 3", "  3"]


def test_most_names_in_training_are_made_up_but_never_without_tools():
    writer, real = Writer(0), {entity.lower() for entity, _ in read_facts()}
    names = [call.partition(" of ")[2].rstrip(")").lower() for d in [writer.write() for _ in range(2000)] for call, _ in d.steps
             if call.startswith("lookup")]
    assert 0.5 < sum(name not in real for name in names) / len(names) < 0.9
    pieces = Writer(0).training_set(3000, 0.5)
    alone = [p for p in pieces if p[0][0].endswith(ALONE)]
    assert 0.4 < len(alone) / len(pieces) < 0.6 and all(len(p) == 2 for p in alone)


def test_tables_count_by_kind_calls_and_digits():
    dialogues = [questions.Dialogue("talk", "Hi", ""), questions.Dialogue("arithmetic", "12 + 3456", "", [("c", "1")]),
                 questions.Dialogue("arithmetic", "1234 + 1", "", [("c", "1")])]
    got = questions.tables(dialogues, {"with tools": [True, True, False]})
    assert json.loads(json.dumps(got)) == {"right_with_tools_by_kind": {"arithmetic": 0.5, "talk": 1.0},
                                           "right_with_tools_by_calls": {"0": 1.0, "1": 0.5},
                                           "right_with_tools_by_digits": {"0": 1.0, "4": 0.5}}
