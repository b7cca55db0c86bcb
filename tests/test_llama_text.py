"""mini/data/text/tokenizer_json.py and chat.py: published tokenizers and conversations, identical to those of the
packages tokenizers and transformers (golden files), and refused by name where they are of another kind."""
import copy
import json
import re
import time
import unicodedata
from pathlib import Path

import pytest
import torch

from mini.data.text import chat
from mini.data.text.tokenizer_json import (GPT2, LLAMA3, QWEN, JSONTokenizer, compile_pattern, members, merge,
                                           split_by)
from mini.data.text.tokenizers import CharTokenizer, split_words
from tests.helpers import refused

GOLDEN = json.loads((Path(__file__).parent / "reference/llama_text.json").read_text())
KINDS = list(GOLDEN["tokenizers"])


def content(kind: str) -> dict:
    return copy.deepcopy(GOLDEN["tokenizers"][kind])


# ---- tokenizers

@pytest.mark.parametrize("kind", KINDS)
def test_tokens_equal_those_of_the_package(kind):
    tokenizer = JSONTokenizer(content(kind))
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"][kind]):
        assert tokenizer.encode(text) == ids, text


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_tokens_equal_those_of_the_package(kind):
    """SentencePiece's begins with a space, which the package takes away; here it stays, since what is written goes on
    from a prompt."""
    tokenizer = JSONTokenizer(content(kind))
    for i, (text, ids) in enumerate(zip(GOLDEN["texts"], GOLDEN["ids"][kind])):
        decoded = tokenizer.decode(ids)
        if kind == "tinyllama":
            decoded = decoded.removeprefix(" ")
        assert decoded == GOLDEN["decoded"][kind].get(str(i), text)


def test_gpt2s_pattern_cuts_as_our_other_tokenizer_does():
    for text in GOLDEN["texts"]:
        assert split_by(compile_pattern(GPT2), text) == split_words(text)


def test_patterns_know_letters_and_numbers_of_all_scripts():
    """Python's \\w and \\d are other sets: ² and Ⅷ are numbers, _ is no letter, a separator U+001C is no space."""
    letters, numbers = re.compile(f"[{members('L')}]"), re.compile(f"[{members('N')}]")
    for code in [*range(0x3000), *range(0x4DF0, 0x4E10), *range(0x1D400, 0x1D800, 7), 0x10FFFF]:
        c = chr(code)
        assert bool(letters.match(c)) == unicodedata.category(c).startswith("L")
        assert bool(numbers.match(c)) == unicodedata.category(c).startswith("N")
    assert split_by(compile_pattern(LLAMA3), "12345 it'S") == ["123", "45", " it", "'S"]
    assert split_by(compile_pattern(QWEN), "123 a\x1cb") == ["1", "2", "3", " a", "\x1cb"]


def test_the_first_token():
    assert [JSONTokenizer(content(kind)).start for kind in KINDS] == [
        "<|endoftext|>", "<|begin_of_text|>", "<|endoftext|>", "<s>"]


def test_merges_are_done_in_the_order_in_which_they_were_learnt():
    """Of several places the leftmost first; a pair that an earlier merge has broken up is left alone."""
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "a"): 2, ("aa", "a"): 3, ("a", "bc"): 4}
    assert merge(list("abc"), ranks) == ["abc"]
    assert merge(list("aaaaa"), ranks) == ["aa", "aaa"]
    assert merge(list("abab"), ranks) == ["ab", "ab"]
    assert merge([], ranks) == [] and merge(["x"], ranks) == ["x"]


