"""The tools that mini/assistant.py calls: a calculator, and an encyclopedia (facts.tsv).

A call is a text, calculator(12*(3+4)) or lookup(capital of France), and so is what comes back: a
value, NO_ENTRY, NO_FACT, or a text that begins with ERROR. It comes within milliseconds, whatever
the text. Nothing is ever given to Python's eval; numbers, exponents, lengths and depths are
bounded. Whatever the calculator prints, it can read.
"""
import ast
import math
import operator
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from mini.data.text.tables import read_rows, without_header
from mini.utils.config import require, require_file

FACTS = Path(__file__).parent / "facts.tsv"
LONGEST = 200           # characters of a call
LARGEST = 10**15        # the calculator gives up if a number, also in between, is larger
DEEPEST = 4             # calls inside calls

NO_ENTRY = "no entry"           # nothing is known of this entity
NO_FACT = "no such fact"        # something is known of this entity, but not this
ERROR = "error: "
FAILURES = (NO_ENTRY, NO_FACT, ERROR)

# ---- the calculator

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.UAdd: operator.pos,
             ast.USub: operator.neg, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod}
COMPARISONS = {ast.Lt: operator.lt, ast.Gt: operator.gt}


class ToolError(Exception):
    """What the calculator cannot do, in the words of its answer."""


def calculator(expression: str) -> str:
    """The value of an expression of numbers, + - * / // % ** and parentheses; "yes" or "no" for two
    of them with < or > between them; or a text that begins with ERROR.

    It computes with fractions, so only roots are inexact. A number is printed as `show` says.
    """
    if len(expression) > LONGEST:
        return ERROR + "too long"
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression).strip()       # 1,234 is 1234
    if not re.fullmatch(r"[0-9.+\-*/%()<> ]+", text):               # no names, no calls, no 1e99
        return ERROR + "not arithmetic"
    try:
        return show(evaluate(ast.parse(text, mode="eval").body))
    except ToolError as error:
        return ERROR + str(error)
    except ZeroDivisionError:
        return ERROR + "division by zero"
    except (SyntaxError, ValueError, RecursionError, MemoryError):          # how a parser gives up
        return ERROR + "not arithmetic"


def evaluate(node):
    """The value of a node of the syntax tree. Only the kinds of nodes named here are allowed."""
    match node:
        case ast.Compare(left=a, ops=[op], comparators=[b]) if type(op) in COMPARISONS:
            is_true = COMPARISONS[type(op)](number(a), number(b))
            return "yes" if is_true else "no"
    return number(node)


