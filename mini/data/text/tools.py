"""The tools that mini/assistant.py calls: a calculator, and look-up in a small encyclopedia (facts.tsv).

A call is text, calculator(12*(3+4)) or lookup(capital of France), and so is the result: a value, "unknown", or
"error: …". It comes within milliseconds for any text, and nothing is ever given to eval: numbers, exponents,
lengths and depths are bounded.
"""
import ast
import math
import operator
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

from mini.data.text.tables import read_rows, without_header
from mini.utils.config import require, require_file

FACTS = Path(__file__).parent / "facts.tsv"
LONGEST = 200           # characters of a call
LARGEST = 10**15        # the calculator gives up if a number, also in between, is larger
DEEPEST = 4             # calls inside calls

UNKNOWN = "unknown"
ERROR = "error: "
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.UAdd: operator.pos, ast.USub: operator.neg,
             ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
             ast.Mod: operator.mod}


# ---- the calculator
class ToolError(Exception):
    """What the calculator cannot do, in the words of its answer."""


def calculator(expression: str) -> str:
    """The value of an expression of numbers, + - * / // % ** and parentheses; or a text that begins with ERROR.
    Whole numbers are exact, others have four decimals (below 1: four significant figures)."""
    if len(expression) > LONGEST:
        return ERROR + "too long"
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", expression).strip()           # 1,234 is 1234
    if not re.fullmatch(r"[0-9.+\-*/%() ]+", text):                             # no names, no calls, no 1e99
        return ERROR + "not arithmetic"
    try:
        return show(evaluate(ast.parse(text, mode="eval").body))
    except (ToolError, ZeroDivisionError) as error:
        return ERROR + (str(error) if isinstance(error, ToolError) else "division by zero")
    except (SyntaxError, ValueError, RecursionError, MemoryError):              # how a parser gives up
        return ERROR + "not arithmetic"


def evaluate(node):
    """The number that a node of the syntax tree stands for. Only the kinds of nodes named here are allowed."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return bounded(value)
        case ast.UnaryOp(op=op, operand=a) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(a))
        case ast.BinOp(left=a, op=ast.Pow(), right=b):
            return power(evaluate(a), evaluate(b))
        case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
            return bounded(OPERATORS[type(op)](evaluate(a), evaluate(b)))
    raise ToolError("not arithmetic")


def power(a, b):
    """a**b, refused before it is computed if its logarithm says that it is too large."""
    if a and b * math.log10(abs(a)) > math.log10(LARGEST) + 1:
        raise ToolError("too large")
    result = a**b
    if isinstance(result, complex):
        raise ToolError("no real number")
    return bounded(result)


def bounded(value):
    if abs(value) > LARGEST:
        raise ToolError("too large")
    return value


def show(value) -> str:
    if value == int(value):
        return str(int(value))
    text = f"{value:.4f}" if abs(value) >= 1 else f"{value:.4g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


# ---- the encyclopedia
def plain(text: str) -> str:
    """The text as it is compared: small letters without accents, no "the", no punctuation, single spaces."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(word for word in re.findall(r"[^\W_]+", letters.casefold()) if word != "the")


HEADER = [{"entity", "subject", "name"}, {"property", "predicate", "relation"}, {"value", "object"}]


@lru_cache(maxsize=None)
def read_facts(path=FACTS) -> dict:
    """{(entity, property): value} of a file: entity, tab, property, tab, value; a line with # is a remark.
    Raises UserError, naming file and line, for any other line, and for a fact that comes twice."""
    require_file(path, f"{path}: no such file of facts")
    facts, seen = {}, set()
    rows = [row for row in read_rows(path) if not row[1][0].startswith("#")]
    for number, fields in without_header(rows, HEADER, path):
        require(len(fields) == 3 and all(fields), f"{path}, line {number}: not entity, property, value")
        key = plain(f"{fields[1]} of {fields[0]}")
        require(key not in seen, f"{path}, line {number}: {fields[1]} of {fields[0]} is there already")
        seen.add(key)
        facts[fields[0], fields[1]] = fields[2]
    require(facts, f"{path}: there is no fact in it")
    return facts


@lru_cache(maxsize=None)
def index(path) -> dict:
    return {plain(f"{name} of {entity}"): value for (entity, name), value in read_facts(path).items()}


def lookup(key: str, path=FACTS) -> str:
    """What the file says of a key like "capital of France", or UNKNOWN. `plain` says which differences do not
    matter."""
    return UNKNOWN if len(key) > LONGEST else index(path).get(plain(key), UNKNOWN)


# ---- calls
def run_call(text: str, path=FACTS, depth: int = 0) -> str:
    """The value of a call, name(argument). A call inside a call is run first, and its value takes its place; if
    that is UNKNOWN or an ERROR, it is the value of the whole call."""
    if len(text) > LONGEST or depth > DEEPEST:
        return ERROR + "too long"
    call = re.fullmatch(r"(calculator|lookup)\((.*)\)", text.strip(), re.DOTALL)
    if not call:
        return ERROR + "no such tool"
    (name, argument), done = call.groups(), 0
    while inner := re.compile(r"(calculator|lookup)\(").search(argument, done):
        end = closing(argument, inner.end())
        value = run_call(argument[inner.start():end], path, depth + 1)
        if value == UNKNOWN or value.startswith(ERROR):
            return value
        before = argument[:inner.start()] + (f"({value})" if name == "calculator" else value)   # (-2)**2
        argument, done = before + argument[end:], len(before)
    return calculator(argument) if name == "calculator" else lookup(argument, path)


def closing(text: str, i: int) -> int:
    """The position after the parenthesis that closes the one before i, or the end if none does."""
    depth = 1
    while i < len(text) and depth:
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        i += 1
    return i
