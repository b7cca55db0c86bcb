"""mini/data/text/tools.py, pieces.py, questions.py: the calculator against Python itself and
against mischief; the facts; tokens; and the questions' own rules."""
import json
import random
import re
import time
from fractions import Fraction

import pytest

from mini.data.text import questions
from mini.data.text.pieces import PieceTokenizer, as_ascii, as_read, spelled
from mini.data.text.questions import (ALONE, CANNOT, HELD_OUT, NOT_UNDERSTOOD, PHRASES, PROPERTIES,
                                      REFUSALS, SENTENCES, TALK, UNITS, Dialogue, Writer, entity_of,
                                      expand, is_held_out, is_new_number, known_words, numbers_in)
from mini.data.text.tools import (ERROR, LONGEST, NO_ENTRY, NO_FACT, SAME, amount, calculator,
                                  failed, lookup, one_error_apart, plain, read_facts, run_call,
                                  unit)
from tests.helpers import refused

# ---- the calculator

@pytest.mark.parametrize("expression, value", [
    ("2+3*4", "14"), ("(2+3)*4", "20"), ("2**3**2", "512"), ("-2**2", "-4"), ("(-2)**2", "4"),
    ("7//2", "3"), ("-7//2", "-4"), ("-7%3", "2"), ("7/2", "3.5"), ("1/3", "0.3333"),
    ("1/30000", "0.00003333"), ("200/3", "66.6667"), ("6/3", "2"), ("0.1+0.2", "0.3"),
    ("0.1+0.2-0.3", "0"), ("- - 5", "5"), ("+5", "5"), ("1,234+1", "1235"),
    ("12,345,678", "12345678"), ("2**-1", "0.5"), ("4**0.5", "2"), ("64**(1/3)", "4"),
    ("2**0.5", "1.4142"), (" 1 + 1 ", "2"), ("999999999999999", "999999999999999"),
    ("10**15", "1" + 15 * "0"), ("123456789*1000001", "123456912456789"), ("100.0", "100"),
    ("0.00", "0"), ("1500/10", "150"), (".5", "0.5"), ("5.", "5"), ("-1/3", "-0.3333"),
    ("7>3", "yes"), ("7<3", "no"), ("3/4>0.7", "yes"), ("0.1+0.2>0.3", "no"), ("-5 < -4", "yes"),
    ("2**-9999", "0")])