def number(node) -> Fraction:
    """The number that a node of the syntax tree stands for."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return bounded(Fraction(repr(value)))
        case ast.UnaryOp(op=op, operand=a) if type(op) in OPERATORS:
            return OPERATORS[type(op)](number(a))
        case ast.BinOp(left=a, op=ast.Pow(), right=b):
            return power(number(a), number(b))
        case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
            result = OPERATORS[type(op)](number(a), number(b))
            return bounded(Fraction(result))
    raise ToolError("not arithmetic")


def power(a: Fraction, b: Fraction) -> Fraction:
    """a**b. Its logarithm says beforehand if it is too large, or too close to 0."""
    if a == 0 and b < 0:
        raise ToolError("division by zero")
    size = float(b) * math.log10(abs(a)) if a else 0.0
    if size > math.log10(LARGEST) + 1:
        raise ToolError("too large")
    if size < -math.log10(LARGEST):
        return Fraction(0)
    if b.denominator == 1:
        if abs(b) > 10**4:                      # (1 + 1/10**9)**(10**9) would take hours
            raise ToolError("too large")
        return bounded(a**int(b))
    if a < 0:
        raise ToolError("no real number")
    root = Fraction(float(a)**float(b))
    if abs(root - round(root)) < root / 10**14:         # 64**(1/3) is 4, not 3.9999999999999996
        root = Fraction(round(root))
    return bounded(root)


def bounded(value: Fraction) -> Fraction:
    if abs(value) > LARGEST:
        raise ToolError("too large")
    if value.denominator > 10**400:             # a sum of many fractions
        raise ToolError("too long")
    return value


def show(value) -> str:
    """A number as it is printed: whole numbers exactly, others with four decimals, but with at
    least four significant figures; never with an exponent. 1/30000 is 0.00003333."""
    if isinstance(value, str):
        return value
    if value.denominator == 1:
        return str(value.numerator)
    decimals = 4
    if abs(value) < 1:
        decimals = min(20, 3 - math.floor(math.log10(abs(value))))
    scaled = round(abs(value) * 10**decimals)
    whole, rest = divmod(scaled, 10**decimals)
    text = f"{whole}.{rest:0{decimals}d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 and scaled else text


# ---- the encyclopedia

# How the names of entities may begin, besides the names in the file.
TITLES = {"mount", "mt", "mountain", "river", "planet", "country"}

# A property that people ask for in one word, whatever the entity is: the first that it has.
SIZE = {"size": ("area", "diameter", "length", "height")}
SAME = "same as"        # the property of a second name: its value is the first name
HEADER = [{"entity", "subject", "name"}, {"property", "predicate", "relation"}, {"value", "object"}]


def plain(text: str) -> str:
    """The text as it is compared: small letters without accents, no "the", no punctuation, single
    spaces."""
    decomposed = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in decomposed if not unicodedata.combining(c))
    words = re.findall(r"[^\W_]+", letters.casefold())
    return " ".join(word for word in words if word != "the")


@lru_cache(maxsize=None)
def read_facts(path=FACTS) -> dict:
    """{(entity, property): value} of a file: entity, tab, property, tab, value; a line with # is a
    remark. Raises UserError, naming file and line, for any other line, and for a fact that comes
    twice."""
    require_file(path, f"{path}: no such file of facts")
    facts = {}
    seen = set()
    rows = [row for row in read_rows(path) if not row[1][0].startswith("#")]
    for line, fields in without_header(rows, HEADER, path):
        require(len(fields) == 3 and all(fields),
                f"{path}, line {line}: not entity, property, value")
        entity, name, value = fields
        key = (plain(entity), plain(name))
        require(key not in seen, f"{path}, line {line}: {name} of {entity} is there already")
        seen.add(key)
        facts[entity, name] = value
    require(facts, f"{path}: there is no fact in it")
    return facts


@lru_cache(maxsize=None)
def entries(path) -> dict:
    """{entity: {property: value}}, all in the `plain` spelling but the values."""
    found = {}
    for (entity, name), value in read_facts(path).items():
        found.setdefault(plain(entity), {})[plain(name)] = value
    return found


def lookup(key: str, path=FACTS) -> str:
    """What the file says of a key like "capital of France", NO_ENTRY or NO_FACT.

    Differences that `plain` takes away do not matter, nor does a title ("the river Nile"), nor one
    typing error in a long word ("captial of Germany", "height of Kilmanjaro").
    """
    if len(key) > LONGEST:
        return NO_ENTRY
    name, _, entity = plain(key).partition(" of ")
    same = find_entries(entity, path)
    for entry in same:
        for property_name in (name, *SIZE.get(name, ())):
            if property_name in entry:
                return entry[property_name]
    for entry in same:
        near = [other for other in entry if one_error_apart(other, name)]
        if len(near) == 1:
            return entry[near[0]]
    return NO_FACT if same else NO_ENTRY


def find_entries(entity: str, path) -> list:
    """The entries, as {property: value}, that a name may mean, the likeliest first."""
    known = entries(path)
    untitled = without_title(entity)
    names = [name for name in (entity, untitled) if name in known]
    names += [name for name in known if without_title(name) == untitled and name not in names]
    if not names:
        near = [name for name in known if one_error_apart(without_title(name), untitled)]
        names = near if len(near) == 1 else []
    found = []
    for name in names:
        other = known[name].get(SAME)
        found.append(known.get(plain(other), {}) if other else known[name])
    return found


def without_title(entity: str) -> str:
    words = entity.split()
    while len(words) > 1 and words[0] in TITLES:
        words = words[1:]
    if len(words) > 1 and words[-1] in TITLES:
        words = words[:-1]
    return " ".join(words)


def one_error_apart(a: str, b: str) -> bool:
    """Is b the word a with one letter left out, added, replaced, or swapped with its neighbour? The
    first letters must be the same, and the shorter of the two must have five."""
    if min(len(a), len(b)) < 5 or abs(len(a) - len(b)) > 1 or a[0] != b[0]:
        return False
    i = 0                                               # the letters that are alike at the start
    while i < min(len(a), len(b)) and a[i] == b[i]:
        i += 1
    if len(a) < len(b):
        return a[i:] == b[i + 1:]
    if len(a) > len(b):
        return a[i + 1:] == b[i:]
    swapped = a[i:i + 2] == b[i:i + 2][::-1] and a[i + 2:] == b[i + 2:]
    return swapped or a[i + 1:] == b[i + 1:]


# ---- calls

def failed(value: str) -> bool:
    """Did the tool find nothing, or refuse?"""
    return value.startswith(FAILURES)


def run_call(text: str, path=FACTS, depth: int = 0) -> str:
    """The value of a call, name(argument). A call inside a call is run first, and its value takes
    its place, without its unit; if the inner call failed, so has the outer one."""
    if len(text) > LONGEST or depth > DEEPEST:
        return ERROR + "too long"
    call = re.fullmatch(r"(calculator|lookup)\((.*)\)", text.strip(), re.DOTALL)
    if not call:
        return ERROR + "no such tool"
    name, argument = call.groups()
    done = 0                                            # the part of the argument without calls
    while inner := re.compile(r"(calculator|lookup)\(").search(argument, done):
        end = closing(argument, inner.end())
        value = run_call(argument[inner.start():end], path, depth + 1)
        if failed(value):
            return value
        if name == "calculator":
            value = f"({amount(value)})"                # (-2)**2
        before = argument[:inner.start()] + value
        argument = before + argument[end:]
        done = len(before)
    return calculator(argument) if name == "calculator" else lookup(argument, path)


def amount(value: str) -> str:
    """The number at the start of a value, "6650" of "6650 km"; or the value, if there is none."""
    found = re.match(r"-?\d+(\.\d+)?", value)
    return found[0] if found else value


def unit(value: str) -> str:
    """What stands behind the number of a value, " km" of "6650 km"; "" if there is nothing, or no
    number."""
    found = re.fullmatch(r"-?\d+(?:\.\d+)?( .+)?", value)
    return found[1] or "" if found else ""


def closing(text: str, i: int) -> int:
    """The position after the parenthesis that closes the one before i, or the end if none does."""
    depth = 1
    while i < len(text) and depth > 0:
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        i += 1
    return i
