"""Makes llama_text.json: small tokenizers of four kinds and what they make of many texts; conversations in the
formats of five families.

Made with tokenizers 0.23.3 and transformers 5.24.0, both of Hugging Face (Apache 2.0):

    PYTHONPATH=. python tests/reference/make_llama_text.py FOLDER

FOLDER holds the chat templates of the published models, which are not ours to give: qwen2.5.jinja, qwen3.jinja,
llama3.jinja (of Llama 3.2), smollm2.jinja, tinyllama.jinja, each the "chat_template" of a tokenizer_config.json.

The four tokenizers have the stages of the published ones, with a small vocabulary trained on our tales and on the
texts below: `smollm2` (GPT-2's pattern, digits apart), `llama3` (its pattern, words that are tokens, a token that
begins), `qwen2` (its pattern, NFC), `tinyllama` (SentencePiece's BPE: characters and bytes, ▁ for a space).
"""
import json
import random
import sys
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mini.data.text.corpus import read_text
from mini.data.text.tokenizer_json import LLAMA3, QWEN
from tests.reference.make_tokenizer import texts

HERE = Path(__file__).parent
MORE = ["日本語とemoji 😀👩‍👩‍👧 mixed", "naïve café, Ångström, e\u0301 and \u1e9b\u0323", "x = [1, 22, 333, 4444]\n\treturn f'{x}'\r\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "a<s>b</s> c", "it's ŠHE'LL 'ſ 'S", "  leading   and trailing  ",
        "١٢٣ ⅷ ½ x²", "▁under_score▁ ▁▁", "\u2126 \uf900 한국어", "<0x41><0xZZ>", "é" * 40, "a b" * 60, "中" * 150, "\n\n\n  \n x", "a friend, xyz xyzz<|eot_id|>f <|eot_id|>"]
SPECIALS = {"smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]}


def split(pattern: str):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(name: str, text: str) -> dict:
    """The tokenizer.json of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    if name == "smollm2":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        tokenizer.pre_tokenizer = split(LLAMA3 if name == "llama3" else QWEN)
    if name == "qwen2":
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=480, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text], trainer)
    if name == "llama3":                    # words that no merges make, as its published vocabulary has
        content = json.loads(tokenizer.to_str())
        vocab = content["model"]["vocab"]
        for word in ("Ġfriend", "xyz"):
            vocab.setdefault(word, len(vocab))
        tokenizer = Tokenizer.from_str(json.dumps(content))
    special = [token for token in SPECIALS[name] if token != "<tool_call>"]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([token for token in SPECIALS[name] if token not in special])
    if name == "llama3":
        bos = "<|begin_of_text|>"
        tokenizer.post_processor = tokenizers.processors.Sequence([
            tokenizers.processors.ByteLevel(trim_offsets=False),
            tokenizers.processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return json.loads(tokenizer.to_str())


def sentencepiece(text: str) -> dict:
    """The tokenizer.json of a BPE of characters, as converted from SentencePiece's files."""
    trained = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, limit_alphabet=90)
    trained.train_from_iterator(text.replace(" ", "▁").split("\n"), trainer)
    learnt = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *learnt["vocab"]]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    added = [dict(id=i, content=token, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
             for i, token in enumerate(tokens[:3])]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": [" ".join(pair) for pair in learnt["merges"]]}}


TOOL = {"type": "function", "function": {
    "name": "lookup", "description": "Look a fact up: \"capital of France\".", "parameters": {
        "type": "object", "properties": {"key": {"type": "string", "description": "what, of whom — é"}}, "required": ["key"]}}}
CALL = {"name": "lookup", "arguments": {"key": "größte Stadt of Peru"}}
ASKED = {"role": "user", "content": "What is the largest city of Peru?"}
CONVERSATIONS = {
    "one question": [ASKED],
    "a system message": [{"role": "system", "content": "Answer in one word."}, ASKED],
    "a long one": [{"role": "system", "content": " Be kind. \n"}, {"role": "user", "content": "Hi  "},
                   {"role": "assistant", "content": "Hello!"}, ASKED],
    "a thought": [{"role": "user", "content": "Hi"},
                  {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello!"}, ASKED],
    "a tool": [ASKED],
    "a tool and a system message": [{"role": "system", "content": "Be brief."}, ASKED],
    "a tool was called": [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]},
                          {"role": "tool", "content": "Lima"}],
    "two tools were called": [ASKED, {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL]},
                              {"role": "tool", "content": "Lima"}, {"role": "tool", "content": "Lima!"}],
    "a thought before a call": [ASKED, {"role": "assistant", "content": "<think>\nLook.\n</think>\n\nSo:", "tool_calls": [CALL]},
                                {"role": "tool", "content": "Lima"}],
}


def conversations(folder: str) -> list:
    """[[format, thinking, messages, tools, text], …]"""
    rows = []
    for name in ("qwen2.5", "qwen3", "llama3", "smollm2", "tinyllama"):
        template = Path(folder, f"{name}.jinja").read_text("utf-8")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<|begin_of_text|>",
                                            eos_token="</s>")
        for title, messages in CONVERSATIONS.items():
            tools = [TOOL] if "tool" in title or "call" in title else None
            if tools and name in ("smollm2", "tinyllama") or name == "llama3" and "two tools" in title:
                continue
            if "thought" in title and name != "qwen3":
                continue
            theirs = [{**m, "tool_calls": [{"type": "function", "function": call} for call in m["tool_calls"]]}
                      if "tool_calls" in m else m for m in messages]
            for thinking in (False, True) if name == "qwen3" else (False,):
                text = tokenizer.apply_chat_template(
                    theirs, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=True,
                    enable_thinking=thinking, date_string="26 Jul 2024")
                rows.append([name, thinking, messages, tools, text])
    return rows


def main():
    text = read_text("tales")[:100_000] + "\n".join(MORE) + "def f(x):\n    return 12345\n" * 9
    golden = {"tokenizers": {name: byte_level(name, text) for name in SPECIALS}}
    golden["tokenizers"]["tinyllama"] = sentencepiece(text)
    golden["texts"] = [*MORE, *random.Random(0).sample(texts(), 150)]
    golden["ids"] = {}
    golden["decoded"] = {}
    for name, content in golden["tokenizers"].items():
        tokenizer = Tokenizer.from_str(json.dumps(content))
        ids = [tokenizer.encode(one, add_special_tokens=False).ids for one in golden["texts"]]
        golden["ids"][name] = ids
        golden["decoded"][name] = [tokenizer.decode(one, skip_special_tokens=False) for one in ids]
    for name, decoded in golden["decoded"].items():         # only where it is not the text again
        golden["decoded"][name] = {i: one for i, (one, was) in enumerate(zip(decoded, golden["texts"])) if one != was}
    golden["conversations"] = conversations(sys.argv[1])
    (HERE / "llama_text.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n", "ascii")


if __name__ == "__main__":
    main()
