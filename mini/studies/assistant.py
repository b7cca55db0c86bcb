"""The longer study of mini/assistant.py: what is right by kind of question, by number of calls and
by length of the numbers; and what the loop itself answers."""
import re

from mini.assistant import SETS, all_right, make_test_sets, respond, share
from mini.data.text.pieces import as_read
from mini.data.text.questions import REFUSALS
from mini.utils import metrics


def evaluate(model) -> dict:
    """Shares of right dialogues, as tables that are also printed and written to evaluate.json.

    A dialogue is right if all calls and the answer are. `answers` looks only at what the user sees,
    the answer that the loop gives: right, refused where an answer exists, or wrong.
    """
    cfg = model.cfg
    tests = make_test_sets(cfg, model)
    tables = {}
    for name in SETS:
        dialogues = tests[name].dialogues
        right = all_right(model, *tests[name].with_tools)
        title = name.replace(" ", "_")
        tables[f"new_{title},_by_kind"] = by_group(dialogues, right, lambda d: d.kind)
        tables[f"new_{title},_by_calls"] = by_group(dialogues, right, lambda d: str(len(d.steps)))
    dialogues = tests["numbers"].dialogues
    right = all_right(model, *tests["numbers"].with_tools)
    tables["new_numbers,_by_longest"] = by_group(dialogues, right, longest_number)

    for name in SETS:
        tables[f"answers,_new_{name.replace(' ', '_')}"] = answer_shares(model, tests[name], name)
    return metrics.print_tables(cfg, **tables)


def by_group(dialogues: list, right: list, group) -> dict:
    """{group: share of its dialogues that are right}, of at least ten dialogues."""
    of_group = {}
    for dialogue, is_right in zip(dialogues, right):
        of_group.setdefault(group(dialogue), []).append(is_right)
    return {name: share(rows) for name, rows in sorted(of_group.items()) if len(rows) >= 10}


def longest_number(dialogue) -> str:
    """The largest number of digits in a row in the question."""
    return str(max(map(len, re.findall(r"\d+", dialogue.question)), default=0))


def answer_shares(model, test, name: str, n: int = 200) -> dict:
    """{"right", "refused", "wrong": shares} of the loop's answers to the first n questions."""
    counts = {"right": 0, "refused": 0, "wrong": 0}
    dialogues = test.dialogues[:n]
    progress = metrics.Progress(f"answered, new {name}:", len(dialogues))
    for dialogue in dialogues:
        answer, _ = respond(model, dialogue.question, model.cfg)
        if as_read(answer) == as_read(dialogue.answer):
            counts["right"] += 1
        elif answer in REFUSALS:
            counts["refused"] += 1
        else:
            counts["wrong"] += 1
        progress.add()
    return {verdict: count / len(dialogues) for verdict, count in counts.items()}