def test_a_long_text_without_spaces_takes_no_quadratic_time():
    tokenizer = JSONTokenizer(content("tinyllama"))
    start = time.perf_counter()
    assert tokenizer.decode(tokenizer.encode("the old man " * 3000)) == " " + "the old man " * 3000
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind, change, words", [
    ("qwen2", lambda c: c["model"].update(type="WordPiece"), "WordPiece"),
    ("qwen2", lambda c: c["model"].update(dropout=0.1), "dropout"),
    ("qwen2", lambda c: c["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    ("qwen2", lambda c: c.update(normalizer={"type": "Lowercase"}), "Lowercase"),
    ("qwen2", lambda c: c["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"), "pattern"),
    ("qwen2", lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "Removed"),
    ("qwen2", lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space"),
    ("smollm2", lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(individual_digits=False), "Digits"),
    ("tinyllama", lambda c: c.update(pre_tokenizer={"type": "Metaspace", "replacement": "▁"}), "Metaspace"),
    ("qwen2", lambda c: c["added_tokens"][0].update(lstrip=True), "lstrip"),
    ("qwen2", lambda c: c["added_tokens"][0].update(single_word=True), "single_word"),
    ("tinyllama", lambda c: c["added_tokens"][0].update(normalized=True), "normalized"),
    ("llama3", lambda c: c["post_processor"].update(type="RobertaProcessing"), "RobertaProcessing"),
    ("tinyllama", lambda c: c["model"].update(byte_fallback=False), "byte_fallback"),
    ("qwen2", lambda c: c["model"]["merges"].append(["zz", "qqq"]), "zz"),
    ("qwen2", lambda c: c["model"].pop("vocab"), "damaged"), ("qwen2", lambda c: c.update(added_tokens=[3]), "damaged"),
])
def test_tokenizers_of_another_kind_are_refused_by_name(kind, change, words):
    """Other tokens for the same text would make a good model stupid, without a word."""
    changed = content(kind)
    change(changed)
    refused(lambda: JSONTokenizer(changed, path="here.json"), "here.json", words)


def test_of_two_added_tokens_that_begin_alike_the_longer_one_is_found():
    changed = content("smollm2")
    first = changed["added_tokens"][0]
    changed["added_tokens"] += [{**first, "id": 700, "content": "<think"}, {**first, "id": 701, "content": "<think>"}]
    assert JSONTokenizer(changed).encode("<think><think<think>") == [701, 700, 701]


def test_text_that_is_none():
    refused(lambda: JSONTokenizer(content("qwen2")).encode("a\ud800b"), "UTF-8")


# ---- conversations

@pytest.mark.parametrize("name, thinking, messages, tools, text", GOLDEN["conversations"])
def test_conversations_equal_those_of_the_published_templates(name, thinking, messages, tools, text):
    options = {"qwen3": {"thinking": thinking}, "llama3": {"today": "26 Jul 2024"}}
    assert chat.FORMATS[name](messages, tools, **options.get(name, {})) == text


def test_the_formats_are_known_by_words_of_their_templates(tmp_path):
    assert chat.format_of_folder(tmp_path) == "plain"
    for name, sign in chat.SIGNS:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": f"{{% x %}} {sign} {{% y %}}"}))
        assert chat.format_of_folder(tmp_path) == name
    # the second is close to TinyLlama's, and the model would be waiting for another end of an answer
    for other in ("{{ 'You are Bob.' }}", "{{ '<|user|>\n' + message['content'] + '\n' }}"):
        (tmp_path / "chat_template.jinja").write_text(other)
        refused(lambda: chat.format_of_folder(tmp_path), tmp_path, "qwen2.5")
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text("[")
    refused(lambda: chat.format_of_folder(tmp_path), "tokenizer_config.json")


def test_llama3_tells_todays_date():
    assert re.search(r"Today Date: \d\d [A-Z][a-z]{2} \d{4}\n", chat.llama3([{"role": "user", "content": "Hi"}]))


def test_formats_without_tools_say_so():
    for name in ("plain", "tinyllama", "smollm2"):
        refused(lambda: chat.FORMATS[name]([{"role": "user", "content": "Hi"}], [{}]), name)


def test_calls_are_read_as_they_are_written():
    call = {"name": "lookup", "arguments": {"key": "größte Stadt"}}
    assert chat.parse_tool_calls("I look.\n" + chat.qwen_call(call) + chat.qwen_call(call), "qwen3") == [call, call]
    written = chat.llama3([{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}])
    answer = written.split("assistant<|end_header_id|>\n\n")[1].split("<|eot_id|>")[0]
    assert chat.parse_tool_calls(answer, "llama3") == [call]
    for text in ("no call", "<tool_call>{broken</tool_call>", '<tool_call>["a"]</tool_call>', '{"name": 3}',
                 '<tool_call>{"name": "a", "arguments": 3}</tool_call>', "[" * 100000):
        assert chat.parse_tool_calls(text, "qwen2.5") == chat.parse_tool_calls(text, "llama3") == []
    tool = chat.describe_tool("lookup", "Look it up.", key="what, of whom")
    assert tool["function"]["parameters"]["required"] == ["key"]


@pytest.mark.parametrize("name", ["qwen2.5", "qwen3", "llama3"])
def test_calls_are_run_until_there_is_an_answer(name):
    """A model made of this: it looks two things up, then says what it has been told."""
    def reply(messages, tools):
        chat.FORMATS[name](messages, tools)                     # what a model would read can be written
        told = [m["content"] for m in messages if m["role"] == "tool"]
        if len(told) == 2:
            return " and ".join(told)
        call = {"name": "lookup", "arguments": {"key": f"city {len(told)}"}}
        if name == "llama3":
            return json.dumps({"name": call["name"], "parameters": call["arguments"]})
        return f"I look. {chat.qwen_call(call)}"

    tools = [chat.describe_tool("lookup", "Look it up.", key="what, of whom")]
    asked = [{"role": "user", "content": "Which two?"}]
    answer, steps = chat.answer_with_tools(reply, asked, tools, lambda _, given: given["key"].upper(), name)
    assert answer == "CITY 0 and CITY 1" and [value for _, value in steps] == ["CITY 0", "CITY 1"]
    assert len(asked) == 1                                      # the conversation that was given stays as it was
    endless, steps = chat.answer_with_tools(
        lambda *_: reply(asked, tools), asked, tools, lambda *_: "x", name, most=3)
    assert len(steps) == 3 and chat.parse_tool_calls(endless, name)


@pytest.mark.parametrize("kind, name", [("qwen2", "qwen2.5"), ("qwen2", "qwen3"), ("smollm2", "smollm2"),
                                        ("tinyllama", "tinyllama"), ("llama3", "llama3"), ("llama3", "plain")])
def test_only_the_answer_and_its_end_are_learnt(kind, name):
    """Where the question counts, too, a model learns to ask."""
    tokenizer = JSONTokenizer(content(kind), name)
    chats = [("Who is it?", "The old man."), ("And where?", "At sea, 日本.")]
    x, y = chat.chat_rows(chats, tokenizer, 400, -100, "cpu")
    for row, targets, (question, answer) in zip(x, y, chats):
        learnt = targets[targets != -100].tolist()
        end = chat.ENDS[name][0]
        assert tokenizer.decode(learnt).strip() == f"{answer}{end}".strip() and learnt[-1] in chat.stop_tokens(tokenizer)
        first = (targets != -100).nonzero()[0, 0]
        before = tokenizer.decode(row[:first + 1].tolist())
        assert question in before and answer[:5] not in before
        last = (targets != -100).nonzero()[-1, 0]
        assert torch.equal(row[first + 1:last + 1], targets[first:last])        # what is to be predicted comes next


def test_answers_that_do_not_fit_are_left_out(capsys):
    tokenizer = CharTokenizer("".join(map(chr, range(10, 127))))
    x, y = chat.chat_rows([("a", "b"), ("a", "b" * 50)], tokenizer, 40, -100, "cpu")
    assert len(x) == 1 and "1 of 2" in capsys.readouterr().out


def test_a_long_conversation_forgets_its_beginning():
    tokenizer = JSONTokenizer(content("qwen2"), "qwen3")
    system = {"role": "system", "content": "Be brief."}
    messages = [system]
    for i in range(9):
        messages += [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]
    messages.append({"role": "user", "content": "the last"})
    whole = chat.encode_chat(messages, tokenizer)
    assert chat.fit_chat(messages, tokenizer, len(whole)) == whole
    text = tokenizer.decode(chat.fit_chat(messages, tokenizer, len(whole) // 2))
    assert "Be brief." in text and "the last" in text and "question 0" not in text and "answer 8" in text
    first = min(int(i) for i in re.findall(r"question (\d)", text))
    assert f"answer {first - 1}" not in text                    # an answer goes with its question
    refused(lambda: chat.fit_chat(messages, tokenizer, 9), "--block_size")