def test_values(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize("expression, why", [
    ("9**9**9", "too large"), ("10**15+1", "too large"), ("99999999999999999", "too large"),
    ("9**(9**2)", "too large"), ("0.5**-9999", "too large"), ("(10**15)**(10**15)", "too large"),
    ("(-9)**999999", "too large"), ("(1+1/10**9)**(10**9)", "too large"),
    ("1/0", "division by zero"), ("1%0", "division by zero"), ("1//0", "division by zero"),
    ("0**-1", "division by zero"), ("0.0**-1", "division by zero"), ("(-8)**0.5", "no real number"),
    ("", "not arithmetic"), ("()", "not arithmetic"), ("1+", "not arithmetic"),
    ("(1", "not arithmetic"), ("1 2", "not arithmetic"), ("1(2)", "not arithmetic"),
    ("007", "not arithmetic"), ("1e9", "not arithmetic"), ("0x10", "not arithmetic"),
    ("1_000", "not arithmetic"), ("1,23", "not arithmetic"), ("1<2<3", "not arithmetic"),
    ("1<=2", "not arithmetic"), ("(1<2)+1", "not arithmetic"), ("1j", "not arithmetic"),
    ("x", "not arithmetic"), ("1;2", "not arithmetic"), ("(1,2)", "not arithmetic"),
    ("'a'*9", "not arithmetic"), ("١+١", "not arithmetic"), ("1\n+1", "not arithmetic"),
    ("__import__('os').system('true')", "not arithmetic"), ("1 if 1 else 2", "not arithmetic"),
    ("[1]*9", "not arithmetic"), ("1" * (LONGEST + 1), "too long"), ("1+" * 5000 + "1", "too long"),
    ("9" * 10000, "too long")])
def test_what_it_cannot_do(expression, why):
    start = time.perf_counter()
    assert calculator(expression) == ERROR + why
    assert time.perf_counter() - start < 0.5


def random_expression(rng, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        decimal = "" if rng.random() < 0.8 else f".{rng.randint(0, 9)}"
        return f"{rng.randint(0, 99)}{decimal}"
    op = rng.choice([" + ", "-", " * ", "/", "//", "%"])
    text = random_expression(rng, depth - 1) + op + random_expression(rng, depth - 1)
    return rng.choice(["({})", "-({})", "{}"]).format(text)


def test_as_python_computes():
    """Random expressions, by Python's own eval with exact fractions in place of the numbers. The
    calculator is exact, too, so that 0.1 + 0.2 - 0.3 is 0, and not 5.6e-17."""
    rng = random.Random(0)
    checked = 0
    for _ in range(2000):
        text = random_expression(rng, rng.randint(1, 4))
        exact = re.sub(r"\d+(\.\d+)?", r"Fraction('\g<0>')", text)
        try:
            want = Fraction(eval(exact, {"Fraction": Fraction}))
        except ZeroDivisionError:
            want = None
        got = calculator(text)
        if want is None:
            assert got.startswith(ERROR)
        elif abs(want) < 10**12 and not got.startswith(ERROR):
            assert abs(Fraction(got) - want) <= max(Fraction(6, 10**5), abs(want) / 2000), text
            assert (want == 0) == (Fraction(got) == 0)
            checked += 1
    assert checked > 1000


def test_it_reads_whatever_it_prints():
    """It once printed 2.893e-05, and refused that in the next call of the same chain."""
    rng = random.Random(1)
    small = 0
    for _ in range(3000):
        text = f"{rng.randint(1, 999)}{rng.choice('+-*/')}{rng.randint(1, 10**rng.randint(1, 9))}"
        value = calculator(text)
        assert re.fullmatch(r"-?\d+(\.\d+)?", value)
        assert calculator(f"{value}*1") == value
        small += value.startswith("0.0000")
    assert small > 100


def test_nothing_takes_long_and_nothing_escapes():
    """Mutated text of every kind: always a short text, at once; no exception and no warning."""
    rng = random.Random(1)
    alphabet = "0123456789.+-*/%() ,**//((calculatorlookup()of=\n_eExj'\"[]{}:;!é<>"
    start = time.perf_counter()
    for _ in range(1500):
        text = "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 5, 20, 100, 199, 300])))
        for answer in (calculator(text), run_call(text), run_call(f"calculator({text})"),
                       lookup(text)):
            assert isinstance(answer, str) and len(answer) <= 60
    for depth in (50, 98, 150, 5000):
        for text in ("(" * depth + "1" + ")" * depth, "-" * depth + "1", "(" * depth, ")" * depth,
                     "**".join(["9"] * depth)):
            assert len(calculator(text)) < 60
        assert len(run_call("calculator(" * depth + "1" + ")" * depth)) < 60
    assert time.perf_counter() - start < 10


# ---- the encyclopedia, and calls

def test_look_up_is_tolerant():
    assert lookup("capital of France") == "Paris" == lookup("  Capital  of THE fránce. ")
    assert lookup("population of the United States") == lookup("population of usa")
    assert lookup("length of the river Nile") == "6650 km" == lookup("length of nile")
    assert lookup("height of everest") == "8849 m" == lookup("height of mt. everest")
    assert plain("The Côte-d'Azur, THE 2nd!") == "cote d azur 2nd"


def test_it_says_what_is_missing():
    for key in ("capital of Atlantis", "", "France", "capital", "capital of", "x" * 10000):
        assert lookup(key) == NO_ENTRY
    assert lookup("height of France") == lookup("colour of Paris") == NO_FACT


def test_the_size_of_a_thing_depends_on_the_thing():
    assert lookup("size of France") == lookup("area of France")
    assert lookup("size of Mars") == lookup("diameter of Mars")
    assert lookup("size of Mont Blanc") == lookup("height of Mont Blanc")


def test_one_typing_error_is_forgiven():
    for key in ("height of kilmanjaro", "height of kilimanjarro", "height of kilimanjaro",
                "height of kilimamjaro", "hieght of kilimanjaro"):
        assert lookup(key) == "5895 m"
    assert lookup("captial of germany") == "Berlin"
    for key in ("capital of Gambia", "population of Iran", "length of Nils",
                "height of Kilmanjarro"):
        assert lookup(key) in (NO_ENTRY, NO_FACT), key          # another name, or two errors


def test_one_error_apart_by_trying_all_errors():
    letters = "abc"
    word = "abcabc"
    near = {word}
    for i in range(len(word) + 1):
        near |= {word[:i] + letter + word[i:] for letter in letters}
        near |= {word[:i] + letter + word[i + 1:] for letter in letters if i < len(word)}
        near |= {word[:i] + word[i + 1:]}
        near |= {word[:i] + word[i + 1] + word[i] + word[i + 2:] for _ in "x" if i + 1 < len(word)}
    near = {other for other in near if other[:1] == "a" and other != word}
    rng = random.Random(0)
    others = {"".join(rng.choices(letters, k=rng.randint(4, 8))) for _ in range(2000)}
    for other in near | others - {word}:
        assert one_error_apart(word, other) == (other in near), other
        assert one_error_apart(other, word) == one_error_apart(word, other)


def test_every_fact_is_found_under_its_own_name():
    """Iceland and Ireland are one letter apart, and so are the Rhine and the Rhone."""
    for (entity, name), value in read_facts().items():
        if name != SAME:
            assert lookup(f"{name} of {entity}") == value
    assert lookup("capital of Ieeland") == NO_ENTRY             # it may be either


@pytest.mark.parametrize("call, value", [
    ("calculator(2*(3+4))", "14"), ("lookup(symbol of gold)", "Au"), (" calculator( 1 + 1 ) ", "2"),
    ("lookup(element of au)", "gold"), ("lookup(element of 79)", "gold"),
    ("lookup(country of paris)", "France"), ("calculator(5>4)", "yes"),
    ("calculator(calculator(2+3)*4)", "20"), ("calculator(2*calculator(1+calculator(1+1)))", "6"),
    ("calculator(calculator(1-3)**2)", "4"),
    ("calculator(lookup(population of France)/lookup(area of Spain))", "130.4348"),
    ("lookup(capital of lookup(country of Rome))", "Rome"),
    ("lookup(capital of lookup(capital of Peru))", NO_FACT),
    ("calculator(lookup(population of Atlantis)*2)", NO_ENTRY),
    ("calculator(calculator(1/0)+1)", ERROR + "division by zero"),
    ("calculator(lookup(capital of France)*2)", ERROR + "not arithmetic"),
    ("calculator(9**9**9)", ERROR + "too large"), ("exec(1)", ERROR + "no such tool"),
    ("calculator(1", ERROR + "no such tool"), ("", ERROR + "no such tool"),
    ("calculator(" * 6 + "1" + ")" * 6, ERROR + "too long"),
    ("calculator(" + "1" * 10000 + ")", ERROR + "too long")])
def test_calls(call, value):
    assert run_call(call) == value


def test_a_call_in_a_fact_is_not_run(tmp_path):
    path = tmp_path / "facts.tsv"
    path.write_text("A\tcapital\tlookup(capital of A)\nB\tarea\t7 km2\n")
    assert run_call("lookup(capital of lookup(capital of A))", path) == NO_ENTRY
    assert run_call("calculator(lookup(area of B)*2)", path) == "14"
    assert run_call("calculator(lookup(capital of A))", path) == ERROR + "not arithmetic"


def test_a_header_above_the_facts(tmp_path, capsys):
    path = tmp_path / "facts.tsv"
    path.write_text("# mine\nentity\tproperty\tvalue\nA\tarea\t7\nB\tarea\t8\n")
    assert read_facts.__wrapped__(path) == {("A", "area"): "7", ("B", "area"): "8"}
    assert "line 2: left out" in capsys.readouterr().out


def test_facts_are_well_formed():
    facts = read_facts()
    amounts = {}
    for (entity, name), value in facts.items():
        assert as_ascii(entity) == entity and as_ascii(value) == value and len(entity) < 25, entity
        if name in UNITS:
            assert re.fullmatch(f"[1-9][0-9]* {UNITS[name]}", value), (entity, name)
            assert unit(value) == f" {UNITS[name]}"
            amounts.setdefault(name, []).append(int(amount(value)))
        if name == SAME:
            assert any(other == value for other, _ in facts), entity
    assert len(facts) > 600 and {name for _, name in facts} == {*PROPERTIES, SAME} - {"size"}
    symbols = [value for (_, name), value in facts.items() if name == "symbol"]
    numbers = [value for (_, name), value in facts.items() if name == "atomic number"]
    assert all(re.fullmatch("[A-Z][a-z]?", symbol) for symbol in symbols)
    assert len(set(numbers)) == len(set(symbols)) == len(symbols)
    for name, low, high in (("population", 1e5, 1.5e9), ("area", 1e3, 1.8e7),
                            ("length", 300, 7000), ("height", 900, 8849)):
        assert low < min(amounts[name]) and max(amounts[name]) <= high
    for entity in {entity for entity, name in facts if name == "population"}:   # a slip of a digit
        density = float(run_call(f"calculator(lookup(population of {entity})/"
                                 f"lookup(area of {entity}))"))
        assert 1 < density < 1500, entity


def test_facts_that_say_the_same_agree():
    facts = read_facts()
    for (entity, name), value in facts.items():
        if name == "capital":
            assert facts[value, "country"] == entity
        if name in ("symbol", "atomic number"):
            assert facts[value, "element"] == entity


def test_broken_files_of_facts(tmp_path):
    path = tmp_path / "facts.tsv"
    refused(lambda: read_facts(path), path, "no such file")
    for text, word in (("France\tcapital\n", "line 1"), ("# a\nA\tb\tc\td\n", "line 2"),
                       ("A\tb\t \n", "line 1"), ("# nothing\n", "no fact"),
                       ("A\tarea\t1\nthe a\tarea\t2\n", "line 2")):
        path.write_text(text)
        refused(lambda: read_facts.__wrapped__(path), path, word)
    path.write_bytes(b"A\tb\t\xff\n")
    refused(lambda: read_facts.__wrapped__(path), path, "UTF-8")


# ---- tokens

def test_any_text_survives_its_tokens():
    tokenizer = PieceTokenizer(["capital", "of", "the", "of"])
    rng = random.Random(0)
    texts = ["the capital of rome", "of\nthe  of", " capitals ofthe", "abc 007 1000000 20000", ""]
    characters = [chr(i) for i in range(32, 127) if not chr(i).isupper()]
    texts += ["".join(rng.choices(characters, k=50)) + "\n" for _ in range(300)]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == len(set(tokenizer.pieces)) == len(tokenizer.index)
    assert tokenizer.encode("\n") == [0]


def test_names_are_spelt_in_pairs_and_numbers_by_digits():
    tokenizer = PieceTokenizer(["height", "of"])
    pieces = [tokenizer.pieces[i] for i in tokenizer.encode("height of kilimanjaro 17000000.0005")]
    assert pieces == ["height", " of", " ", "ki", "li", "ma", "nj", "ar", "o", " ", "1", "7",
                      "000", "000", ".", "0", "0", "0", "5"]


def test_a_name_has_the_same_pieces_in_the_question_and_in_the_call():
    """Else there is nothing to copy."""
    tokenizer = PieceTokenizer(known_words())
    rng = random.Random(0)
    writer = Writer(0)
    for _ in range(300):
        name = writer.made_up_name()
        ids = tokenizer.encode(f" {name}")
        call = tokenizer.encode(f"lookup(height of {name})=")
        question = tokenizer.encode(f"how high is the {name}{rng.choice(['?', '', '.'])}")
        for text in (call, question):
            assert any(text[i:i + len(ids)] == ids for i in range(len(text))), name


def test_what_is_read():
    assert as_ascii("  Où est\tla Curaçao\n№ 中? ") == "Ou est la Curacao No ??"
    for text, read in (("1,234,567 ÷ 8 × 2", "1234567 / 8 * 2"),
                       ("2.5 Million people", "2500000 people"),
                       ("3 thousand", "3000"), ("0.5 million", "500000"), ("5²", "5 squared"),
                       ("2^10", "2**10"), ("1,23", "1,23"), ("what’s", "what's"),
                       ("20 millionaires", "20 millionaires")):
        assert as_read(text) == read


def test_capitals_come_back():
    assert spelled("paris", ["the capital of france?", "Paris"], []) == "Paris"
    assert spelled("nile: 6650 km", ["Is the Nile long?", "6650 km"], []) == "Nile: 6650 km"
    assert spelled("yes: 1 m against 2 m", ["x", "1 m"], []) == "Yes: 1 m against 2 m"
    for sentence in SENTENCES:
        assert spelled(as_read(sentence), ["I DO NOT"], SENTENCES) == sentence


# ---- questions

ALL_SETS = pytest.mark.parametrize("new", [(), *[(name,) for name in HELD_OUT], HELD_OUT])


def test_phrasings_expand():
    rng = random.Random(0)
    found = {expand("(a|b) [c|d ]e", rng) for _ in range(200)}
    assert found == {f"{first} {middle}e" for first in "ab" for middle in ("", "c", "d ")}
    assert {expand("x (y (1|2)|z)", rng) for _ in range(100)} == {"x y 1", "x y 2", "x z"}


@ALL_SETS
def test_answers_are_what_the_tools_say(new):
    """Each call gives what the dialogue says, for entities that are not made up, and the answer
    follows from the last value."""
    writer = Writer(3, new)
    writer.made_up_share = 0.0
    for _ in range(1000):
        d = writer.write()
        for call, value in d.steps:
            if "lookup" not in call or new:                     # training has made-up facts
                assert run_call(call) == value, d
        last = d.steps[-1][1] if d.steps else ""
        if not d.steps:
            assert d.answer in TALK
        elif failed(last):
            assert d.answer in REFUSALS or d.answer == f"{CANNOT}{last.removeprefix(ERROR)}."
        elif last in ("yes", "no"):
            assert " against " in d.answer or d.question
        else:
            assert d.answer.startswith(last.removeprefix("-")) or d.answer.startswith(last), d


@ALL_SETS
def test_comparisons_are_right(new):
    """Once "Is the Nile longer than the Amazon?" was answered by 250."""
    writer = Writer(2, new)
    seen = 0
    for _ in range(1200):
        d = writer.write()
        if d.kind != "comparison" or " against " not in d.answer:
            continue
        numbers = [float(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", d.answer)][-2:]
        call = d.steps[-1][0]
        if d.answer.startswith(("yes:", "no:")):
            is_true = eval(call.removeprefix("calculator(").removesuffix(")"))
            assert d.answer.startswith("yes" if is_true else "no")
        elif numbers[0] != numbers[1]:
            assert (numbers[0] > numbers[1]) == (">" in call), d
        seen += 1
    assert seen > 50 or new == ("numbers",)


@ALL_SETS
def test_numbers_are_new_where_they_should_be_and_never_else(new):
    writer = Writer(5, new)
    for _ in range(1000):
        d = writer.write()
        if not new:
            assert not any(map(is_new_number, numbers_in(d.text()))), d
        if "numbers" in new:
            assert all(map(is_new_number, numbers_in(d.question))), d


def test_no_held_out_entity_is_looked_up_in_training_or_found():
    """Not even behind its capital: the population of the country whose capital is Paris."""
    held_out = set()
    others = set()
    for (entity, name), value in read_facts().items():
        names = held_out if is_held_out(entity, name, value) else others
        names.add(plain(entity))
    held_out -= others                                          # a name may mean two things
    assert 50 < len(held_out) < 250
    for new, not_in_it in ((), held_out), (("entities",), others - held_out):
        writer = Writer(5, new)
        writer.made_up_share = 0.0
        seen = 0
        for _ in range(1500):
            for call, value in writer.write().steps:
                if call.startswith("lookup(") and not failed(value):
                    assert plain(entity_of(call)) not in not_in_it, call
                    assert plain(value) not in not_in_it or value == "yes", (call, value)
                    seen += 1
        assert seen > 300


def test_every_question_with_new_numbers_has_some():
    """Twenty-one of 500 such questions once had none, and most of their numbers occurred in
    training as results."""
    writer = Writer(1, ("numbers",))
    new = set()
    for _ in range(500):
        numbers = numbers_in(writer.write().question)
        assert numbers and all(map(is_new_number, numbers))
        new |= set(numbers)
    training = Writer(0)
    seen = set()
    for _ in range(3000):
        seen |= set(numbers_in(training.write().text()))
    assert len(new) > 300 and len(seen) > 2500 and not new & seen


def test_held_out_phrasings_are_others():
    for heading, (training, new) in PHRASES.items():
        assert training and not set(training) & set(new), heading
        for phrase in training + new:
            assert phrase.count("(") == phrase.count(")") and phrase.count("[") == phrase.count("]")
    assert sum(len(new) for _, new in PHRASES.values()) > 120


def test_writers_are_deterministic_and_the_pieces_say_who_writes():
    a, b, c = ([writer.write().pieces() for _ in range(50)]
               for writer in (Writer(1), Writer(1), Writer(2)))
    assert a == b != c
    d = Dialogue("chain", "Q?", "3 km2", [("lookup(a of B)", "1"), ("calculator(1+2)", "3")])
    assert d.pieces() == [("q?\n", False), ("lookup(a of b)=", True), ("1\n", False),
                          ("calculator(1+2)=", True), ("3\n", False), ("3 km2\n", True)]
    assert d.alone() == [(f"q?\n{ALONE}", False), ("3 km2\n", True)]


def test_most_names_in_training_are_made_up_but_never_without_tools():
    writer = Writer(0)
    real = {plain(entity) for entity, _ in read_facts()}
    names = [call.partition(" of ")[2].rstrip(")") for _ in range(2000)
             for call, _ in writer.write().steps if call.startswith("lookup")]
    assert 0.4 < sum(plain(name) not in real for name in names) / len(names) < 0.9
    pieces = Writer(0).training_set(2000, 0.5)
    alone = [p for p in pieces if p[0][0].endswith(ALONE)]
    assert 0.4 < len(alone) / len(pieces) < 0.6 and all(len(p) == 2 for p in alone)


def test_what_is_not_understood_is_said():
    writer = Writer(0)
    shares = [writer.write().answer == NOT_UNDERSTOOD for _ in range(2000)]
    assert 0.04 < sum(shares) / len(shares) < 0.2


def test_known_words_are_json(tmp_path):
    """They are saved in the checkpoint."""
    assert json.loads(json.dumps(known_words())) == known_words()
    assert set(questions.TALK) <= set(PHRASES)
